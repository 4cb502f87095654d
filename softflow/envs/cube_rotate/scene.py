"""CubeRotate's scene: the hand and cube of ``scene.xml``, without rules and rewards."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import astuple, dataclass

import mujoco
import numpy as np

from softflow.envs.cube_rotate.kinematics import FINGERS, HandKinematics, tips_around
from softflow.envs.simulation import Array, Simulation, clip, read_spec, yaw_quaternion

TIP_HEIGHT = 0.004  # m, height of the fingertips above the cube's centre
NOMINAL_SQUEEZE = 0.003  # m, depth of the nominal pose's fingertips inside the nominal cube
OPEN_GAP = 0.006  # m, gap between fingertips and faces before they close
CLOSED_SQUEEZE = 0.010  # m, depth of the closed fingertips' targets inside the cube
HANDED_SUBSTEPS = 60  # during which the cube is fixed while the fingers close
SETTLING_SUBSTEPS = 40
PLACED_OFFSET = 0.01  # m, largest displacement of a cube that counts as held
PLACED_UPRIGHT = 0.95  # smallest cosine of its tilt


@dataclass(frozen=True)
class Cube:
    """Properties that vary between cubes."""

    mass_scale: float = 1.0
    """Factor of the model's mass."""
    half_size: float = 0.0275
    """Half of the edge length in m."""
    friction: float = 1.0
    """Sliding friction coefficient of the fingers' rubber."""


class CubeRotateScene(Simulation):
    """Model and data of the scene, views of them, and the operations that change them.

    Poses and velocities are live views of MuJoCo's memory (metres, radians, seconds, newtons). Positions of the joints
    and the cube are current; rotations and fingertips lag by one substep of 5 ms.
    """

    def __init__(self) -> None:
        super().__init__(read_spec(__package__))
        model, data = self.model, self.data
        self.kinematics = HandKinematics(model)
        body, geom, joint = model.body("cube").id, model.geom("cube").id, model.joint("cube")
        self.palm_position = model.body("palm").pos.copy()
        self.cube_home = model.body("cube").pos - self.palm_position  # target position of the cube, palm frame
        self.tip_radius = float(model.geom("thumb_tip").size[0])

        fingers = slice(0, 3 * len(FINGERS))
        self.joint_position, self.joint_velocity = data.qpos[fingers], data.qvel[fingers]
        self.targets = data.ctrl
        self.cube_pose = data.qpos[joint.qposadr[0] :][:7]
        self.cube_velocity = data.qvel[joint.dofadr[0] :][:3]
        self.cube_spin = data.qvel[joint.dofadr[0] :][3:6]  # in the cube's frame
        self.cube_centre = data.xpos[body]
        self.cube_rotation = data.xmat[body].reshape(3, 3)
        self.push = data.xfrc_applied[body, :3]
        self.touch = data.sensordata[: len(FINGERS)]
        self.depth = data.sensordata[len(FINGERS) :]  # (1,), distance in the cube's deepest contact, at most 0
        self._tips = np.array([model.site(f"{finger}_tip").id for finger in FINGERS])

        self._body, self._geom = body, geom
        self._rubber = np.array([model.geom(f"{finger}_{part}").id for finger in FINGERS for part in ("tip", "pad")])
        self._marks = np.array([model.geom(f"mark_{side}").id for side in ("right", "back", "left", "front")])
        self._nominal = {
            "size": float(model.geom_size[geom, 0]),
            "mass": float(model.body_mass[body]),
            "inertia": model.body_inertia[body].copy(),
            "marks": model.geom_pos[self._marks].copy(),
        }
        radius = Cube().half_size + self.tip_radius - NOMINAL_SQUEEZE
        self.nominal_pose = self.kinematics.joint_angles(
            tips_around(self.cube_home, 0.0, radius, self.cube_home[2] + TIP_HEIGHT)
        )
        self.shape(Cube())

    @property
    def cube_position(self) -> Array:
        """Position (3,) of the cube's centre in the palm's frame."""
        return self.cube_pose[:3] - self.palm_position

    @property
    def tips_from_cube(self) -> Array:
        """Fingertips (4, 3) relative to the cube's centre, world frame."""
        return self.data.site_xpos[self._tips] - self.cube_centre

    def shape(self, cube: Cube) -> None:
        """Set the cube's mass and size and the fingers' friction; call ``place`` or ``load`` afterwards."""
        model, nominal, half = self.model, self._nominal, cube.half_size
        ratio = half / nominal["size"]
        model.body_mass[self._body] = nominal["mass"] * cube.mass_scale
        model.body_inertia[self._body] = nominal["inertia"] * cube.mass_scale * ratio**2
        model.geom_size[self._geom] = half
        model.geom_aabb[self._geom, 3:] = half
        model.bvh_aabb[model.body_bvhadr[self._body], 3:] = half  # or contacts outside the nominal cube are missed
        model.geom_rbound[self._geom] = half * math.sqrt(3)
        model.geom_pos[self._marks] = nominal["marks"] * ratio
        model.geom_friction[self._rubber, 0] = cube.friction
        mujoco.mj_setConst(model, self.data)  # recompute the constants that MuJoCo derives from masses
        self.cube = cube

    def place(self, centre: Array, yaw: float) -> bool:
        """Place the cube in the hand.

        The cube is fixed at ``centre`` (3,) in the palm's frame and at ``yaw`` for 0.3 s while the fingers close on it.
        It is then released and settles for 0.2 s.

        Returns:
            Whether the hand holds it.
        """
        mujoco.mj_resetData(self.model, self.data)
        held = np.concatenate([centre + self.palm_position, yaw_quaternion(yaw)])

        def around(gap: float) -> Array:
            radius = self.cube.half_size + self.tip_radius + gap
            return self.kinematics.joint_angles(tips_around(centre, yaw, radius, centre[2] + TIP_HEIGHT))

        self.joint_position[:] = around(OPEN_GAP)
        self.cube_pose[:] = held
        self.targets[:] = clip(around(-CLOSED_SQUEEZE), self.control_low, self.control_high)
        for _ in range(HANDED_SUBSTEPS):
            mujoco.mj_step(self.model, self.data)
            self.cube_pose[:] = held
            self.cube_velocity[:] = self.cube_spin[:] = 0
        mujoco.mj_step(self.model, self.data, SETTLING_SUBSTEPS)
        mujoco.mj_forward(self.model, self.data)
        moved = np.linalg.norm(self.cube_position - centre)
        return bool(moved < PLACED_OFFSET and self.cube_rotation[2, 2] > PLACED_UPRIGHT)

    def save(self) -> dict[str, Array]:
        """Return the complete state, including mass, size and friction."""
        return {**super().save(), "cube": np.array(astuple(self.cube))}

    def load(self, state: Mapping[str, Array]) -> None:
        self.shape(Cube(*map(float, state["cube"])))
        super().load(state)
