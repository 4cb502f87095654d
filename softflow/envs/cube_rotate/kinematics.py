"""Fingertip targets of CubeRotate's hand, and inverse kinematics of its joints."""

from __future__ import annotations

import math

import mujoco
import numpy as np

from softflow.envs.simulation import Array

FINGERS = ("thumb", "index", "middle", "ring")
JOINTS = ("abduction", "proximal", "distal")  # of each finger
FACE_AZIMUTHS = np.radians([180.0, 90.0, 0.0, -90.0])  # azimuth of each finger's face when the cube's yaw is 0
MAX_REACH = 0.999  # share of a finger's length


class HandKinematics:
    """Inverse kinematics of four fingers with three hinges each, in the palm's frame.

    Args:
        model: The compiled ``scene.xml``, which contains the lengths and positions of the fingers.
    """

    def __init__(self, model: mujoco.MjModel) -> None:
        self._bases = []
        for finger in FINGERS:
            base = model.body(f"{finger}_base")
            (x, y, _), (cosine, _, _, sine) = base.pos, base.quat  # turned about the vertical
            self._bases.append((float(x), float(y), 2 * math.atan2(sine, cosine)))
        self.upper_length = -float(model.body("thumb_distal").pos[2])
        self.lower_length = -float(model.site("thumb_tip").pos[2])

    def joint_angles(self, tips: Array) -> Array:
        """Return joint angles (12,) for fingertip centres at ``tips`` (4, 3), in the order of ``FINGERS``.

        If a target is out of reach, the finger stretches in its direction. Joint limits are ignored.
        """
        angles = [self._finger_angles(*base, *tip) for base, tip in zip(self._bases, tips.tolist(), strict=True)]
        return np.array(angles).ravel()

    def _finger_angles(
        self, base_x: float, base_y: float, azimuth: float, x: float, y: float, z: float
    ) -> tuple[float, float, float]:
        cosine, sine = math.cos(azimuth), math.sin(azimuth)
        outward = cosine * (x - base_x) + sine * (y - base_y)
        sideways = cosine * (y - base_y) - sine * (x - base_x)
        abduction = math.atan2(sideways, -z)
        depth = math.hypot(sideways, z)  # of the tip below the base, in the plane in which the finger bends
        upper, lower = self.upper_length, self.lower_length
        distance = min(math.hypot(outward, depth), MAX_REACH * (upper + lower))
        distal = math.pi - _angle(upper, lower, opposite=distance)
        proximal = math.atan2(outward, depth) + _angle(upper, distance, opposite=lower)
        return abduction, proximal, distal


def tips_around(centre: Array, azimuth: Array | float, radius: Array | float, height: Array | float) -> Array:
    """Return fingertips (4, 3) at ``azimuth`` rad from their ``FACE_AZIMUTHS`` and ``radius`` m from ``centre``.

    The arguments may differ between the fingers: ``centre`` is (2,) or (4, 2), the others are a number or (4,).
    """
    tips = np.empty((len(FINGERS), 3))
    angle = FACE_AZIMUTHS + azimuth
    tips[:, 0] = centre[..., 0] + radius * np.cos(angle)
    tips[:, 1] = centre[..., 1] + radius * np.sin(angle)
    tips[:, 2] = height
    return tips


def _angle(a: float, b: float, *, opposite: float) -> float:
    """Return the angle between the sides a and b of a triangle."""
    cosine = (a * a + b * b - opposite * opposite) / (2 * a * b)
    return math.acos(max(-1.0, min(1.0, cosine)))
