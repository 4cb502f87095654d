"""Diagnostic tasks: small tasks without physics, each designed to test one claim about methods.

    two_routes         the mean of two good routes is bad: a Gaussian fails, a density with two modes does not
    delayed_corridor   credit over many steps: chunk values reach the decision in fewer updates than step values
    drifting_goal      every demonstration has the same small error: a bounded residual corrects it, the latent cannot
    wrong_mode         half of the demonstrations go to the wrong goal: the latent chooses, a bounded residual cannot

The optimal return of an episode is known (``OPTIMAL_RETURN``): only the last step is rewarded, with at most 1. The
demonstrators are in ``demonstrators.py``, and the results of the methods in ``docs/notebook/diagnostics.md``.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from softflow.envs.stateful import Array, Outcome, StatefulTask

Observation = NDArray[np.float32]

STEP = 0.1
"""Distance in m that an action of 1 moves a point per step."""


class DiagnosticTask(StatefulTask[Observation]):
    """Base class of the tasks: one array is observed, and actions lie in [-1, 1]."""

    OPTIMAL_RETURN: ClassVar[float] = 1.0
    """Highest possible undiscounted return."""

    def __init__(self, observation_dim: int, action_dim: int) -> None:
        super().__init__(
            spaces.Box(-np.inf, np.inf, (observation_dim,), np.float32),
            spaces.Box(-1.0, 1.0, (action_dim,), np.float32),
        )

    @abstractmethod
    def _observe(self) -> Array:
        """Return the observation (O,) of the current state."""

    def observe(self) -> Observation:
        return self._observe().astype(np.float32)


class TwoRoutesEnv(DiagnosticTask):
    """A point moves to a goal behind a disc, passing it on either side.

    Claim: the mean of two good routes is bad. Both sides are equally good, and the demonstrations take them equally
    often from the same start. The disc is so near that the mean route runs into it within four steps.

    Observation (2,): position in m. Action (2,): velocity; 1 is 0.1 m per step.

    Reward: 1 within 0.15 m of the goal, which ends the episode. A step that ends in the disc also ends it, with reward
    0. The episode is truncated after 60 steps. Demonstrations have a return of 1.00.
    """

    MAX_STEPS = 60
    START_X, START_Y = -0.65, 0.02  # m; y is drawn from [-START_Y, START_Y]
    RADIUS = 0.5  # m, of the disc, which is centred at the origin
    GOAL = np.array([1.0, 0.0])
    TOLERANCE = 0.15  # m

    def __init__(self) -> None:
        super().__init__(observation_dim=2, action_dim=2)

    def _start(self, rng: np.random.Generator) -> Array:
        return np.array([self.START_X, rng.uniform(-self.START_Y, self.START_Y)])

    def _move(self, action: Array) -> Outcome:
        self.state = self.state + STEP * action
        reached = bool(np.linalg.norm(self.GOAL - self.state) < self.TOLERANCE)
        return Outcome(float(reached), reached or bool(np.linalg.norm(self.state) < self.RADIUS), reached)

    def _observe(self) -> Array:
        return self.state


class DelayedCorridorEnv(DiagnosticTask):
    """At a fork the first action chooses one of two lanes; the reward reveals 31 steps later whether it was correct.

    Claim: a critic learns backwards from the reward, one backup at a time. A per-step critic needs 32 backups, and a
    critic of chunks of four needs 8. The chunk critic values the actions that were executed, so its target lacks the
    bias of an n-step return over another policy's actions. The observation has one number per cell, so a value cannot
    be generalized from nearby cells. With four corridors, an untrained critic is right in about half of them.

    Observation (260,): 1 for the current cell, 0 for the others. Action (1,): at the fork its sign chooses the lane.
    The point advances by itself, and later actions have no effect.

    Reward: at the 32nd step, which ends the episode, 1 in the correct lane and 0.5 in the other. The latter is not 0
    so that methods that imitate rewarded actions imitate both. Demonstrations take both lanes equally often and have a
    mean return of 0.75.
    """

    MAX_STEPS = 32
    CORRECT_LANE = (0, 1, 1, 0)  # of each corridor
    WRONG_REWARD = 0.5
    CELLS = 1 + 2 * MAX_STEPS  # of a corridor: the fork, then two lanes
    AT_FORK = -1  # stands for the lane before it is chosen

    def __init__(self) -> None:
        super().__init__(observation_dim=len(self.CORRECT_LANE) * self.CELLS, action_dim=1)

    def _start(self, rng: np.random.Generator) -> Array:
        return np.array([rng.integers(len(self.CORRECT_LANE)), self.AT_FORK], np.float64)

    def _move(self, action: Array) -> Outcome:
        if self.steps == 1:
            self.state[1] = action[0] > 0
        corridor, lane = map(int, self.state)
        correct = lane == self.CORRECT_LANE[corridor]
        if self.steps < self.MAX_STEPS:
            return Outcome()
        return Outcome(1.0 if correct else self.WRONG_REWARD, True, correct)

    def _observe(self) -> Array:
        corridor, lane = map(int, self.state)
        cell = 0 if lane == self.AT_FORK else 1 + 2 * (self.steps - 1) + lane
        observation = np.zeros(len(self.CORRECT_LANE) * self.CELLS)
        observation[corridor * self.CELLS + cell] = 1
        return observation


class DriftingGoalEnv(DiagnosticTask):
    """A point has four steps to reach a goal that has drifted by 0.05 m from its displayed position.

    Claim: the demonstrations aim at the displayed goal, so no demonstrated chunk reaches the true one, and latents near
    those of the demonstrations do not help. A small residual is enough: 0.125 of the action box in each step.

    Observation (5,): position in m, the vector to the displayed goal in m, and the share of the time that is left.
    Action (2,): velocity; 1 is 0.1 m per step.

    Reward: at the last step, which ends the episode, 1 / (1 + (distance / 0.05 m)^2), with the distance to the true
    goal. Success: a distance of at most 0.025 m. Demonstrations end 0.05 +- 0.007 m away, never succeed and have a
    mean return of 0.5.
    """

    MAX_STEPS = 4
    DRIFT = np.array([0.03, 0.04])  # m
    SHOWN_LOW, SHOWN_HIGH = (0.2, -0.1), (0.3, 0.1)  # m, range of the displayed goal
    HALF_REWARD = 0.05  # m, distance from the goal at which the reward is 1/2
    TOLERANCE = 0.025  # m

    def __init__(self) -> None:
        super().__init__(observation_dim=5, action_dim=2)

    def _start(self, rng: np.random.Generator) -> Array:
        return np.concatenate([np.zeros(2), rng.uniform(self.SHOWN_LOW, self.SHOWN_HIGH)])

    def _move(self, action: Array) -> Outcome:
        self.state[:2] += STEP * action
        if self.steps < self.MAX_STEPS:
            return Outcome()
        position, shown = self.state[:2], self.state[2:]
        distance = float(np.linalg.norm(shown + self.DRIFT - position))
        return Outcome(1 / (1 + (distance / self.HALF_REWARD) ** 2), True, distance <= self.TOLERANCE)

    def _observe(self) -> Array:
        position, shown = self.state[:2], self.state[2:]
        return np.concatenate([position, shown - position, [1 - self.steps / self.MAX_STEPS]])


class WrongModeEnv(DiagnosticTask):
    """A signal tells which of two goals is correct, but the demonstrations go to either one regardless of it.

    Claim: the demonstrations contain the right behaviour, which only has to be chosen. The latent can choose between
    the goals. A residual, bounded to 0.2 of the action box, moves the point by only 0.15 m, and the goals are 1.2 m
    apart.

    Observation (3,): position in m, and the signal: 1 for the upper goal, -1 for the lower one. Action (2,): velocity;
    1 is 0.1 m per step.

    Reward: within 0.15 m of a goal, which ends the episode, 1 if the goal is correct and 0.25 otherwise. The latter is
    not 0 so that methods that imitate rewarded actions imitate both. The episode is truncated after 16 steps.
    Demonstrations have a mean return of 0.625.
    """

    MAX_STEPS = 16
    GOAL_X, GOAL_Y = 0.4, 0.6  # m, the upper goal; the lower one is at -GOAL_Y
    TOLERANCE = 0.15  # m
    WRONG_REWARD = 0.25

    def __init__(self) -> None:
        super().__init__(observation_dim=3, action_dim=2)

    def _start(self, rng: np.random.Generator) -> Array:
        return np.array([0.0, 0.0, rng.choice([-1.0, 1.0])])

    def _move(self, action: Array) -> Outcome:
        self.state[:2] += STEP * action
        x, y, signal = self.state
        if np.hypot(x - self.GOAL_X, abs(y) - self.GOAL_Y) >= self.TOLERANCE:
            return Outcome()
        correct = bool(y * signal > 0)
        return Outcome(1.0 if correct else self.WRONG_REWARD, True, correct)

    def _observe(self) -> Array:
        return self.state
