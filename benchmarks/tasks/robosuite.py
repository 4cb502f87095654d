"""robosuite's Can task (arXiv 2009.12293) with a scripted demonstrator; nothing was tuned for it.

    pip install robosuite==1.5.2 "mujoco<3.10"
    PYTHONPATH=. softflow-train --algo softflow --env benchmarks.tasks.robosuite:RobosuiteCan-v0 --num-demos 30

The observation has the parts of robomimic's low-dimensional datasets (arXiv 2108.03298), under robomimic's names.
"""

from __future__ import annotations

import logging
from typing import Any, cast

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict
from numpy.typing import NDArray

from softflow.envs import register_task
from softflow.errors import UserError

PARTS = {
    "robot0_eef_pos": "robot0_eef_pos",
    "robot0_eef_quat": "robot0_eef_quat",
    "robot0_gripper_qpos": "robot0_gripper_qpos",
    "object": "object-state",
}
"""robomimic's names of the parts of the observation, and robosuite's."""
STEPS = 200
"""Time limit of an episode. The demonstrator succeeded in 19 of 24, in 118 to 195 steps."""


class Can(gymnasium.Env[dict[str, NDArray[np.float64]], NDArray[np.floating]]):
    """A Panda arm carries a can to its place in a bin. The reward is 1 for the success, which ends the episode.

    The arm is controlled by changes of its end effector's pose (robosuite's OSC_POSE), at 20 Hz.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20, "control_rate": 20.0}  # noqa: RUF012 (gymnasium's way)

    def __init__(self, render_mode: str | None = None) -> None:
        import robosuite
        from robosuite.controllers import load_composite_controller_config

        logging.getLogger("robosuite_logs").setLevel(logging.ERROR)  # it warns at each reset
        self.render_mode = render_mode
        self.simulation = robosuite.make(
            "PickPlaceCan",
            robots="Panda",
            controller_configs=load_composite_controller_config(controller="BASIC", robot="Panda"),
            has_renderer=False,
            has_offscreen_renderer=render_mode == "rgb_array",
            use_camera_obs=False,
            control_freq=20,
            ignore_done=True,
            hard_reset=False,
        )
        self.state = self.simulation.reset()
        parts = {name: Box(-np.inf, np.inf, part.shape, np.float64) for name, part in self._observation().items()}
        self.observation_space = cast(Any, Dict(cast(Any, parts)))
        low, high = self.simulation.action_spec
        self.action_space = Box(low.astype(np.float32), high.astype(np.float32))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        # robosuite draws the arm's noise and the placements from generators of its own
        self.simulation.rng = self.np_random
        for sampler in self.simulation.placement_initializer.samplers.values():
            sampler.rng = self.np_random
        self.state = self.simulation.reset()
        return self._observation(), {}

    def step(self, action: NDArray[np.floating]) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.state, *_ = self.simulation.step(np.asarray(action, np.float64))
        solved = bool(self.simulation._check_success())
        return self._observation(), float(solved), solved, False, {"is_success": solved}

    def render(self) -> NDArray[np.uint8]:  # type: ignore[override]
        picture = self.simulation.sim.render(width=256, height=256, camera_name="frontview")
        return cast(NDArray[np.uint8], picture[::-1].copy())

    def close(self) -> None:
        self.simulation.close()

    def _observation(self) -> dict[str, NDArray[np.float64]]:
        return {name: np.array(self.state[key], np.float64) for name, key in PARTS.items()}


class CanDemonstrator:
    """Demonstrates one episode with a sloppy script; make one after each ``reset``.

    As with a person, no two episodes are alike. Speed, heights, detour, grasp and place in the bin are drawn for each
    episode, and drifting noise is added to each action.

    Args:
        env: A `Can`, wrapped or not.
        rng: Source of what is drawn.
        noise: Standard deviation of the noise on the translation, relative to the largest action. That on the rotation
            is a fifth of it.

    Attributes:
        mode: Always -1, because the script has no modes.

    Raises:
        UserError: ``noise`` is negative.
    """

    mode = -1

    def __init__(self, env: gymnasium.Env[Any, Any], rng: np.random.Generator, noise: float = 0.25) -> None:
        if noise < 0:
            raise UserError(f"noise must not be negative, got {noise}")
        self._env, self._rng, self._noise = cast(Can, env.unwrapped), rng, noise * np.repeat([1.0, 0.2], 3)
        self._drift = np.zeros(6)
        self._phase, self._closing = self._reach, 0
        self._speed, self._hover = rng.uniform(0.6, 1.0), rng.uniform(0.05, 0.12)
        self._grasp = np.array([*rng.normal(0, 0.008, 2), rng.uniform(-0.01, 0.02)])
        self._high, self._low = rng.uniform(1.03, 1.13), rng.uniform(0.96, 1.02)
        self._detour = rng.uniform(-0.12, 0.12)
        bins = self._env.simulation
        self._place = bins.target_bin_placements[bins.object_to_id["can"]][:2] + rng.normal(0, 0.03, 2)

    def act(self) -> NDArray[np.floating]:
        """Return the action (7,) in [-1, 1] for the environment's current state; every call draws new noise."""
        tip, can = self._env.state["robot0_eef_pos"], self._env.state["Can_pos"]
        target, grip = self._phase(tip, can)
        self._drift = 0.85 * self._drift + 0.53 * self._rng.normal(size=6)
        move = np.append(self._speed * np.clip(20 * (target - tip), -1, 1), np.zeros(3)) + self._noise * self._drift
        return np.clip(np.append(move, grip), -1, 1)

    # Each phase returns the target of the end effector, in metres, and the command of the gripper: -1 opens it.

    def _reach(self, tip: NDArray[np.float64], can: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
        target = can + self._grasp + [0, 0, self._hover]
        if np.linalg.norm((target - tip)[:2]) < 0.02 and abs(target - tip)[2] < 0.05:
            self._phase = self._descend
        return target, -1.0

    def _descend(self, tip: NDArray[np.float64], can: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
        target = can + self._grasp
        if np.linalg.norm((target - tip)[:2]) < 0.018 and abs(target - tip)[2] < 0.015:
            self._phase, self._closing = self._close, 0
        return target, -1.0

    def _close(self, tip: NDArray[np.float64], can: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
        self._closing += 1
        if self._closing > 4:
            self._phase = self._lift
        return can + self._grasp, 1.0

    def _lift(self, tip: NDArray[np.float64], can: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
        if can[2] < tip[2] - 0.06:
            self._phase = self._reach  # the can has slipped
        elif tip[2] > self._high:
            self._phase = self._carry
        return np.array([*tip[:2], self._high + 0.06]), 1.0

    def _carry(self, tip: NDArray[np.float64], can: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
        share = np.clip((self._place[1] - tip[1]) / 0.6, 0, 1)
        target = np.array([*self._place, self._high + 0.02])
        target[0] += 4 * share * (1 - share) * self._detour
        if np.linalg.norm(can - tip) > 0.07:
            self._phase = self._reach
        elif np.linalg.norm((target - tip)[:2]) < 0.04:
            self._phase = self._lower
        return target, 1.0

    def _lower(self, tip: NDArray[np.float64], can: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
        if tip[2] < self._low:
            self._phase = self._leave
        return np.array([*self._place, self._low - 0.05]), 1.0

    def _leave(self, tip: NDArray[np.float64], can: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
        return np.array([*self._place, self._high + 0.1]), -1.0


gymnasium.register("RobosuiteCan-v0", entry_point=Can, max_episode_steps=STEPS)
register_task(f"{__name__}:RobosuiteCan-v0", demonstrator=CanDemonstrator)
