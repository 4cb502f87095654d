"""TapeCut's observation, a vector of named blocks.

The last blocks repeat the quantities that decide success (hand to grips, blades to ribbon) as displacements in the
world frame, in which the wrist is commanded, squashed on a fine scale. One centimetre decides whether the ribbon is
cut, but it is hardly visible in standardised numbers that span half a metre.
"""

from __future__ import annotations

import math
from functools import cache
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from softflow.envs.simulation import Array, Observation
from softflow.envs.tape_cut.geometry import TapeCutGeometry
from softflow.envs.tape_cut.scene import HAND, WRIST, TapeCutScene

# Name, size and factor of each block, in order. Values are in SI units times the factor, and in the world frame unless
# stated otherwise. HAND_BLOCKS have one number per joint of the hand; the sizes here are those of the compact hand.
HAND_BLOCKS = ("hand_position", "hand_velocity", "hand_target")
OBSERVATION_BLOCKS = (
    ("wrist_position", 6, 1.0),  # x, y, z, yaw, pitch, roll
    ("wrist_velocity", 6, 1.0),
    ("hand_position", 9, 1.0),  # in the order of Hand.joints
    ("hand_velocity", 9, 0.1),
    ("wrist_target_lead", 6, 1.0),  # target minus position
    ("hand_target", 9, 1.0),
    ("touch", 4, 0.2),  # forces of thumb, first, middle, ring on the scissors, clipped at MAX_TOUCH
    ("grip_from_hand", 3, 10.0),  # from the point between the pads to the point between the handles, palm frame
    ("heading_in_palm", 3, 1.0),  # scissors' axis along the blades, palm frame
    ("normal_in_palm", 3, 1.0),  # normal of the blades' plane, palm frame
    ("pivot", 3, 1.0),
    ("heading", 3, 1.0),
    ("normal", 3, 1.0),
    ("scissors_velocity", 6, 0.2),  # linear (world), angular (body frame of half a)
    ("opening", 1, 1.0),  # angle between the blades
    ("opening_rate", 1, 0.2),
    ("seam_in_scissors", 3, 5.0),  # scissors' frame
    ("ribbon_across", 3, 1.0),  # unit vector across the ribbon, scissors' frame
    ("seam", 3, 1.0),
    ("fixture", 4, 1.0),  # x, y, z, yaw
    ("case", 3, 1.0),  # x, y, yaw
    ("grasped", 1, 1.0),  # 0 or 1, in the current state
    ("lifted", 1, 1.0),  # 0 or 1, in the current state
    ("between_blades", 1, 1.0),  # 0 or 1, in the current state: whether the ribbon is between the blades
    ("armed", 1, 1.0),  # 0 or 1: the ribbon has been between open jaws and has not left them since
    ("cut", 1, 1.0),  # 0 or 1
    ("pinch", 1, 0.2),  # force of the blades on the ribbon, clipped at MAX_PINCH
    ("yaw_from_scissors", 4, 1.0),  # yaw of the hand: sin, cos, and sin, cos of twice the angle
    ("yaw_from_fixture", 2, 1.0),  # yaw of the scissors: sin, cos
    ("yaw", 2, 1.0),  # yaw of the hand: sin, cos
)
# Name, size and scale of further blocks, each tanh(value / scale).
FINE_BLOCKS = (
    ("grip_offset_coarse", 3, 0.1),  # m, hand to grips, world frame
    ("grip_offset_fine", 3, 0.02),
    ("grip_lead_coarse", 3, 0.1),  # m, as before, but from the hand's position at the wrist's target
    ("grip_lead_fine", 3, 0.02),
    ("seam_offset_coarse", 3, 0.3),  # m, pivot to seam, world frame
    ("seam_offset_fine", 3, 0.1),
    ("left_cut_coarse", 3, 0.1),  # m, pivot to its position for a cut from the left: blades square to the ribbon,
    ("left_cut_fine", 3, 0.02),  # with their middle at the seam
    ("right_cut_coarse", 3, 0.1),  # m, pivot to its position for a cut from the right
    ("right_cut_fine", 3, 0.02),
    ("seam_in_fixture_coarse", 2, 0.1),  # m, pivot to seam, fixture frame: square to the ribbon, across it
    ("seam_in_fixture_fine", 2, 0.01),
    ("seam_from_blades_coarse", 3, 0.05),  # m, from the blades' middle, scissors' frame: along, lateral, normal
    ("seam_from_blades_fine", 3, 0.01),
    ("yaw_from_scissors_fine", 1, 0.1),  # sin of the hand's yaw
    ("yaw_from_fixture_fine", 1, 0.15),  # cos of the scissors' yaw: 0 is square to the ribbon
    ("pitch_fine", 1, 0.1),  # vertical component of the heading
    ("lift_fine", 1, 0.02),  # m, height of the pivot above its position in the case
    ("touch_fine", 4, 0.25),  # N, forces of thumb, first, middle, ring
)
# Blocks that the hand's own sensors provide: the proprioception next to the camera images.
FELT_BLOCKS = (
    "wrist_position", "wrist_velocity", "hand_position", "hand_velocity", "wrist_target_lead", "hand_target",
    "touch", "touch_fine", "yaw",
)  # fmt: skip

_FINE_SCALES = np.repeat([scale for *_, scale in FINE_BLOCKS], [size for _, size, _ in FINE_BLOCKS])


