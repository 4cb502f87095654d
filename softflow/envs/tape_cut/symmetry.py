"""TapeCut seen in a mirror: a second episode for every one.

The task has a mirror image in the plane y = 0: case and fixture keep their kind, left and right cuts change places,
and so do the first and the ring finger. The hand's image is a left hand; turned by pi about the vertical it is the
same hand again, so a plain grasp becomes a turned one. Only the scissors break the symmetry, by the millimetre and a
half between their halves.

With R the palm's rotation (yaw, pitch, roll), M = diag(1, -1, 1) and S = diag(-1, 1, 1), the image is M R S: yaw
becomes pi - yaw, pitch its negative, roll stays.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softflow.envs.tape_cut.observation import OBSERVATION_SIZE, OBSERVATION_SLICES

Array = NDArray[np.float32]
Trajectory = tuple[Array, Array]

WORLD = (1, -1, 1)  # a vector in the world frame
PALM = (-1, 1, 1)  # in the palm frame
SCISSORS = (1, -1, 1)  # in the scissors' frame: along, lateral, normal
WRIST = (1, -1, 1, -1, -1, 1)  # x, y, z, yaw, pitch, roll
HAND = (-1, 1, 1, 1, 1, 1, 1, 1, 1)  # thumb's abduction and two joints, two joints of first, middle and ring finger
HAND_ORDER = (0, 1, 2, 7, 8, 5, 6, 3, 4)
TOUCH_ORDER = (0, 3, 2, 1)

# Sign of each number of a block in the image; blocks that are not named keep theirs.
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
# Blocks whose numbers change places, and blocks that change places with each other.
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
    """The image of observations (..., O); the image's yaw is half_turns * pi minus the yaw, half_turns odd."""
    image = observation[..., OBSERVATION_ORDER] * OBSERVATION_SIGN
    image[..., OBSERVATION_SLICES["wrist_position"].start + 3] += np.float32(half_turns * np.pi)
    return image


def mirror_actions(action: Array) -> Array:
    """The image of actions (..., 15); an involution."""
    return action[..., ACTION_ORDER] * ACTION_SIGN


def find_tape_cut_mirror(hand: str = "compact", **options: Any) -> Callable[[Array, Array], Trajectory] | None:
    """``mirror_trajectory`` with the compact hand; any other is a right hand, whose image is none that is there."""
    return mirror_trajectory if hand == "compact" else None


def mirror_trajectory(observation: Array, action: Array) -> Trajectory:
    """The image of an episode, (T + 1, O) and (T, 15).

    Of the two turns by pi the image's hand takes the one that the wrist's range leaves room for: it starts from where
    the original has turned to, or if that grasp was plain, from the side that the blades are turned to in the end.

    Raises:
        ValueError: other sizes, so an episode of another environment.
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
