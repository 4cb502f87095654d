"""Open-loop replays of recorded actions in an environment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softflow.envs.registry import Env
from softflow.errors import EpisodeLost
from softflow.task import TaskSpec
from softflow.training.checked_environment import ENVIRONMENT_ERRORS, CheckedEnvironment
from softflow.training.failures import EnvironmentFailed, Failure
from softflow.training.global_state import environments_turn
from softflow.training.success import SuccessRule


@dataclass(frozen=True)
class Replay:
    """How an environment rewarded and judged recorded actions.

    Attributes:
        reward: The rewards (t,). t is less than the number of actions if the episode ended.
        terminated: Whether the episode ended in a terminal state.
        is_success: Whether the episode is a success if it ends here.
        judges_success: Whether the environment, or the rule, told whether the episode is a success.
    """

    reward: NDArray[np.float64]
    terminated: bool
    is_success: bool
    judges_success: bool

    def __len__(self) -> int:
        """The number t of steps."""
        return len(self.reward)


class Replayer:
    """Executes actions in one environment.

    Args:
        make: Makes the environment.
        success: The rule by which replays count as successes.

    Attributes:
        task: The task of the environment.
    """

    def __init__(self, make: Callable[[], Env], success: SuccessRule) -> None:
        with environments_turn():
            self._environment = CheckedEnvironment(make(), success)
            self.task = TaskSpec.from_env(self._environment)

    def close(self) -> None:
        with environments_turn():
            self._environment.close()

    def start(self, seed: int) -> NDArray[Any]:
        """Return the first observation (O,) after a reset with this seed."""
        return self.replay(seed, np.zeros((0, self.task.action_dim), np.float32))[0][0]

    def replay(self, seed: int, actions: NDArray[np.float32]) -> tuple[NDArray[Any], Replay]:
        """Reset the environment with a seed and execute actions (T, A) in [-1, 1] until the episode ends.

        An episode that the environment gives up, as an unstable simulation, ends there without success.

        Returns:
            The rows (t + 1, O) from the reset on, and the rest. They are apart because images take much memory.

        Raises:
            EnvironmentFailed: The environment raised an error or returned what is malformed.
        """
        rows: list[NDArray[Any]] = []
        rewards: list[float] = []
        terminated = is_success = False
        with environments_turn():
            try:
                rows.append(self._environment.reset(seed=seed)[0])
                for action in actions:
                    row, reward, terminated, truncated, info = self._environment.step(action)
                    rows.append(row)
                    rewards.append(reward)
                    is_success = info["is_success"]
                    if terminated or truncated:
                        break
            except ENVIRONMENT_ERRORS as error:
                if not (isinstance(error, EpisodeLost) and rows):
                    place = f"step {self._environment.steps} of the replay with seed {seed}"
                    raise EnvironmentFailed(f"{place}: {Failure.of(error).message}") from error
                is_success = False
        judged = self._environment.judges_success
        return np.stack(rows), Replay(np.array(rewards), terminated, is_success, judged)
