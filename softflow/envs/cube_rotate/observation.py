"""CubeRotate's observation, a vector of named blocks."""

from __future__ import annotations

import math
from itertools import accumulate

import numpy as np

from softflow.envs.cube_rotate.scene import CubeRotateScene
from softflow.envs.simulation import Observation

MAX_TOUCH = 10.0  # N

# Name, size and factor of each block, in order. Values are in SI units times the factor, and in the world frame unless
# stated otherwise. Fingers are in the order of FINGERS, and each finger's joints in the order of JOINTS.
OBSERVATION_BLOCKS = (
    ("joint_position", 12, 1.0),  # relative to the nominal pose
    ("joint_velocity", 12, 0.1),
    ("joint_target", 12, 1.0),  # relative to the nominal pose
    ("cube_position", 3, 20.0),  # relative to its home position under the palm
    ("cube_z_axis", 3, 1.0),  # unit vector, which points up when the cube is upright
    ("cube_velocity", 3, 2.0),
    ("cube_spin", 3, 0.2),  # angular velocity
    ("tips", 12, 20.0),  # relative to the cube's centre
    ("touch", 4, 0.2),  # force on the rubber of each finger, clipped at MAX_TOUCH
    ("quarter_turn", 2, 1.0),  # cos and sin of four times the cube's yaw, the same for all four sides
)
_ENDS = accumulate(size for _, size, _ in OBSERVATION_BLOCKS)
OBSERVATION_SLICES = {
    name: slice(end - size, end) for (name, size, _), end in zip(OBSERVATION_BLOCKS, _ENDS, strict=True)
}
OBSERVATION_SIZE = sum(size for _, size, _ in OBSERVATION_BLOCKS)
_FACTORS = np.repeat([factor for *_, factor in OBSERVATION_BLOCKS], [size for _, size, _ in OBSERVATION_BLOCKS])


def observe(scene: CubeRotateScene, yaw: float) -> Observation:
    """Return the observation (O,) of a scene in which the cube's yaw is ``yaw``."""
    values = {
        "joint_position": scene.joint_position - scene.nominal_pose,
        "joint_velocity": scene.joint_velocity,
        "joint_target": scene.targets - scene.nominal_pose,
        "cube_position": scene.cube_position - scene.cube_home,
        "cube_z_axis": scene.cube_rotation[:, 2],
        "cube_velocity": scene.cube_velocity,
        "cube_spin": scene.cube_rotation @ scene.cube_spin,
        "tips": scene.tips_from_cube.ravel(),
        "touch": np.minimum(scene.touch, MAX_TOUCH),
        "quarter_turn": (math.cos(4 * yaw), math.sin(4 * yaw)),
    }
    observation = np.empty(OBSERVATION_SIZE)
    for name, value in values.items():
        observation[OBSERVATION_SLICES[name]] = value
    return (observation * _FACTORS).astype(np.float32)
