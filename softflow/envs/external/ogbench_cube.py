"""Demonstrator of OGBench's single-task environments with cubes, based on OGBench's scripted oracle."""

from __future__ import annotations

from typing import Any, cast

import gymnasium
import numpy as np
from numpy.typing import NDArray

from softflow.errors import UserError

NOISE_SHAPE = np.array([1.0, 1.0, 1.0, 3.0, 10.0])  # for x, y, z, yaw, gripper, as in OGBench's `noisy` datasets
PLACED = 0.02  # the distance from its target, in metres, at which the oracle releases a cube
LIFTED = 0.16  # the height of the open gripper, in metres, at which the oracle has moved away from a cube


class OgbenchCubeDemonstrator:
    """Demonstrates one episode with OGBench's closed-loop oracle (arXiv 2410.20092); make one after each ``reset``.

    It places one cube after another. The targets should be free and on the table, as in task 2 of every scene.
    The oracle needs the targets, which the environment itself reports only when it collects data without a task.

    Args:
        env: A ``cube-...-singletask-...-v0`` environment, wrapped or not.
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
        # This draws from numpy's global generator where the arm goes after the last cube. The episode ends before.
        self._oracle.reset(None, None)
        self._targets = self._env._data.mocap_pos[self._env._cube_target_mocap_ids].copy()
        self._cube = 0

    def act(self) -> NDArray[np.floating]:
        """Return the action (5,) in [-1, 1] for the environment's current state; every call draws new noise."""
        info = self._env.compute_ob_info()
        cubes = np.array([info[f"privileged/block_{cube}_pos"] for cube in range(len(self._targets))])
        missing = np.linalg.norm(cubes - self._targets, axis=-1) > PLACED
        is_away = info["proprio/gripper_contact"] < 0.1 and info["proprio/effector_pos"][2] > LIFTED
        if not missing[self._cube] and missing.any() and is_away:
            self._cube = int(missing.argmax())
        target = {
            "privileged/target_block": self._cube,
            "privileged/target_block_pos": self._targets[self._cube],
            "privileged/target_block_yaw": np.zeros(1),
        }
        action = self._oracle.select_action(None, {**info, **target})
        return np.clip(action + self._rng.normal(0, self._deviation), -1, 1)
