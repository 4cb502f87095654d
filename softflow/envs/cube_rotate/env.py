"""CubeRotate: a hand, palm down, turns a cube about the vertical and must not drop it.  Actions, rules, rewards,
episodes.

The scene is in ``cube_rotate_scene.py``, the hand's kinematics in ``cube_rotate_kinematics.py``, what a policy sees in
``cube_rotate_observation.py``.
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
SUCCESS_TURNS = (1.25, 3.0)  # without a drop, the two that `info` speaks of
FALL_DEPTH = 0.035  # m below its home at which the cube counts as dropped,
MAX_OFFSET = 0.04  # m beside it,
MIN_UPRIGHT = 0.5  # and cosine of its tilt
STEPS_PER_MINUTE = 1200  # at 20 Hz

# Staged reward, all in turns: a turn pays 1, and what costs, costs as much as so many turns.
REWARDED_TURNS = 3.0  # turns for which an episode pays 1
DROP_COST = 0.2
TILT_COST = 0.02  # of a step at a right angle; in proportion to 1 - cos(tilt)
EFFORT_COST = 8e-5  # of a step, times the squared length of the action

# Actions: rad by which a full action moves abduction, proximal and distal joint away from the nominal pose.
ACTION_SPAN = np.tile([0.7, 0.8, 0.9], 4)

# Uniform ranges of what `reset` draws, in the order of the draws (m, rad; the place relative to the cube's home).
RESET_RANGES = {
    "mass_scale": (0.75, 1.4), "half_size": (0.026, 0.029), "friction": (0.6, 1.0), "yaw": (-0.35, 0.35),
    "x": (-0.003, 0.003), "y": (-0.003, 0.003), "z": (-0.003, 0.003),
}  # fmt: skip
RESET_TRIES = 20
PUSH_PROBABILITY = 0.02  # in a step, that somebody begins to push the cube
PUSH_FORCE = (0.2, 0.8)  # N, uniform, in any direction
PUSH_STEPS = 2


class CubeRotateEnv(SimulatedTask):
    """Turn the cube about the vertical, counterclockwise as seen from above, at 20 Hz for 200 steps.

    Action, ``Box(-1, 1, (12,))``: absolute joint targets, ``ACTION_SPAN`` rad around the pose that holds the nominal
    cube; abduction, proximal and distal joint of thumb, index, middle and ring finger.

    Observation (O,): the blocks of ``OBSERVATION_BLOCKS`` (``cube_rotate_observation.py``), with units there. The turns
    made so far are not among them.

    Rules.  *dropped*: the cube has been ``FALL_DEPTH`` under its home, ``MAX_OFFSET`` beside it, or tilted by 60
    degrees. Its *turns* are the changes of its yaw added up, until it is dropped; its yaw is the angle of the rotation
    about the vertical that is left when the tilt is undone, so that wobbling is no turning. *success*:
    ``success_turns`` turns, and not dropped.

    Reward.  ``"staged"``: the turns made in this step less tilt, effort and a drop (``TILT_COST``, ``EFFORT_COST``,
    ``DROP_COST``), scaled so that ``REWARDED_TURNS`` turns pay 1 in an episode.  ``"sparse"``: 1 at the success, taken
    back when the cube is dropped or turned back later: an episode's sum is 1 for a success and 0 for a failure.

    Episode.  ``terminated`` at a drop, and at the success if ``terminate_on_success``; ``truncated`` at ``max_steps``.
    ``info``: ``is_success``; ``success_by_turns``, the same for each of ``SUCCESS_TURNS``, by ``"1.25"`` and ``"3"``;
    ``turns``; ``rpm``, turns per minute of the episode so far; ``dropped``; ``peak_torque`` (N m, of any joint) and
    ``penetration`` (m, of the cube's contacts), the largest so far, each looked at once per step.

    Args:
        render_mode: ``"rgb_array"`` or None; without it no graphics are touched.
        reward: ``"sparse"`` or ``"staged"``.
        success_turns: turns that make a success.
        randomize: draw the cube's mass, size, friction and place (``RESET_RANGES``) and push it now and then; otherwise
            every episode starts from the same state and nothing pushes.
        terminate_on_success: end the episode at the success; otherwise it goes on, to see how far it comes.
        max_steps: time limit in steps.
        latency: steps by which actions arrive late; until the first arrives, the targets stay as they are.
        width, height, camera: size in pixels and camera (``"front"`` or ``"below"``) of ``render``.

    Raises:
        UserError: an argument outside of these.
        UnstableSimulationError: from ``reset`` or ``step`` when the physics diverges.
        RuntimeError: from ``reset`` when the hand does not hold the cube.
        ValueError: from ``step`` when an action has another shape or is not finite.
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
        self.push_steps = 0  # for which the present push goes on
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
        """Draw a cube and its place until the hand holds it."""
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
        return self._has_turned(self.success_turns)

    def _has_turned(self, turns: float) -> bool:
        return not self.dropped and self.turns >= turns

    def _is_dropped(self) -> bool:
        x, y, z = (self.scene.cube_position - self.scene.cube_home).tolist()
        return z < -FALL_DEPTH or math.hypot(x, y) > MAX_OFFSET or bool(self.scene.cube_rotation[2, 2] < MIN_UPRIGHT)

    def _turn(self) -> float:
        """Note the yaw of now; returns the turns since it was last noted, none of a dropped cube."""
        yaw = self._measured_yaw()
        turned = 0.0 if self.dropped else math.remainder(yaw - self.yaw, 2 * math.pi) / (2 * math.pi)
        self.turns += turned
        self.yaw = yaw
        return turned

    def _measured_yaw(self) -> float:
        """Angle in [-pi, pi] of the twist about the vertical, R = tilt * twist.

        It changes at the rate of the spin about the axis halfway between the vertical and the cube's own.
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
        """All that the future depends on, as arrays that need no pickling: physics, cube, episode, random numbers."""
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
        """Return to a state of ``get_state``, of this or another instance; steps from here are the same to the bit.

        Returns:
            The observation (O,) of that state.

        Raises:
            KeyError: an entry is missing.
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
        """The action (12,) whose targets are the joint angles (12,), as far as an action goes."""
        return clip((angles - self.scene.nominal_pose) / ACTION_SPAN, -1.0, 1.0)
