"""Mirror symmetry of TapeCut, which turns every episode into a second one.

The task is symmetric about the plane y = 0. Mirroring swaps left and right cuts, and the first and the ring finger. The
mirror image of the hand is a left hand; turned by pi about the vertical it is the same hand again, so a plain grasp
becomes a turned one. Only the scissors break the symmetry, by the 1.5 mm between their halves.

With R the palm's rotation (yaw, pitch, roll), M = diag(1, -1, 1) and S = diag(-1, 1, 1), the image is M R S: yaw
becomes pi - yaw, pitch changes its sign, and roll stays the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softflow.envs.tape_cut.observation import OBSERVATION_SIZE, OBSERVATION_SLICES

Array = NDArray[np.float32]
Trajectory = tuple[Array, Array]

WORLD = (1, -1, 1)  # vector in the world frame
PALM = (-1, 1, 1)  # vector in the palm frame
SCISSORS = (1, -1, 1)  # vector in the scissors' frame: along, lateral, normal
WRIST = (1, -1, 1, -1, -1, 1)  # x, y, z, yaw, pitch, roll
HAND = (-1, 1, 1, 1, 1, 1, 1, 1, 1)  # thumb: abduction and two joints; first, middle, ring finger: two joints each
HAND_ORDER = (0, 1, 2, 7, 8, 5, 6, 3, 4)
TOUCH_ORDER = (0, 3, 2, 1)

# Signs that a block's numbers are multiplied by; blocks that are not listed keep their signs.
SIGNS = {
    "wrist_position": WRIST,
    "wrist_velocity": WRIST,
    "wrist_target_lead": WRIST,
    "hand_position": HAND,
    "hand_velocity": HAND,
    "hand_target": HAND,
    "grip_from_hand": PALM,
    "heading_in_palm": PALM,
    "normal_in_palm": PALM,
    "pivot": WORLD,
    "heading": WORLD,
    "normal": WORLD,
    "scissors_velocity": (1, -1, 1, -1, 1, -1),  # the angular part is an axial vector
    "seam_in_scissors": SCISSORS,
    "ribbon_across": (-1, 1, -1),
    "seam": WORLD,
    "fixture": (1, -1, 1, -1),
    "case": (1, -1, -1),
    "yaw_from_scissors": (1, -1, -1, 1),
    "yaw_from_fixture": (-1, 1),
    "yaw": (1, -1),
    "grip_offset_coarse": WORLD,
    "grip_offset_fine": WORLD,
    "grip_lead_coarse": WORLD,
    "grip_lead_fine": WORLD,
    "seam_offset_coarse": WORLD,
    "seam_offset_fine": WORLD,
    "left_cut_coarse": WORLD,
    "left_cut_fine": WORLD,
    "right_cut_coarse": WORLD,
    "right_cut_fine": WORLD,
    "seam_in_fixture_coarse": (1, -1),
    "seam_in_fixture_fine": (1, -1),
    "seam_from_blades_coarse": SCISSORS,
    "seam_from_blades_fine": SCISSORS,
}
# ORDERS permutes the numbers within a block; PARTNERS swaps two blocks.
ORDERS = {
    "hand_position": HAND_ORDER,
    "hand_velocity": HAND_ORDER,
    "hand_target": HAND_ORDER,
    "touch": TOUCH_ORDER,
    "touch_fine": TOUCH_ORDER,
}
PARTNERS = {"left_cut_coarse": "right_cut_coarse", "left_cut_fine": "right_cut_fine"}

ACTION_SIGN = np.array(WRIST + HAND, np.float32)
ACTION_ORDER = np.array((*range(6), *(6 + i for i in HAND_ORDER)))


def _observation_map() -> tuple[NDArray[np.int64], Array]:
    order, sign = np.arange(OBSERVATION_SIZE), np.ones(OBSERVATION_SIZE, np.float32)
    for name, signs in SIGNS.items():
        sign[OBSERVATION_SLICES[name]] = signs
    for name, within in ORDERS.items():
        order[OBSERVATION_SLICES[name]] = order[OBSERVATION_SLICES[name]][list(within)]
    for left, right in PARTNERS.items():
        order[OBSERVATION_SLICES[left]], order[OBSERVATION_SLICES[right]] = (
            order[OBSERVATION_SLICES[right]].copy(),
            order[OBSERVATION_SLICES[left]].copy(),
        )
    return order, sign


OBSERVATION_ORDER, OBSERVATION_SIGN = _observation_map()


def mirror_observations(observation: Array, half_turns: int) -> Array:
    """Mirror observations (..., O); the new yaw is half_turns * pi minus the yaw, with an odd half_turns."""
    image = observation[..., OBSERVATION_ORDER] * OBSERVATION_SIGN
    image[..., OBSERVATION_SLICES["wrist_position"].start + 3] += np.float32(half_turns * np.pi)
    return image


def mirror_actions(action: Array) -> Array:
    """Mirror actions (..., 15); mirroring twice gives the original."""
    return action[..., ACTION_ORDER] * ACTION_SIGN


def find_tape_cut_mirror(hand: str = "compact", **options: Any) -> Callable[[Array, Array], Trajectory] | None:
    """Return ``mirror_trajectory`` for the compact hand; None for others, whose mirror image is a different hand."""
    return mirror_trajectory if hand == "compact" else None


def mirror_trajectory(observation: Array, action: Array) -> Trajectory:
    """Mirror an episode, observations (T + 1, O) and actions (N, 15), executed or only proposed.

    The mirrored yaw is offset by pi or by -pi, whichever the wrist's range has room for. The sign follows the yaw at
    which the original was lifted; if that grasp was plain, it follows the final yaw of the blades.

    Raises:
        ValueError: The sizes are those of another environment.
    """
    sizes, expected = (observation.shape[-1], action.shape[-1]), (len(OBSERVATION_ORDER), len(ACTION_ORDER))
    if sizes != expected:
        raise ValueError(f"observations and actions of {sizes} numbers, those of tape_cut have {expected}")
    yaw = observation[:, OBSERVATION_SLICES["wrist_position"].start + 3]
    lifted = np.flatnonzero(observation[:, OBSERVATION_SLICES["lifted"].start] > 0)
    half_turns = round(float(yaw[lifted[0] if len(lifted) else -1]) / np.pi)
    if half_turns not in (-1, 1):
        half_turns = 1 if observation[-1, OBSERVATION_SLICES["yaw_from_fixture"].start] > 0 else -1
    return mirror_observations(observation, half_turns), mirror_actions(action)
