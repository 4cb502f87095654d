"""TapeCut's scene: a hand, and the scissors, ribbon and fixture of ``scene.xml``, without rules and rewards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple, dataclass

import mujoco
import numpy as np

from softflow.envs.simulation import Array, Simulation, read_spec, yaw_quaternion
from softflow.envs.tape_cut.hand import COMPACT_HAND, Hand

WRIST_JOINTS = ("wrist_x", "wrist_y", "wrist_z", "wrist_yaw", "wrist_pitch", "wrist_roll")
WRIST = slice(0, len(WRIST_JOINTS))  # in actions and targets, which list the wrist's joints, then the hand's
HAND = slice(len(WRIST_JOINTS), None)
RIBBON = ("ribbon_upper_end", "ribbon_upper", "ribbon_lower", "ribbon_lower_end")

SETTLING_SUBSTEPS = 20
LINK_CLEARANCE = 0.001  # m, difference between the distance of a ribbon link's hinges and the length of its box


@dataclass(frozen=True)
class Variation:
    """Properties of the scissors and the hand that vary between episodes, as factors of the model's values."""

    pad_friction: float = 1.0
    """Sliding friction of the fingers' pads."""
    scissors_mass: float = 1.0
    spring: float = 1.0
    """Stiffness of the spring that opens the scissors."""


