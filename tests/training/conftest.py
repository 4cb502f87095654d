"""A toy environment that tells where each of its observations comes from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from softflow.errors import EpisodeLost


class Counting(gymnasium.Env[np.ndarray, np.ndarray]):
    """Observation (seed of the episode, steps made in it), reward 1, 2, 3, ...; stepping on after the end is an error.

    Args:
        length: steps of an episode, by its seed.
        terminates: whether it ends in a terminal state rather than at a time limit, by its seed.
        fails_at: step at which the episode is lost, by seed.
        one_buffer: write every observation into the same array.
    """

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(
        self,
        length: Callable[[int], int] = lambda seed: 5,
        terminates: Callable[[int], bool] = lambda seed: True,
        fails_at: Mapping[int, int] | None = None,
        one_buffer: bool = False,
    ) -> None:
        self.length, self.terminates, self.fails_at = length, terminates, fails_at or {}
        self.buffer = np.zeros(2, np.float32) if one_buffer else None
        self.seeds: list[int] = []
        self.total_steps = 0
        self.running = False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        assert seed is not None
        self.seeds.append(seed)
        self.steps, self.running = 0, True
        return self._observation(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        assert self.running, "stepped after the end of the episode"
        assert action.shape == (1,)
        seed = self.seeds[-1]
        self.steps += 1
        self.total_steps += 1
        if self.fails_at.get(seed) == self.steps:
            self.running = False
            raise EpisodeLost("the simulation became unstable")
        ended = self.steps == self.length(seed)
        self.running = not ended
        terminated = ended and self.terminates(seed)
        info = {"is_success": seed % 2 == 0} if ended else {}
        return self._observation(), float(self.steps), terminated, ended and not terminated, info

    def _observation(self) -> np.ndarray:
        observation = np.array([self.seeds[-1], self.steps], np.float32)
        if self.buffer is None:
            return observation
        self.buffer[:] = observation
        return self.buffer


class Restorable(Counting):
    """One whose state can be saved."""

    def get_state(self) -> dict[str, np.ndarray]:
        return {"seed": np.array(self.seeds[-1]), "steps": np.array(self.steps), "running": np.array(self.running)}

    def set_state(self, state: Mapping[str, np.ndarray]) -> None:
        self.seeds[-1], self.steps, self.running = int(state["seed"]), int(state["steps"]), bool(state["running"])


@pytest.fixture(scope="session")
def counting() -> type[Counting]:
    return Counting


@pytest.fixture(scope="session")
def restorable() -> type[Restorable]:
    return Restorable
