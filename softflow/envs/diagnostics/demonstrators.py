"""Demonstrators of the diagnostic tasks. Each is a simple rule plus noise, as its task's claim requires."""

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
    """Demonstrates one episode; make a new one after each ``reset``.

    Args:
        env: An environment of ``TASK``. It may be wrapped if its action space is unchanged.
        rng: Source of the mode and the noise.
        mode: Which of the ``MODES`` ways to solve the task to use, counted from 0; None draws one with equal
            probabilities.
        noise: Scale of the noise in each demonstration, relative to the default of 1. Higher values give less accurate
            demonstrations; 0 follows the rule exactly.

    Attributes:
        mode: The mode of this episode.
    """

    TASK: ClassVar[type[DiagnosticTask]]
    MODES: ClassVar[int] = 2
    ACTION_NOISE: ClassVar[float]
    """Standard deviation of the noise added to each number of an action."""

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
        """Return the action without noise."""

    def act(self) -> Array:
        action = self.rule()
        return (action + self.noise * self.rng.normal(0, self.ACTION_NOISE, action.shape)).clip(-1, 1)


class TwoRoutesDemonstrator(DiagnosticDemonstrator):
    """Passes the disc above (mode 0) or below (mode 1), along straight lines between waypoints."""

    TASK = TwoRoutesEnv
    ACTION_NOISE = 0.1
    SPEED = 0.9
    CORNERS = ((-0.2, 0.75), (0.3, 0.75))  # m, waypoints of the upper route

    def rule(self) -> Array:
        position = self.env.state
        ahead = [corner for corner in self.CORNERS if position[0] < corner[0] - STEP / 2]
        target = np.array([ahead[0][0], ahead[0][1] * (1 - 2 * self.mode)]) if ahead else TwoRoutesEnv.GOAL
        return self.SPEED * (target - position) / np.linalg.norm(target - position)


class DelayedCorridorDemonstrator(DiagnosticDemonstrator):
    """Takes lane 0 in mode 0 and lane 1 in mode 1."""

    TASK = DelayedCorridorEnv
    ACTION_NOISE = 0.1
    AT_FORK = 0.8

    def rule(self) -> Array:
        return np.array([self.AT_FORK * (2 * self.mode - 1) if self.env.steps == 0 else 0.0])


class DriftingGoalDemonstrator(DiagnosticDemonstrator):
    """Moves to the displayed goal at a constant speed over the remaining time, with an aiming error per episode."""

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
    """Moves straight to the upper goal (mode 0) or the lower one (mode 1), regardless of the signal."""

    TASK = WrongModeEnv
    ACTION_NOISE = 0.05
    SPEED = 0.9

    def rule(self) -> Array:
        to_goal = np.array([WrongModeEnv.GOAL_X, WrongModeEnv.GOAL_Y * (1 - 2 * self.mode)]) - self.env.state[:2]
        return self.SPEED * to_goal / np.linalg.norm(to_goal)
