"""Diagnostic tasks: small, without physics, and each made to tell one claim from its contrary.

    two_routes         the mean of two good ways is a bad one: a Gaussian fails, a density with two modes does not
    delayed_corridor   credit over many steps: values of chunks reach the decision in fewer updates than those of steps
    drifting_goal      every demonstration is off by the same little: a bounded residual corrects it, the latent cannot
    wrong_mode         half of the demonstrations go to the wrong place: the latent chooses, a bounded residual cannot

The most that can be earned in an episode is known, ``OPTIMAL_RETURN``: no step but the last is paid, and that one
never more than 1. Their demonstrators are in ``diagnostics_demonstrators.py``, what methods make of them in
``docs/diagnostics.md``.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from softflow.envs.generator_state import load_random_state, save_random_state

Array = NDArray[np.float64]
Observation = NDArray[np.float32]
Info = dict[str, Any]

STEP = 0.1
"""m that an action of 1 moves a point in a step."""


class Outcome(NamedTuple):
    """What an action led to."""

    reward: float = 0.0
    terminated: bool = False
    is_success: bool = False


class DiagnosticTask(gymnasium.Env[Observation, NDArray[np.floating]]):
    """What the tasks share: episodes, checks of actions, and states that can be returned to.

    A task says where an episode starts, what an action does to its ``state``, and what of it is seen.

    Attributes:
        state: (K,), everything that the rest of the episode depends on, besides the steps made.
        steps: made in this episode.

    Raises:
        ValueError: from ``step`` when an action has another shape or is not finite.
        gymnasium.error.ResetNeeded: from ``step`` before the first ``reset`` or after the end of the episode.
    """

    OPTIMAL_RETURN: ClassVar[float] = 1.0
    """Undiscounted; nothing earns more."""
    MAX_STEPS: ClassVar[int]
    """Time limit, after which an episode that has not ended is truncated."""

    def __init__(self, observation_dim: int, action_dim: int) -> None:
        self.observation_space = spaces.Box(-np.inf, np.inf, (observation_dim,), np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, (action_dim,), np.float32)
        self._running = False

    @abstractmethod
    def _start(self, rng: np.random.Generator) -> Array:
        """The state that an episode starts from."""

    @abstractmethod
    def _move(self, action: Array) -> Outcome:
        """Change the state; ``steps`` counts this one."""

    @abstractmethod
    def _observe(self) -> Array: ...

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Observation, Info]:
        super().reset(seed=seed)
        self.state, self.steps, self._running = self._start(self.np_random), 0, True
        return self._observe().astype(np.float32), {"is_success": False}

    def step(self, action: NDArray[np.floating]) -> tuple[Observation, float, bool, bool, Info]:
        if not self._running:
            raise gymnasium.error.ResetNeeded("call reset() before step(), also after the end of an episode")
        checked = np.asarray(action, np.float64)
        if checked.shape != self.action_space.shape:
            raise ValueError(f"an action has shape {self.action_space.shape}, got {checked.shape}")
        if not np.isfinite(checked).all():
            raise ValueError(f"an action must be finite, got {action}")
        self.steps += 1
        outcome = self._move(checked.clip(-1, 1))
        truncated = not outcome.terminated and self.steps >= self.MAX_STEPS
        self._running = not (outcome.terminated or truncated)
        observation = self._observe().astype(np.float32)
        return observation, outcome.reward, outcome.terminated, truncated, {"is_success": outcome.is_success}

    def get_state(self) -> dict[str, NDArray[Any]]:
        """All that the future depends on, random numbers included, as arrays that need no pickling."""
        return {
            "state": self.state.copy(),
            "steps": np.array(self.steps),
            "running": np.array(self._running),
            "random": save_random_state(self.np_random),
        }

    def set_state(self, state: Mapping[str, NDArray[Any]]) -> Observation:
        """Return to a state of ``get_state``, of this or another instance; steps from here are the same to the bit.

        Returns:
            The observation (O,) of that state.

        Raises:
            KeyError: an entry is missing.
        """
        self.state, self.steps, self._running = state["state"].copy(), int(state["steps"]), bool(state["running"])
        load_random_state(self.np_random, state["random"])
        return self._observe().astype(np.float32)


class TwoRoutesEnv(DiagnosticTask):
    """A point goes to a goal behind a disc, past it on either side.

    Claim: the mean of good ways is a bad one. Both sides are as good, the demonstrations take them in equal shares from
    the same place, and the disc is so near that whoever goes between the two runs into it within four steps.

    Observation (2,): position in m. Action (2,): velocity, 1 is 0.1 m a step.

    Reward: 1 within 0.15 m of the goal, which ends the episode. So does a step that ends in the disc, with 0.
    Truncated after 60 steps. Demonstrations earn 1.00.
    """

    MAX_STEPS = 60
    START_X, START_Y = -0.65, 0.02  # m; y is drawn within +- this
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
    """At a fork the first action chooses one of two lanes; which of them was right is told 31 steps later.

    Claim: what a critic learns travels back from the reward by one backup after another. A critic of single steps needs
    32 of them, a critic of chunks of four needs 8; and what it values is what was executed, so its target is not biased
    as an n-step return of another policy's actions would be. Each cell has a number of its own in the observation: a
    value cannot be guessed from the cells nearby. There are four corridors, so that a critic that knows nothing is
    right in about half of them.

    Observation (260,): 1 for the cell, 0 for the others. Action (1,): at the fork its sign says the lane; the point
    advances by itself, and no later action does anything.

    Reward: with the 32nd step, which ends the episode, 1 in the right lane and 0.5 in the other (not 0: methods that
    imitate what is rewarded are to imitate both). Demonstrations take both in equal shares and earn 0.75.
    """

    MAX_STEPS = 32
    CORRECT_LANE = (0, 1, 1, 0)  # of each corridor
    WRONG_REWARD = 0.5
    CELLS = 1 + 2 * MAX_STEPS  # of a corridor: the fork, then two lanes
    AT_FORK = -1  # in place of a lane

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
    """A point has four steps to reach a goal that has drifted by 0.05 m from where it is shown.

    Claim: the demonstrations aim at where the goal is shown, so no demonstrated chunk goes where it is, and a latent
    that stays near those of the demonstrations has nothing to choose. A small residual is enough: 0.125 of the action
    box in each step.

    Observation (5,): position in m, the vector to where the goal is shown in m, and the share of the time that is left.
    Action (2,): velocity, 1 is 0.1 m a step.

    Reward: with the last step, which ends the episode, 1 / (1 + (distance / 0.05 m)^2) of the goal. Success: 0.025 m
    or less. Demonstrations end 0.05 m away, give or take 0.007, never succeed and earn 0.5.
    """

    MAX_STEPS = 4
    DRIFT = np.array([0.03, 0.04])  # m
    SHOWN_LOW, SHOWN_HIGH = (0.2, -0.1), (0.3, 0.1)  # m, where the goal is shown
    HALF_REWARD = 0.05  # m from the goal at which the reward is 1/2
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
    """There are two goals, and a signal says which one counts. The demonstrations go to either, whatever it says.

    Claim: what is needed is demonstrated, and only has to be chosen. The latent chooses between the two; a residual,
    bounded to 0.2 of the action box, moves the point by 0.15 m on its way, and the goals are 1.2 m apart.

    Observation (3,): position in m, and the signal, 1 for the upper goal and -1 for the lower. Action (2,): velocity, 1
    is 0.1 m a step.

    Reward: within 0.15 m of a goal, which ends the episode, 1 if it is the one that counts, 0.25 if it is the other
    (not 0: methods that imitate what is rewarded are to imitate both). Truncated after 16 steps. Demonstrations earn
    0.625.
    """

    MAX_STEPS = 16
    GOAL_X, GOAL_Y = 0.4, 0.6  # m; the upper goal, the lower is at -y
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
