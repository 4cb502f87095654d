"""Demonstrator of OGBench's single-task `cube-single` environments, based on OGBench's scripted oracle."""

from __future__ import annotations

from typing import Any, cast

import gymnasium
import numpy as np
from numpy.typing import NDArray

from softflow.errors import UserError

NOISE_SHAPE = np.array([1.0, 1.0, 1.0, 3.0, 10.0])  # for x, y, z, yaw, gripper, as in OGBench's `noisy` datasets


class OgbenchCubeDemonstrator:
    """Demonstrates one episode with OGBench's closed-loop oracle (arXiv 2410.20092); make one after each ``reset``.

    The oracle needs the target, which the environment itself reports only when it collects data without a task.

    Args:
        env: A ``cube-single-singletask-...-v0`` environment, wrapped or not.
        rng: Source of the noise.
        noise: Upper bound of the noise's standard deviation on the action's x, y and z; each episode draws it uniformly
            from 0 to this bound. The noise is three times as large on the yaw and ten times on the gripper.

    Attributes:
        mode: Always -1, because the oracle has no modes.

    Raises:
        UserError: ``noise`` is negative.
    """

    mode = -1

    def __init__(self, env: gymnasium.Env[Any, Any], rng: np.random.Generator, noise: float = 0.1) -> None:
        from ogbench.manipspace.oracles.markov.cube_markov import CubeMarkovOracle

        if noise < 0:
            raise UserError(f"noise must not be negative, got {noise}")
        self._env = cast(Any, env.unwrapped)
        self._rng, self._deviation = rng, rng.uniform(0, noise) * NOISE_SHAPE
        self._oracle = CubeMarkovOracle(env=self._env)
        # This draws from numpy's global generator where the arm goes after placing the cube; the episode ends before.
        self._oracle.reset(None, None)

    def act(self) -> NDArray[np.floating]:
        """Return the action (5,) in [-1, 1] for the environment's current state; every call draws new noise."""
        target = {
            "privileged/target_block": 0,
            "privileged/target_block_pos": self._env.cur_task_info["goal_xyzs"][0],
            "privileged/target_block_yaw": np.zeros(1),
        }
        action = self._oracle.select_action(None, {**self._env.compute_ob_info(), **target})
        return np.clip(action + self._rng.normal(0, self._deviation), -1, 1)
