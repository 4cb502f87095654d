"""The demonstrator of OGBench's `cube-single`: its own scripted oracle, in its single-task environments."""

from __future__ import annotations

from typing import Any, cast

import gymnasium
import numpy as np
from numpy.typing import NDArray

from softflow.errors import UserError

NOISE_SHAPE = np.array([1.0, 1.0, 1.0, 3.0, 10.0])  # of x, y, z, yaw, gripper: that of OGBench's `noisy` datasets


class OgbenchCubeDemonstrator:
    """Demonstrates one episode by OGBench's closed-loop oracle (arXiv 2410.20092); make one after each ``reset``.

    The oracle wants to be told the target, which the environment does only where it collects data without a task.

    Attributes:
        mode: -1, the oracle has one way.

    Args:
        env: a ``cube-single-singletask-...-v0`` environment, wrapped or not.
        rng: source of the noise.
        noise: the most that the standard deviation of the noise on the action's x, y and z may be; drawn anew for each
            episode, from zero on. Three times as much on the yaw, ten times on the gripper.

    Raises:
        UserError: `noise` is negative.
    """

    mode = -1

    def __init__(self, env: gymnasium.Env[Any, Any], rng: np.random.Generator, noise: float = 0.1) -> None:
        from ogbench.manipspace.oracles.markov.cube_markov import CubeMarkovOracle

        if noise < 0:
            raise UserError(f"noise must not be negative, got {noise}")
        self._env = cast(Any, env.unwrapped)
        self._rng, self._deviation = rng, rng.uniform(0, noise) * NOISE_SHAPE
        self._oracle = CubeMarkovOracle(env=self._env)
        # Draws from numpy's global generator where the arm goes when the cube is placed; the episode is over by then.
        self._oracle.reset(None, None)

    def act(self) -> NDArray[np.floating]:
        """The action (5,) in [-1, 1] for the environment's current state; the noise makes each call a new draw."""
        target = {
            "privileged/target_block": 0,
            "privileged/target_block_pos": self._env.cur_task_info["goal_xyzs"][0],
            "privileged/target_block_yaw": np.zeros(1),
        }
        action = self._oracle.select_action(None, {**self._env.compute_ob_info(), **target})
        return np.clip(action + self._rng.normal(0, self._deviation), -1, 1)
