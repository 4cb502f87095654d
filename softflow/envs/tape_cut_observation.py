"""What a policy sees of TapeCut: numbers in named blocks.

The last blocks repeat what decides success (is the hand at the grips, are the blades at the ribbon) as displacements
in the world frame, in which the wrist is commanded, squashed on a fine scale. A centimetre makes the difference
between a cut and none, but is lost among standardised numbers that span half a metre.
"""

from __future__ import annotations

import math
from itertools import accumulate

import numpy as np

from softflow.envs.simulation import Array, Observation
from softflow.envs.tape_cut_geometry import TapeCutGeometry
from softflow.envs.tape_cut_scene import HAND, WRIST, TapeCutScene

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
    ("armed", 1),  # 0 or 1: the ribbon has been between open jaws and has not left them since
    ("cut", 1),  # 0 or 1
    ("pinch", 1),  # force of the blades on the ribbon, at most 5 N, x 0.2
    ("yaw_from_scissors", 4),  # the hand's: sin, cos, sin and cos of twice it
    ("yaw_from_fixture", 2),  # the scissors': sin, cos
    ("yaw", 2),  # the hand's: sin, cos
)
# Further blocks, each tanh(value / scale): name, size, scale.
FINE_BLOCKS = (
    ("grip_offset_coarse", 3, 0.1),  # m, hand to grips, world frame
    ("grip_offset_fine", 3, 0.02),
    ("grip_lead_coarse", 3, 0.1),  # m, the same from where the wrist's target will take the hand
    ("grip_lead_fine", 3, 0.02),
    ("seam_offset_coarse", 3, 0.3),  # m, pivot to seam, world frame
    ("seam_offset_fine", 3, 0.1),
    ("left_cut_coarse", 3, 0.1),  # m, pivot to its place for a cut from the left: blades square to the ribbon, their
    ("left_cut_fine", 3, 0.02),  # middle at the seam
    ("right_cut_coarse", 3, 0.1),  # m, and from the right
    ("right_cut_fine", 3, 0.02),
    ("seam_in_fixture_coarse", 2, 0.1),  # m, pivot to seam, fixture frame: square to the ribbon, across it
    ("seam_in_fixture_fine", 2, 0.01),
    ("seam_from_blades_coarse", 3, 0.05),  # m, from the blades' middle, scissors' frame: along, lateral, normal
    ("seam_from_blades_fine", 3, 0.01),
    ("yaw_from_scissors_fine", 1, 0.1),  # sin of the hand's
    ("yaw_from_fixture_fine", 1, 0.15),  # cos of the scissors': 0 is square to the ribbon
    ("pitch_fine", 1, 0.1),  # vertical part of the heading
    ("lift_fine", 1, 0.02),  # m, pivot above its place in the case
    ("touch_fine", 4, 0.25),  # N, of thumb, first, middle, ring
)
_SIZES = [(name, size) for name, size in OBSERVATION_BLOCKS] + [(name, size) for name, size, _ in FINE_BLOCKS]
_ENDS = accumulate(size for _, size in _SIZES)
OBSERVATION_SLICES = {name: slice(end - size, end) for (name, size), end in zip(_SIZES, _ENDS, strict=True)}
OBSERVATION_SIZE = sum(size for _, size in _SIZES)
_FINE = slice(sum(size for _, size in OBSERVATION_BLOCKS), OBSERVATION_SIZE)
_FINE_SCALES = np.repeat([scale for *_, scale in FINE_BLOCKS], [size for _, size, _ in FINE_BLOCKS])

BLADE_MIDDLE = 0.047  # m from the pivot: where on the blades a ribbon is cut best


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
    """The observation (O,) of a scene measured as ``geometry``; the other arguments are as the blocks say.

    ``targets`` (15,) are those of the wrist (6,) and the fingers (9,).
    """
    palm = scene.rotation["palm"]
    heading, _, normal = geometry.axes
    scissors_yaw = math.atan2(heading[1], heading[0])
    yaw = float(scene.wrist_position[3])
    grip_yaw, cut_yaw = yaw - scissors_yaw, scissors_yaw - float(fixture[3])
    values: dict[str, Array | float | tuple[float, ...]] = {
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
        "armed": armed,
        "cut": cut,
        "pinch": min(geometry.pinch, 5) * 0.2,
        "yaw_from_scissors": (math.sin(grip_yaw), math.cos(grip_yaw), math.sin(2 * grip_yaw), math.cos(2 * grip_yaw)),
        "yaw_from_fixture": (math.sin(cut_yaw), math.cos(cut_yaw)),
        "yaw": (math.sin(yaw), math.cos(yaw)),
    }
    observation = np.empty(OBSERVATION_SIZE, np.float32)
    for name, value in values.items():
        observation[OBSERVATION_SLICES[name]] = value

    grip_offset = geometry.grip_point - geometry.hand_point
    grip_lead = grip_offset - (targets[WRIST] - scene.wrist_position)[:3]
    seam_offset = geometry.seam - geometry.pivot
    square, across = (math.cos(fixture[3]), math.sin(fixture[3])), (-math.sin(fixture[3]), math.cos(fixture[3]))
    cut_offset = BLADE_MIDDLE * np.array([*across, 0.0])
    seam_in_fixture = np.array([square, across]) @ seam_offset[:2]
    left_cut, right_cut = seam_offset - cut_offset, seam_offset + cut_offset
    lift = geometry.pivot[2] - scene.rest_height
    angles = (math.sin(grip_yaw), math.cos(cut_yaw), heading[2], lift)
    seam_from_blades = geometry.seam_in_scissors - (BLADE_MIDDLE, 0.0, 0.0)
    pairs = (grip_offset, grip_lead, seam_offset, left_cut, right_cut, seam_in_fixture, seam_from_blades)
    fine = np.concatenate([*(pair for pair in pairs for _ in range(2)), angles, geometry.touch])
    observation[_FINE] = np.tanh(fine / _FINE_SCALES)
    return observation
