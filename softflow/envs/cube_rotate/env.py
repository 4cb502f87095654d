"""CubeRotate: a hand, palm down, turns a cube about the vertical and must not drop it.

This module defines actions, rules, rewards and episodes. The scene is in ``scene.py``, the hand's kinematics in
``kinematics.py``, and the observation in ``observation.py``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softflow.envs.cube_rotate.observation import OBSERVATION_SIZE, observe
from softflow.envs.cube_rotate.scene import Cube, CubeRotateScene
from softflow.envs.generator_state import load_random_state, save_random_state
from softflow.envs.simulation import Array, Info, Observation, RewardKind, SimulatedTask, clip
from softflow.errors import UserError

# Rules
SUCCESS_TURNS = (1.25, 3.0)  # turns without a drop, the two thresholds that `info` reports
FALL_DEPTH = 0.035  # m below its home position at which the cube counts as dropped
MAX_OFFSET = 0.04  # m, horizontal distance from its home position at which it counts as dropped
MIN_UPRIGHT = 0.5  # cosine of the tilt below which it counts as dropped
STEPS_PER_MINUTE = 1200  # at 20 Hz

# Staged reward, in units of turns: a turn is worth 1.
REWARDED_TURNS = 3.0  # turns for which an episode's rewards sum to 1
DROP_COST = 0.2
TILT_COST = 0.02  # per step at a tilt of 90 degrees; proportional to 1 - cos(tilt)
EFFORT_COST = 8e-5  # per step, times the squared norm of the action

# Actions: rad by which an action of 1 moves abduction, proximal and distal joint away from the nominal pose.
ACTION_SPAN = np.tile([0.7, 0.8, 0.9], 4)

# Ranges of the uniform draws in `reset`, in the order of the draws (m, rad; positions relative to the cube's home).
RESET_RANGES = {
    "mass_scale": (0.75, 1.4), "half_size": (0.026, 0.029), "friction": (0.6, 1.0), "yaw": (-0.35, 0.35),
    "x": (-0.003, 0.003), "y": (-0.003, 0.003), "z": (-0.003, 0.003),
}  # fmt: skip
RESET_TRIES = 20
PUSH_PROBABILITY = 0.02  # per step, that a push of the cube begins
PUSH_FORCE = (0.2, 0.8)  # N, range of the uniform draw; the direction is random
PUSH_STEPS = 2


class CubeRotateEnv(SimulatedTask):
    """Turn the cube about the vertical, counterclockwise as seen from above, at 20 Hz for 200 steps.

    Action, ``Box(-1, 1, (12,))``: absolute joint targets, ``ACTION_SPAN`` rad around the pose that holds the nominal
    cube. The order is abduction, proximal and distal joint of thumb, index, middle and ring finger.

    Observation (O,): the blocks of ``OBSERVATION_BLOCKS`` (``observation.py``, which gives their units). They do not
    include the turns made so far.

    Rules. *dropped*: the cube has been ``FALL_DEPTH`` below its home position, ``MAX_OFFSET`` to its side, or tilted by
    60 degrees. *turns*: the sum of the changes of the cube's yaw until it is dropped. The yaw is the angle of the
    rotation about the vertical that remains when the tilt is undone, so wobbling does not count as turning. *success*:
    ``success_turns`` turns without a drop.

    Reward. ``"staged"``: the turns made in this step minus the costs of tilt, effort and a drop (``TILT_COST``,
    ``EFFORT_COST``, ``DROP_COST``), scaled so that ``REWARDED_TURNS`` turns give 1. ``"sparse"``: 1 at the success, and
    -1 if the cube is later dropped or turned back, so that the sum is 1 for a success and 0 for a failure.

    Episode. ``terminated`` at a drop, and at the success if ``terminate_on_success``; ``truncated`` at ``max_steps``.
    ``info``: ``is_success``; ``success_by_turns``, the success for each of ``SUCCESS_TURNS``, with the keys ``"1.25"``
    and ``"3"``; ``turns``; ``rpm``, the mean turns per minute so far; ``dropped``; ``peak_torque`` (N m, of any joint)
    and ``penetration`` (m, of the cube's contacts), the largest values so far, sampled once per step.

    Args:
        render_mode: ``"rgb_array"`` or None. None never initializes OpenGL.
        reward: ``"sparse"``, 1 at the success, or ``"staged"``, the turning in each step minus costs.
        success_turns: Number of turns required for a success. Higher values make the task harder.
        randomize: Whether to draw the cube's mass, size, friction and pose (``RESET_RANGES``) and to push it at random.
            Otherwise every episode starts from the same state, without pushes.
        terminate_on_success: Whether a success ends the episode. Otherwise it continues, and the cube can still be
            dropped.
        max_steps: Time limit of an episode in steps of 0.05 s.
        latency: Delay of actions in steps of 0.05 s. The initial targets hold until the first action arrives.
        width: Width of rendered images in pixels.
        height: Height of rendered images in pixels.
        camera: Camera for ``render``: ``"front"`` or ``"below"``.

    Raises:
        UserError: An argument has an invalid value.
        UnstableSimulationError: In ``reset`` or ``step``, the physics diverges.
        RuntimeError: In ``reset``, the hand does not hold the cube.
        ValueError: In ``step``, the action has another shape or is not finite.
    """

    def __init__(
        self,
        render_mode: str | None = None,
        reward: RewardKind = "sparse",
        success_turns: float = SUCCESS_TURNS[0],
        randomize: bool = True,
        terminate_on_success: bool = False,
        max_steps: int = 200,
        latency: int = 0,
        width: int = 640,
        height: int = 480,
        camera: str = "below",
    ) -> None:
        if not 0 < success_turns < math.inf:
            raise UserError(f"success_turns must be positive and finite, got {success_turns}")
        self.success_turns, self.randomize = success_turns, randomize
        self.scene = CubeRotateScene()
        super().__init__(
            self.scene,
            OBSERVATION_SIZE,
            render_mode=render_mode,
            reward=reward,
            terminate_on_success=terminate_on_success,
            max_steps=max_steps,
            latency=latency,
            width=width,
            height=height,
            camera=camera,
        )

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Observation, Info]:
        super().reset(seed=seed)
        self._running = False
        self.steps = 0
        self._forget_actions()
        self._place_cube()
        self.push_steps = 0  # remaining steps of the current push
        self.turns = 0.0
        self.dropped = False
        self.peak_torque, self.penetration = 0.0, 0.0
        self.yaw = self._measured_yaw()
        self._running = True
        return observe(self.scene, self.yaw), self._info()

    def step(self, action: NDArray[np.floating]) -> tuple[Observation, float, bool, bool, Info]:
        action = self._checked(action)
        scene, was_success, was_dropped = self.scene, self.is_success, self.dropped
        self._push()
        arriving = self._arriving(action)
        if arriving is not None:
            scene.targets[:] = clip(scene.nominal_pose + arriving * ACTION_SPAN, scene.control_low, scene.control_high)
        scene.advance(scene.targets)
        self.steps += 1
        self._check_stability()
        self.dropped = was_dropped or self._is_dropped()
        turned = self._turn()
        self.peak_torque = max(self.peak_torque, *map(abs, scene.data.actuator_force.tolist()))
        self.penetration = max(self.penetration, -float(scene.depth[0]))
        if self.reward == "staged":
            tilted = 1 - float(scene.cube_rotation[2, 2])
            costs = TILT_COST * tilted + EFFORT_COST * float(action @ action) + DROP_COST * (self.dropped - was_dropped)
            reward = (turned - costs) / REWARDED_TURNS
        else:
            reward = float(self.is_success) - float(was_success)
        terminated = self.dropped or (self.is_success and self.terminate_on_success)
        return observe(scene, self.yaw), reward, terminated, self.steps >= self.max_steps, self._info()

    # -- what happens to the cube

    def _place_cube(self) -> None:
        """Draw cubes and poses until the hand holds one."""
        for _ in range(RESET_TRIES):
            if self.randomize:
                drawn = {name: self.np_random.uniform(low, high) for name, (low, high) in RESET_RANGES.items()}
                cube = Cube(*(drawn[name] for name in ("mass_scale", "half_size", "friction")))
                offset, yaw = np.array([drawn[axis] for axis in "xyz"]), drawn["yaw"]
            else:
                cube, offset, yaw = Cube(), np.zeros(3), 0.0
            self.scene.shape(cube)
            held = self.scene.place(self.scene.cube_home + offset, yaw)
            self._check_stability()
            if held:
                return
        raise RuntimeError(
            f"the hand held none of {RESET_TRIES} cubes that reset handed to it: make a new environment, or undo what "
            "was changed in this one's model or in RESET_RANGES"
        )

    def _push(self) -> None:
        if not self.randomize:
            return
        if self.push_steps:
            self.push_steps -= 1
            if self.push_steps == 0:
                self.scene.push[:] = 0
        elif self.np_random.random() < PUSH_PROBABILITY:
            direction = self.np_random.standard_normal(3)
            force = self.np_random.uniform(*PUSH_FORCE)
            self.scene.push[:] = force * direction / np.linalg.norm(direction)
            self.push_steps = PUSH_STEPS

    # -- rules

    @property
    def is_success(self) -> bool:
        """Whether the cube has made `success_turns` turns."""
        return self._has_turned(self.success_turns)

    def _has_turned(self, turns: float) -> bool:
        return not self.dropped and self.turns >= turns

    def _is_dropped(self) -> bool:
        x, y, z = (self.scene.cube_position - self.scene.cube_home).tolist()
        return z < -FALL_DEPTH or math.hypot(x, y) > MAX_OFFSET or bool(self.scene.cube_rotation[2, 2] < MIN_UPRIGHT)

    def _turn(self) -> float:
        """Record the current yaw, and return the turns since the last call, or 0 if the cube was dropped."""
        yaw = self._measured_yaw()
        turned = 0.0 if self.dropped else math.remainder(yaw - self.yaw, 2 * math.pi) / (2 * math.pi)
        self.turns += turned
        self.yaw = yaw
        return turned

    def _measured_yaw(self) -> float:
        """Return the angle in [-pi, pi] of the twist about the vertical, R = tilt * twist.

        It changes at the rate of the spin about the axis halfway between the vertical and the cube's own axis.
        """
        (xx, xy, _), (yx, yy, _), _ = self.scene.cube_rotation.tolist()
        return math.atan2(yx - xy, xx + yy)

    def _info(self) -> Info:
        return {
            "is_success": self.is_success,
            "success_by_turns": {f"{turns:g}": self._has_turned(turns) for turns in SUCCESS_TURNS},
            "turns": self.turns,
            "rpm": self.turns * STEPS_PER_MINUTE / max(self.steps, 1),
            "dropped": self.dropped,
            "peak_torque": self.peak_torque,
            "penetration": self.penetration,
        }

    # -- state

    def get_state(self) -> dict[str, NDArray[Any]]:
        """Return the complete state, including the random generator, as arrays that need no pickling."""
        return {
            **self.scene.save(),
            "steps": np.array(self.steps),
            "on_their_way": self._on_their_way.copy(),
            "push_steps": np.array(self.push_steps),
            "turns": np.array(self.turns),
            "dropped": np.array(self.dropped),
            "peak_torque": np.array(self.peak_torque),
            "penetration": np.array(self.penetration),
            "random": save_random_state(self.np_random),
        }

    def set_state(self, state: Mapping[str, NDArray[Any]]) -> Observation:
        """Restore a state from ``get_state`` of this or another instance; later steps are reproduced bit for bit.

        Returns:
            The observation (O,) of that state.

        Raises:
            KeyError: An entry is missing.
        """
        self._running = False
        self.scene.load(state)
        self.steps, self.push_steps = int(state["steps"]), int(state["push_steps"])
        self._on_their_way = np.array(state["on_their_way"])
        self.turns, self.dropped = float(state["turns"]), bool(state["dropped"])
        self.peak_torque, self.penetration = float(state["peak_torque"]), float(state["penetration"])
        load_random_state(self.np_random, state["random"])
        self._check_stability()
        self.yaw = self._measured_yaw()
        self._running = True
        return observe(self.scene, self.yaw)

    def joint_action(self, angles: Array) -> Array:
        """Return the action (12,) whose targets are the joint angles (12,), clipped to [-1, 1]."""
        return clip((angles - self.scene.nominal_pose) / ACTION_SPAN, -1.0, 1.0)