class TapeCutScene(Simulation):
    """Model and data of the scene, views of them, and the operations that change them.

    Poses, velocities and forces are live views of MuJoCo's memory (metres, radians, seconds, newtons).
    """

    def __init__(self, hand: Hand = COMPACT_HAND) -> None:
        spec = read_spec(__package__)
        hand.mount(spec)
        super().__init__(spec)
        self.hand = hand
        model, data = self.model, self.data

        self.rest_height = float(model.body("scissors_a").pos[2])  # height of the pivot with the scissors in the case
        self.hinge_limit = float(model.joint("hinge").range[1])  # angle between the open blades
        self.grip_x = float(model.geom("grip_a").pos[0])  # position of the handles in the scissors' frame
        self.palm_above_grip = -float(model.site("grip").pos[2])
        self.link_length = float(model.body("ribbon_lower").pos[2])
        self.ribbon_half_thickness, self.ribbon_half_width = map(float, model.geom("ribbon_upper").size[:2])
        # height above the foot of the fixture
        self.seam_height = float(model.body("ribbon_upper_end").pos[2]) - 2 * self.link_length

        wrist, wrist_dof = _joint_slices(model, WRIST_JOINTS)
        self.wrist_position, self.wrist_velocity = data.qpos[wrist], data.qvel[wrist_dof]
        self.hand_qpos = np.array([model.joint(name).qposadr[0] for name in hand.joints])
        self.hand_dof = np.array([model.joint(name).dofadr[0] for name in hand.joints])
        scissors, hinge = model.joint("scissors"), model.joint("hinge")
        self.scissors_pose = data.qpos[scissors.qposadr[0] :][:7]
        self.scissors_velocity = data.qvel[scissors.dofadr[0] :][:6]
        self.hinge_qpos, self.hinge_dof = int(hinge.qposadr[0]), int(hinge.dofadr[0])
        self.tensioner_qpos = int(model.joint("tensioner").qposadr[0])

        self.pivot = data.xpos[model.body("scissors_a").id]
        self.rotation = {
            name: data.xmat[model.body(name).id].reshape(3, 3)
            for name in ("scissors_a", "scissors_b", "ribbon_upper", "ribbon_lower", "palm")
        }
        self.upper_link_position = data.xpos[model.body("ribbon_upper").id]
        self.palm_position = data.xpos[model.body("palm").id]
        self.hand_point = data.site_xpos[model.site("grip").id]  # between the pads of a closing hand
        touch, blade = model.sensor("touch_thumb").adr[0], model.sensor("blade_a_upper").adr[0]
        self.touch_forces = data.sensordata[touch : touch + 12].reshape(4, 3)  # thumb, first, middle, ring
        self.blade_forces = data.sensordata[blade : blade + 12].reshape(2, 2, 3)  # (blade a, b), (upper, lower) link

        self._case, self._fixture = (int(model.body(name).mocapid[0]) for name in ("case", "fixture"))
        self._seam = model.equality("seam").id
        self._ribbon = np.array([model.geom(name).id for name in RIBBON])
        self._upper, self._lower = model.geom("ribbon_upper").id, model.geom("ribbon_lower").id
        self._whole_ribbon = {
            name: getattr(model, name)[self._ribbon].copy()
            for name in ("geom_size", "geom_pos", "geom_aabb", "geom_rbound", "geom_contype", "geom_conaffinity")
        }
        self._boxes = model.body_bvhadr[model.geom_bodyid[self._ribbon]]  # indices of the links' boxes in bvh_aabb
        self._whole_boxes = model.bvh_aabb[self._boxes].copy()
        self.severed_at: float | None = None

        self._scissors = np.array([model.body(name).id for name in ("scissors_a", "scissors_b")])
        self._pads = np.array([model.geom(name).id for name in hand.pads])
        self._hinge = model.joint("hinge").id
        self._nominal = {
            "friction": model.geom_friction[self._pads, 0].copy(),
            "mass": model.body_mass[self._scissors].copy(),
            "inertia": model.body_inertia[self._scissors].copy(),
            "stiffness": float(model.jnt_stiffness[self._hinge]),
        }
        self.variation = Variation()

    def vary(self, variation: Variation) -> None:
        """Change friction, mass and spring; call ``place`` or ``load`` afterwards."""
        model, nominal = self.model, self._nominal
        self._mend()  # the constants derived below must be those of an uncut ribbon
        model.geom_friction[self._pads, 0] = nominal["friction"] * variation.pad_friction
        model.body_mass[self._scissors] = nominal["mass"] * variation.scissors_mass
        model.body_inertia[self._scissors] = nominal["inertia"] * variation.scissors_mass
        model.jnt_stiffness[self._hinge] = nominal["stiffness"] * variation.spring
        mujoco.mj_setConst(model, self.data)  # recompute the constants that MuJoCo derives from masses
        self.variation = variation

    def place(self, case: Array, fixture: Array, scissors: Array, wrist: Array, hand: Array) -> None:
        """Place all bodies at their initial poses, at rest and with an uncut ribbon, and let them settle for 0.1 s.

        Args:
            case: Position x, y and yaw of the open case on the table.
            fixture: Position x, y, z and yaw of the ribbon's fixture.
            scissors: Position x, y and yaw of the scissors, which lie almost fully open on the case's foam.
            wrist: Positions (6,) of the wrist joints, also used as their targets.
            hand: Angles (J,) of the finger joints, also used as their targets.
        """
        data = self.data
        mujoco.mj_resetData(self.model, data)
        self._mend()
        data.mocap_pos[self._case] = case[0], case[1], 0
        data.mocap_quat[self._case] = yaw_quaternion(case[2])
        data.mocap_pos[self._fixture] = fixture[:3]
        data.mocap_quat[self._fixture] = yaw_quaternion(fixture[3])
        opening = self.hinge_limit - 0.005
        self.scissors_pose[:3] = scissors[0], scissors[1], self.rest_height + 0.0005
        self.scissors_pose[3:] = yaw_quaternion(scissors[2] + opening / 2)  # the frame of half a leads by opening / 2
        data.qpos[self.hinge_qpos] = opening
        data.qpos[self.tensioner_qpos] = -0.0015
        self.wrist_position[:] = wrist
        data.qpos[self.hand_qpos] = hand
        data.ctrl[:] = np.concatenate([wrist, hand])
        mujoco.mj_step(self.model, data, SETTLING_SUBSTEPS)

    def sever(self, height: float) -> None:
        """Cut the ribbon ``height`` metres above the seam (below it if negative), so that both links end there.

        From then on the blades pass through the pieces; the fingers still collide with them.
        """
        model = self.model
        self.data.eq_active[self._seam] = 0
        for geom, direction, length in (
            (self._upper, -1, self.link_length - height),
            (self._lower, 1, self.link_length + height),
        ):
            half = (length - LINK_CLEARANCE) / 2
            model.geom_size[geom, 2] = model.geom_aabb[geom, 5] = half
            model.geom_pos[geom, 2] = direction * length / 2
            model.geom_rbound[geom] = np.sqrt(half**2 + self.ribbon_half_width**2 + self.ribbon_half_thickness**2)
            body = model.geom_bodyid[geom]
            box = model.bvh_aabb[model.body_bvhadr[body]]  # without this the thumb passes through the lengthened link
            box[2], box[5] = model.geom_pos[geom, 2] - model.body_ipos[body, 2], half
        model.geom_contype[self._ribbon] = 0
        model.geom_conaffinity[self._ribbon] = 1
        self.severed_at = height

    def _mend(self) -> None:
        for name, values in self._whole_ribbon.items():
            getattr(self.model, name)[self._ribbon] = values
        self.model.bvh_aabb[self._boxes] = self._whole_boxes
        self.severed_at = None

    def save(self) -> dict[str, Array]:
        """Return the complete state, including the cut (NaN for an uncut ribbon) and the variation."""
        severed_at = np.nan if self.severed_at is None else self.severed_at
        return {
            **super().save(), "severed_at": np.array(severed_at), "variation": np.array(astuple(self.variation))
        }  # fmt: skip

    def load(self, state: Mapping[str, Array]) -> None:
        variation = Variation(*state["variation"].tolist())
        if variation != self.variation:
            self.vary(variation)
        self._mend()
        if np.isfinite(state["severed_at"]):
            self.sever(float(state["severed_at"]))
        super().load(state)


def _joint_slices(model: mujoco.MjModel, names: tuple[str, ...]) -> tuple[slice, slice]:
    """Return the slices in qpos and in qvel of consecutive hinge or slide joints."""
    first = model.joint(names[0])
    qpos, dof = int(first.qposadr[0]), int(first.dofadr[0])
    return slice(qpos, qpos + len(names)), slice(dof, dof + len(names))
