"""What records demonstrations, whoever shows them: one take of an episode, and what follows from errors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from softflow.data import Episode, EpisodeBuilder, outcome_of
from softflow.envs import find_layout
from softflow.envs.registry import Env
from softflow.errors import UserError
from softflow.task import TaskSpec
from softflow.training.checked_environment import ENVIRONMENT_ERRORS, CheckedEnvironment
from softflow.training.failures import Lost
from softflow.training.global_state import environments_turn
from softflow.training.success import SuccessRule

DEMONSTRATION_SEEDS = 10_000
"""Number of environment seeds reserved for the demonstrations of each run."""


def task_of(environment: CheckedEnvironment, success: SuccessRule | None) -> TaskSpec:
    """Return the task of demonstrations in an environment, whose successes are judged by a rule."""
    return replace(TaskSpec.from_env(environment), success=(success or SuccessRule()).text)


class Take:
    """One episode while it is recorded. The environment is reset at the start.

    Attributes:
        environment: The environment.
        observation: The last observation, (O,).
        earned: The sum of the rewards so far.
    """

    def __init__(self, environment: CheckedEnvironment, seed: int) -> None:
        self.environment, self.earned = environment, 0.0
        self._builder = EpisodeBuilder(find_layout(environment), seed=seed)
        self._terminated, self._truncated, self._info = False, False, dict[str, Any]()
        self.observation, _ = environment.reset(seed=seed)

    def __len__(self) -> int:
        """The number of steps so far."""
        return len(self._builder)

    def step(self, action: np.ndarray) -> None:
        """Execute an action (A,) and record it."""
        following, reward, self._terminated, self._truncated, self._info = self.environment.step(action)
        self._builder.append(self.observation, action, reward)
        self.observation = following
        self.earned += reward

    @property
    def has_ended(self) -> bool:
        """Whether the environment has ended the episode."""
        return self._terminated or self._truncated

    @property
    def is_success(self) -> bool:
        """Whether the episode would be a success if it ended here."""
        return bool(self._info.get("is_success", False))

    def finish(self, is_success: bool, mode: int = -1) -> Episode:
        """Return the episode. It counts as truncated if the environment has not ended it."""
        ending = self._terminated, self._truncated or not self._terminated, is_success
        return self._builder.finish(self.observation, *ending, mode, outcome_of(self._info))


class Recorder(ABC):
    """Records the episode of an index, in an environment that is recreated after an error.

    Args:
        make: Makes an environment.
        seed: The seed of the episodes.
        success: The rule by which episodes count as successes.
    """

    def __init__(self, make: Callable[[], Env], seed: int, success: SuccessRule | None) -> None:
        self.make, self.seed, self.success = make, seed, success
        self.environment: CheckedEnvironment | None = None

    @abstractmethod
    def show(self, environment: CheckedEnvironment, index: int) -> Episode:
        """Record an episode, or raise one of `ENVIRONMENT_ERRORS`."""

    def __call__(self, index: int) -> Episode | Lost:
        with environments_turn():
            return self._show_or_lose(index)

    def _show_or_lose(self, index: int) -> Episode | Lost:
        if self.environment is None:
            self.environment = self.checked()
        environment = self.environment
        try:
            return self.show(environment, index)
        except UserError:
            raise
        except ENVIRONMENT_ERRORS as error:
            lost = Lost.of(error, f"step {environment.steps} of the demonstration with seed {self.seed_of(index)}")
            if lost.failure.is_error:
                self.environment = None
            return lost

    def checked(self) -> CheckedEnvironment:
        return CheckedEnvironment(self.make(), self.success)

    def seed_of(self, index: int) -> int:
        return self.seed * DEMONSTRATION_SEEDS + index
