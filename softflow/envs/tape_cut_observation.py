"""What a policy sees of TapeCut: 97 numbers in named blocks."""

from __future__ import annotations

from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from softflow.envs.tape_cut_geometry import TapeCutGeometry
from softflow.envs.tape_cut_scene import HAND, WRIST, Array, TapeCutScene

Observation = NDArray[np.float32]

# Name and size of each block, in order.  SI units times the factor in the comment; world frame unless said otherwise.
OBSERVATION_BLOCKS = (
    ("wrist_position", 6),  # x, y, z, yaw, pitch, roll
    ("wrist_velocity", 6),
    ("hand_position", 9),  # order of HAND_JOINTS
    ("hand_velocity", 9),  # x 0.1
    ("wrist_target_lead", 6),  # target minus position
    ("hand_target", 9),
    ("touch", 4),  # force of thumb, first, middle, ring on the scissors, at most 10 N, x 0.2
    ("grip_from_hand", 3),  # from between the pads to between the handles, palm frame, x 10
    ("heading_in_palm", 3),  # scissors' axis along the blades, palm frame
    ("normal_in_palm", 3),  # normal of the blades' plane, palm frame
    ("pivot", 3),
    ("heading", 3),
    ("normal", 3),
    ("scissors_velocity", 6),  # linear (world), angular (body frame of half a), x 0.2
    ("opening", 1),  # angle between the blades
    ("opening_rate", 1),  # x 0.2
    ("seam_in_scissors", 3),  # scissors' frame, x 5
    ("ribbon_across", 3),  # unit vector across the ribbon, scissors' frame
    ("seam", 3),
    ("fixture", 4),  # x, y, z, yaw
    ("case", 3),  # x, y, yaw
    ("grasped", 1),  # 0 or 1, now
    ("lifted", 1),  # 0 or 1, now
    ("between_blades", 1),  # 0 or 1, now: the ribbon
    ("cut", 1),  # 0 or 1
    ("pinch", 1),  # force of the blades on the ribbon, at most 5 N, x 0.2
    ("time", 1),  # steps taken over max_steps
)
_ENDS = accumulate(size for _, size in OBSERVATION_BLOCKS)
OBSERVATION_SLICES = {name: slice(end - size, end) for (name, size), end in zip(OBSERVATION_BLOCKS, _ENDS, strict=True)}
OBSERVATION_SIZE = sum(size for _, size in OBSERVATION_BLOCKS)


def observe(
    scene: TapeCutScene,
    geometry: TapeCutGeometry,
    *,
    targets: Array,
    fixture: Array,
    case: Array,
    grasped: bool,
    lifted: bool,
    cut: bool,
    time: float,
) -> Observation:
    """The observation (97,) of a scene measured as ``geometry``; the other arguments are as the blocks say.

    ``targets`` (15,) are those of the wrist (6,) and the fingers (9,).
    """
    palm = scene.rotation["palm"]
    heading, _, normal = geometry.axes
    values: dict[str, Array | float] = {
        "wrist_position": scene.wrist_position,
        "wrist_velocity": scene.wrist_velocity,
        "hand_position": scene.data.qpos[scene.hand_qpos],
        "hand_velocity": scene.data.qvel[scene.hand_dof] * 0.1,
        "wrist_target_lead": targets[WRIST] - scene.wrist_position,
        "hand_target": targets[HAND],
        "touch": np.minimum(geometry.touch, 10) * 0.2,
        "grip_from_hand": (geometry.grip_point - geometry.hand_point) @ palm * 10,
        "heading_in_palm": heading @ palm,
        "normal_in_palm": normal @ palm,
        "pivot": geometry.pivot,
        "heading": heading,
        "normal": normal,
        "scissors_velocity": scene.scissors_velocity * 0.2,
        "opening": geometry.opening,
        "opening_rate": geometry.opening_rate * 0.2,
        "seam_in_scissors": geometry.seam_in_scissors * 5,
        "ribbon_across": geometry.ribbon_across,
        "seam": geometry.seam,
        "fixture": fixture,
        "case": case,
        "grasped": grasped,
        "lifted": lifted,
        "between_blades": geometry.between_blades,
        "cut": cut,
        "pinch": min(geometry.pinch, 5) * 0.2,
        "time": time,
    }
    observation = np.empty(OBSERVATION_SIZE, np.float32)
    for name, block in OBSERVATION_SLICES.items():
        observation[block] = values[name]
    return observation
