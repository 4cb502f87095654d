"""Interface between TapeCut and a hand, and the compact hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import mujoco
import numpy as np

from softflow.envs.simulation import Array

FINGER_LENGTH, FINGER_ROOT, PAD_RADIUS = 0.045, 0.020, 0.0075  # m, dimensions of the compact hand
PAD_TILT = 0.1  # rad inwards


@dataclass(frozen=True)
class Hand:
    """A hand with thumb, first, middle and ring finger and J joints, attached to the body ``palm``.

    It pinches objects at the site ``grip``, with the thumb at -y and the fingers at +y.
    """

    joints: tuple[str, ...]
    """Names of the joints, in the order of actions, targets and observations."""
    pads: tuple[str, ...]
    """Names of the geoms that hold the scissors."""
    open_pose: Array
    """Joint angles (J,) in rad at the start of an episode."""
    pinch: Callable[[float], Array]
    """Maps a distance in m to joint targets (J,) in rad that hold the pads this far from the palm's mid plane."""
    mount: Callable[[mujoco.MjSpec], None]
    """Attaches the hand to the palm of the scene in ``scene.xml``."""


def compact_pinch(width: float) -> Array:
    """Return joint targets (9,) for pads ``width`` m from the palm's mid plane and nearly vertical last links."""
    base = -np.arcsin(np.clip((width + PAD_RADIUS - FINGER_ROOT) / FINGER_LENGTH, -1, 1))
    return np.array([0.0, *(base, PAD_TILT - base) * 4])


COMPACT_HAND = Hand(
    joints=(
        "thumb_abd", "thumb_mcp", "thumb_ip",
        "first_mcp", "first_pip", "middle_mcp", "middle_pip", "ring_mcp", "ring_pip",
    ),
    pads=("thumb_pad_left", "thumb_pad_right", "first_pad", "middle_pad", "ring_pad"),
    open_pose=np.array([0.0, -0.5, 0.5, -0.5, 0.5, -0.5, 0.5, -0.5, 0.5]),
    pinch=compact_pinch,
    mount=lambda scene: None,  # scene.xml already contains this hand
)  # fmt: skip
