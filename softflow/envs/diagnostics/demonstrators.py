"""Demonstrators of the diagnostic tasks: a rule and some noise each, none cleverer than its task's claim allows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import gymnasium
import numpy as np

from softflow.envs.diagnostics.tasks import (
    STEP,
    Array,
    DelayedCorridorEnv,
    DiagnosticTask,
    DriftingGoalEnv,
    TwoRoutesEnv,
    WrongModeEnv,
)
from softflow.errors import UserError


class DiagnosticDemonstrator(ABC):
    """Demonstrates one episode; make one after each ``reset``.

    Attributes:
        mode: which of ``MODES`` equally frequent ways it takes.

    Args:
        env: an environment of ``TASK``, wrapped or not, as long as the action space is its own.
        rng: source of the mode and the noise.
        mode: drawn from ``rng`` if None.
        noise: scale of everything that is drawn but the mode; 0 shows the rule itself.
    """

    TASK: ClassVar[type[DiagnosticTask]]
    MODES: ClassVar[int] = 2
    ACTION_NOISE: ClassVar[float]
    """Standard deviation of what is added to each number of an action."""

    def __init__(
        self, env: gymnasium.Env[Any, Any], rng: np.random.Generator, mode: int | None = None, noise: float = 1.0
    ) -> None:
        if not isinstance(env.unwrapped, self.TASK):
            raise UserError(f"{type(self).__name__} cannot act in {env.unwrapped}")
        if mode not in (None, *range(self.MODES)):
            raise UserError(f"mode must be in 0 ... {self.MODES - 1}, got {mode!r}")
        self.env, self.rng, self.noise = env.unwrapped, rng, noise
        self.mode = int(rng.integers(self.MODES)) if mode is None else mode

    @abstractmethod
    def rule(self) -> Array:
        """The action without noise."""

    def act(self) -> Array:
        action = self.rule()
        return (action + self.noise * self.rng.normal(0, self.ACTION_NOISE, action.shape)).clip(-1, 1)


class TwoRoutesDemonstrator(DiagnosticDemonstrator):
    """Passes the disc above (mode 0) or below (mode 1), straight from one corner of its way to the next."""

    TASK = TwoRoutesEnv
    ACTION_NOISE = 0.1
    SPEED = 0.9
    CORNERS = ((-0.2, 0.75), (0.3, 0.75))  # m, of the way above

    def rule(self) -> Array:
        position = self.env.state
        ahead = [corner for corner in self.CORNERS if position[0] < corner[0] - STEP / 2]
        target = np.array([ahead[0][0], ahead[0][1] * (1 - 2 * self.mode)]) if ahead else TwoRoutesEnv.GOAL
        return self.SPEED * (target - position) / np.linalg.norm(target - position)


class DelayedCorridorDemonstrator(DiagnosticDemonstrator):
    """Takes lane 0 or 1, as its mode says."""

    TASK = DelayedCorridorEnv
    ACTION_NOISE = 0.1
    AT_FORK = 0.8

    def rule(self) -> Array:
        return np.array([self.AT_FORK * (2 * self.mode - 1) if self.env.steps == 0 else 0.0])


class DriftingGoalDemonstrator(DiagnosticDemonstrator):
    """Goes to where the goal is shown, evenly in the time that is left; aims a little off, each time otherwise."""

    TASK = DriftingGoalEnv
    MODES = 1
    ACTION_NOISE = 0.03
    AIM_NOISE = 0.006  # m

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.aim = self.env.state[2:] + self.noise * self.rng.normal(0, self.AIM_NOISE, 2)

    def rule(self) -> Array:
        return (self.aim - self.env.state[:2]) / (STEP * (DriftingGoalEnv.MAX_STEPS - self.env.steps))


class WrongModeDemonstrator(DiagnosticDemonstrator):
    """Goes straight to the upper goal (mode 0) or the lower (mode 1), whatever the signal says."""

    TASK = WrongModeEnv
    ACTION_NOISE = 0.05
    SPEED = 0.9

    def rule(self) -> Array:
        to_goal = np.array([WrongModeEnv.GOAL_X, WrongModeEnv.GOAL_Y * (1 - 2 * self.mode)]) - self.env.state[:2]
        return self.SPEED * to_goal / np.linalg.norm(to_goal)
