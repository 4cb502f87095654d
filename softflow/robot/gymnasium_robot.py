"""Any gymnasium environment as a robot, in real time."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from softflow.errors import UserError
from softflow.robot.one_thread import OneThread
from softflow.robot.robot import Action, Robot, require_same_task
from softflow.task import TaskSpec
from softflow.training.checked_environment import CheckedEnvironment
from softflow.training.success import SuccessRule


class GymnasiumRobot(Robot):
    """Steps an environment at each command.

    The simulated world does not wait: if a command comes late, the steps that it missed are made first, with the action
    before it. The environment runs in one thread, because an environment that renders may not change threads.

    Args:
        env: An environment of `softflow.envs.make_env`.
        rate: The rate at which commands come, in hertz. None lets the world wait for late commands.
        success: The rule by which episodes count as successes.
        seed: The seed of the first episode. The others use consecutive seeds.
        clock: A monotonic clock that returns seconds.

    Attributes:
        environment: The environment, checked and judged by the rule.

    Raises:
        UserError: The environment was not made by `make_env`.
    """

    def __init__(
        self,
        env: gymnasium.Env[Any, Any],
        rate: float | None = None,
        success: SuccessRule | None = None,
        seed: int = 0,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        if not isinstance(env.metadata.get("task_spec"), TaskSpec):
            raise UserError("the environment has no description: make it with softflow.envs.make_env")
        self.environment, self._task = CheckedEnvironment(OneThread(env), success), TaskSpec.from_env(env)
        self._commanded = self._task
        self._rate, self._seed, self._clock = rate, seed, clock

    @property
    def task(self) -> TaskSpec:
        return self._task

    def require_task(self, task: TaskSpec) -> None:
        """Compare the tasks. The policy may name the numbers of an action that is one array in the environment."""
        require_same_task(task, self._task)
        self._commanded = task.ordered_as(self._task)  # the environment takes the numbers in its own order

    def reset(self) -> None:
        self._row, _ = self.environment.reset(seed=self._seed)
        self._seed += 1
        self._ended = self._success = False
        self._unit: NDArray[np.floating] | None = None
        self._returned = 0.0

    def observe(self) -> Mapping[str, Any]:
        return self._task.named(self._row)

    def command(self, action: Action) -> None:
        if self._unit is not None and self._rate is not None:
            missed = round((self._clock() - self._returned) * self._rate) - 1
            for _ in range(missed):
                self._step(self._unit)
        self._unit = self._commanded.unit_actions(action)
        self._step(self._unit)
        self._returned = self._clock()

    def stop(self) -> None:
        """Do nothing: the world stands still between commands."""

    def is_success(self) -> bool:
        return self._success

    def has_ended(self) -> bool:
        return self._ended

    def close(self) -> None:
        self.environment.close()

    def _step(self, unit: NDArray[np.floating]) -> None:
        if self._ended:
            return
        self._row, _, terminated, truncated, info = self.environment.step(unit)
        self._ended, self._success = terminated or truncated, info["is_success"]