def _sizes(joints: int) -> dict[str, int]:
    return {name: joints if name in HAND_BLOCKS else size for name, size, _ in OBSERVATION_BLOCKS + FINE_BLOCKS}


def observation_slices(joints: int) -> dict[str, slice]:
    """Return the slice of each block in the observation for a hand with this number of joints."""
    sizes = _sizes(joints)
    ends = accumulate(sizes.values())
    return {name: slice(end - size, end) for (name, size), end in zip(sizes.items(), ends, strict=True)}


def observation_size(joints: int) -> int:
    """Return O, the length of an observation, for a hand with this number of joints."""
    return sum(_sizes(joints).values())


@cache
def _factors(joints: int) -> Array:
    sizes = _sizes(joints)
    return np.concatenate([np.full(sizes[name], factor) for name, _, factor in OBSERVATION_BLOCKS])


def felt(joints: int) -> NDArray[np.intp]:
    """Return the indices of `FELT_BLOCKS` in the observation for a hand with this number of joints."""
    numbers, slices = np.arange(observation_size(joints)), observation_slices(joints)
    return np.concatenate([numbers[slices[name]] for name in FELT_BLOCKS])


OBSERVATION_SLICES, OBSERVATION_SIZE = observation_slices(9), observation_size(9)  # for the compact hand

MAX_TOUCH, MAX_PINCH = 10.0, 5.0  # N, at which observed forces are clipped
BLADE_MIDDLE = 0.047  # m from the pivot, the best point of the blades for a cut


def observe(
    scene: TapeCutScene,
    geometry: TapeCutGeometry,
    *,
    targets: Array,
    fixture: Array,
    case: Array,
    grasped: bool,
    lifted: bool,
    armed: bool,
    cut: bool,
) -> Observation:
    """Return the observation (O,) of a scene with the measured ``geometry``; other arguments are named after blocks.

    ``targets`` (6 + J,) are the targets of the wrist (6,) and the fingers (J,).
    """
    palm = scene.rotation["palm"]
    heading, _, normal = geometry.axes
    scissors_yaw = math.atan2(heading[1], heading[0])
    yaw = float(scene.wrist_position[3])
    grip_yaw, cut_yaw = yaw - scissors_yaw, scissors_yaw - float(fixture[3])
    grip_offset = geometry.grip_point - geometry.hand_point
    lead = targets[WRIST] - scene.wrist_position
    touch = geometry.touch.tolist()
    # Lists, because concatenating so many small arrays takes several times as long.
    values = {
        "wrist_position": scene.wrist_position.tolist(),
        "wrist_velocity": scene.wrist_velocity.tolist(),
        "hand_position": scene.data.qpos[scene.hand_qpos].tolist(),
        "hand_velocity": scene.data.qvel[scene.hand_dof].tolist(),
        "wrist_target_lead": lead.tolist(),
        "hand_target": targets[HAND].tolist(),
        "touch": [min(force, MAX_TOUCH) for force in touch],
        "grip_from_hand": (grip_offset @ palm).tolist(),
        "heading_in_palm": (heading @ palm).tolist(),
        "normal_in_palm": (normal @ palm).tolist(),
        "pivot": geometry.pivot.tolist(),
        "heading": heading.tolist(),
        "normal": normal.tolist(),
        "scissors_velocity": scene.scissors_velocity.tolist(),
        "opening": [geometry.opening],
        "opening_rate": [geometry.opening_rate],
        "seam_in_scissors": geometry.seam_in_scissors.tolist(),
        "ribbon_across": geometry.ribbon_across.tolist(),
        "seam": geometry.seam.tolist(),
        "fixture": fixture.tolist(),
        "case": case.tolist(),
        "grasped": [grasped],
        "lifted": [lifted],
        "between_blades": [geometry.between_blades],
        "armed": [armed],
        "cut": [cut],
        "pinch": [min(geometry.pinch, MAX_PINCH)],
        "yaw_from_scissors": [math.sin(grip_yaw), math.cos(grip_yaw), math.sin(2 * grip_yaw), math.cos(2 * grip_yaw)],
        "yaw_from_fixture": [math.sin(cut_yaw), math.cos(cut_yaw)],
        "yaw": [math.sin(yaw), math.cos(yaw)],
    }
    x, y, z = (geometry.seam - geometry.pivot).tolist()
    cos, sin = math.cos(fixture[3]), math.sin(fixture[3])
    cut_x, cut_y = -BLADE_MIDDLE * sin, BLADE_MIDDLE * cos  # from the seam, across the ribbon
    along, lateral, off_plane = values["seam_in_scissors"]
    pairs = (
        grip_offset.tolist(),
        (grip_offset - lead[:3]).tolist(),
        [x, y, z],
        [x - cut_x, y - cut_y, z],
        [x + cut_x, y + cut_y, z],
        [cos * x + sin * y, cos * y - sin * x],
        [along - BLADE_MIDDLE, lateral, off_plane],
    )
    lift = values["pivot"][2] - scene.rest_height
    fine = [number for pair in pairs for number in pair + pair]
    fine += [math.sin(grip_yaw), math.cos(cut_yaw), values["heading"][2], lift, *touch]
    exact = np.array([number for value in values.values() for number in value])
    exact *= _factors(len(scene.hand.joints))
    return np.concatenate([exact, np.tanh(np.array(fine) / _FINE_SCALES)]).astype(np.float32)
