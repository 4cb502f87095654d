"""The Adroit hand (Shadow-like, 22 finger joints) as a replacement for the compact hand; needs ``softflow[robotics]``.

Bodies, joints, inertias and collision capsules come from the installed gymnasium-robotics package. TapeCut differs in
three ways: its own wrist replaces the hand's wrist and forearm, the joints have the compact hand's actuators, and the
fingertips have the friction of the compact hand's pads.
"""

from __future__ import annotations

import math
from importlib.util import find_spec
from pathlib import Path

import mujoco
import numpy as np

from softflow.envs.simulation import Array
from softflow.envs.tape_cut.hand import Hand
from softflow.errors import UserError

PREFIX = "adroit_"  # prefix of the hand's names in the scene
FINGERS = ("FF", "MF", "RF")
JOINTS = (
    *(f"{finger}J{i}" for finger in FINGERS for i in (3, 2, 1, 0)), "LFJ4", "LFJ3", "LFJ2", "LFJ1", "LFJ0",
    "THJ4", "THJ3", "THJ2", "THJ1", "THJ0",
)  # fmt: skip
TIPS = {"thumb": "thdistal", "first": "ffdistal", "middle": "mfdistal", "ring": "rfdistal"}
PADS = tuple(f"{PREFIX}C_{tip}" for tip in (*TIPS.values(), "lfdistal"))
PAD_PROPERTIES = ("friction", "condim", "priority", "solref", "solimp", "margin")  # copied from the compact hand
# Settings copied from the scene; MuJoCo would warn that the hand's file differs.
SOLVER_SETTINGS = ("iterations", "noslip_iterations")
SIZES = ("njmax", "nconmax", *(f"nuser_{kind}" for kind in ("body", "jnt", "site", "tendon", "actuator", "sensor")))

# A search found this pose of the hand, in which straight fingers and the thumb reach the handles from above. The palm's
# z axis, which runs along the stretched fingers, points across the scissors and is PALM_PITCH away from straight down.
PALM_PITCH = 1.435  # rad
GRIP_IN_PALM = (0.018, -0.0931, 0.0839)  # m, position of the pinched object

# Joint angles from inverse kinematics for pads at `width` m from the mid plane. Columns: width; thumb 4 to 0; knuckles.
PINCHES = np.array([
    [0.0000, 0.54, 1.22, 0.09, 0.11, 0.00, 1.457],
    [0.0100, 0.46, 1.28, 0.13, 0.14, 0.00, 1.348],
    [0.0205, 0.50, 1.30, 0.26, 0.43, -0.18, 1.235],
    [0.0300, 0.43, 1.30, 0.26, 0.52, 0.00, 1.132],
    [0.0420, 0.16, 1.30, 0.26, 0.41, 0.00, 0.983],
])  # fmt: skip
BENT = {"FF": (0.22, 0.17), "MF": (0.39, 0.0), "RF": (0.22, 0.17)}  # rad, the two joints beyond the knuckle
LITTLE_FINGER = (0.0, 0.0, 0.7, 0.2, 0.1)  # rad, out of the way


def adroit_pinch(width: float) -> Array:
    """Return joint targets (22,) that hold the pads of thumb and fingers ``width`` m from the palm's mid plane."""
    *thumb, knuckle = (np.interp(width, PINCHES[:, 0], angles) for angles in PINCHES.T[1:])
    fingers = [angle for finger in FINGERS for angle in (0.0, knuckle, *BENT[finger])]
    return np.array([*fingers, *LITTLE_FINGER, *thumb])


def mount_adroit(scene: mujoco.MjSpec) -> None:
    """Replace the compact hand of ``scene.xml`` with the Adroit hand.

    Raises:
        UserError: gymnasium-robotics is not installed, or its version does not include the hand.
    """
    hand = _read_adroit()
    for part in (*hand.actuators, *hand.tendons, *hand.sensors, hand.joint("WRJ0")):
        hand.delete(part)
    for theirs, ours, names in ((hand.option, scene.option, SOLVER_SETTINGS), (hand, scene, SIZES)):
        for name in names:
            setattr(theirs, name, getattr(ours, name))
    palm = hand.body("palm")
    palm.pos = 0, 0, 0
    sine, cosine = math.sin(PALM_PITCH), math.cos(PALM_PITCH)
    rotation = np.array([[-1, 0, 0], [0, cosine, sine], [0, sine, -cosine]])  # from the Adroit palm's axes to TapeCut's
    quaternion = np.empty(4)
    mujoco.mju_mat2Quat(quaternion, rotation.ravel())
    place = scene.site("grip").pos - rotation @ GRIP_IN_PALM
    scene.body("palm").add_frame(pos=place, quat=quaternion).attach_body(palm, PREFIX, "")

    pad = scene.geom("first_pad")
    for geom in map(scene.geom, PADS):
        for name in PAD_PROPERTIES:
            setattr(geom, name, getattr(pad, name))
    for finger, tip in TIPS.items():
        scene.sensor(f"touch_{finger}").objname = PREFIX + tip
    for part in (scene.geom("palm"), scene.geom("forearm"), *(scene.body(f"{finger}_base") for finger in TIPS)):
        scene.delete(part)  # deletes the actuators along with the joints
    for body in scene.bodies:
        if body.name.startswith(PREFIX):
            body.gravcomp = 1
    for joint in JOINTS:
        actuator = scene.find_default("thumb" if joint.startswith("TH") else "finger")
        scene.add_actuator(actuator, name=joint, target=PREFIX + joint, trntype=mujoco.mjtTrn.mjTRN_JOINT)


def _read_adroit() -> mujoco.MjSpec:
    package = find_spec("gymnasium_robotics")
    if package is None or package.origin is None:
        raise UserError("hand 'adroit' needs gymnasium-robotics: pip install 'softflow[robotics]'")
    path = Path(package.origin).parent / "envs/assets/adroit_hand/adroit_relocate.xml"
    if not path.exists():
        raise UserError(f"hand 'adroit': this gymnasium-robotics has no {path}; 1.4.2 has it")
    return mujoco.MjSpec.from_file(str(path))


ADROIT_HAND = Hand(
    joints=tuple(PREFIX + joint for joint in JOINTS),
    pads=PADS,
    open_pose=adroit_pinch(0.042),
    pinch=adroit_pinch,
    mount=mount_adroit,
)
