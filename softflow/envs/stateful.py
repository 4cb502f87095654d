"""Base class of tasks without physics, whose whole state is one array."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from softflow.envs.generator_state import load_random_state, save_random_state

Array = NDArray[np.float64]
Info = dict[str, Any]
Observation = TypeVar("Observation")


class Outcome(NamedTuple):
    """Outcome of an action."""

    reward: float = 0.0
    terminated: bool = False
    is_success: bool = False


class StatefulTask(gymnasium.Env[Observation, Any], Generic[Observation]):
    """Base class of the tasks: episodes, checks of actions, and saving and restoring of states.

    A task defines the initial state, the effect of an action on ``state``, and the observation. Actions are clipped to
    the bounds of the action space.

    Attributes:
        state: State (K,) that, together with ``steps``, determines the rest of the episode.
        steps: Number of steps made in this episode.

    Raises:
        ValueError: In ``step``, the action has another shape or is not finite.
        gymnasium.error.ResetNeeded: In ``step``, no episode is running.
    """

    MAX_STEPS: ClassVar[int]
    """Time limit in steps, after which an episode is truncated."""

    def __init__(self, observation_space: spaces.Space[Any], action_space: spaces.Box) -> None:
        self.observation_space, self.action_space = observation_space, action_space
        self._low, self._high = action_space.low.astype(np.float64), action_space.high.astype(np.float64)
        self._running = False

    @abstractmethod
    def _start(self, rng: np.random.Generator) -> Array:
        """Return the initial state of an episode."""

    @abstractmethod
    def _move(self, action: Array) -> Outcome:
        """Apply the action to the state; ``steps`` already counts this step."""

    @abstractmethod
    def observe(self) -> Observation:
        """Return the observation of the current state."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Observation, Info]:
        super().reset(seed=seed)
        self.state, self.steps, self._running = self._start(self.np_random), 0, True
        return self.observe(), {"is_success": False}

    def step(self, action: NDArray[np.floating]) -> tuple[Observation, float, bool, bool, Info]:
        if not self._running:
            raise gymnasium.error.ResetNeeded("call reset() before step(), also after the end of an episode")
        checked = np.asarray(action, np.float64)
        if checked.shape != self.action_space.shape:
            raise ValueError(f"an action has shape {self.action_space.shape}, got {checked.shape}")
        if not np.isfinite(checked).all():
            raise ValueError(f"an action must be finite, got {action}")
        self.steps += 1
        outcome = self._move(np.minimum(np.maximum(checked, self._low), self._high))
        truncated = not outcome.terminated and self.steps >= self.MAX_STEPS
        self._running = not (outcome.terminated or truncated)
        return self.observe(), outcome.reward, outcome.terminated, truncated, {"is_success": outcome.is_success}

    def get_state(self) -> dict[str, NDArray[Any]]:
        """Return the complete state, including the random generator, as arrays that need no pickling."""
        return {
            "state": self.state.copy(),
            "steps": np.array(self.steps),
            "running": np.array(self._running),
            "random": save_random_state(self.np_random),
        }

    def set_state(self, state: Mapping[str, NDArray[Any]]) -> Observation:
        """Restore a state from ``get_state`` of this or another instance; later steps are reproduced bit for bit.

        Returns:
            The observation of that state.

        Raises:
            KeyError: An entry is missing.
        """
        self.state, self.steps, self._running = state["state"].copy(), int(state["steps"]), bool(state["running"])
        load_random_state(self.np_random, state["random"])
        return self.observe()
