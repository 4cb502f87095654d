"""Chunks executed in many environments at once."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence

import gymnasium as gym
import numpy as np

from softflow.data import Decision, Episode, EpisodeBuilder

Act = Callable[[np.ndarray], np.ndarray]
"""Observations (B, O) -> chunks (B, H, A)."""
Explore = Callable[[np.ndarray], np.ndarray | Decision[np.ndarray]]
"""The same, perhaps with a record of how it came to them, which is kept in the episodes."""


class Rollout:
    """Runs environments side by side: each executes the first `execute` actions of a chunk, then asks for another.

    Chunks are asked for in one batch. Every reset is made here, with the next seed (no autoreset): an episode keeps
    its true final observation, and nothing of a chunk is executed after its episode has ended.

    An environment whose simulation fails (RuntimeError from `step`) loses its episode, with a warning, and starts the
    next; `failures` counts these.

    Args:
        environments: gymnasium environments with flat Box observations and actions in [-1, 1].
        execute: steps of a chunk that are executed.
        seeds: one for each episode; when they run out, environments fall idle.
    """

    def __init__(self, environments: Sequence[gym.Env], execute: int, seeds: Iterator[int]) -> None:
        self.execute = execute
        self.failures = 0
        self._environments = environments
        self._seeds = seeds
        self._running: dict[int, tuple[np.ndarray, EpisodeBuilder]] = {}

    def execute_chunks(self, act: Explore) -> tuple[list[Episode], int]:
        """Execute one chunk in every environment: the episodes that ended, and the number of primitive steps.

        No steps mean that the seeds have run out and every episode has ended.
        """
        for index in range(len(self._environments)):
            if index not in self._running and (seed := next(self._seeds, None)) is not None:
                self._running[index] = np.array(self._environments[index].reset(seed=seed)[0]), EpisodeBuilder()
        if not self._running:
            return [], 0
        running = list(self._running)
        chunks = act(np.stack([self._running[index][0] for index in running]))
        if isinstance(chunks, Decision):
            chunks, records = chunks
            for index, record in zip(running, records, strict=True):
                self._running[index][1].decide(record)
        episodes, steps = [], 0
        for index, chunk in zip(running, chunks, strict=True):
            for action in chunk[: self.execute]:
                steps += 1
                ended, episode = self._step(index, action)
                if episode is not None:
                    episodes.append(episode)
                if ended:
                    break
        return episodes, steps

    def collect(self, act: Explore, steps: int) -> tuple[list[Episode], int]:
        """Execute chunks until at least `steps` primitive steps are made.

        Unfinished episodes go on in the next call.
        """
        episodes, executed = [], 0
        while executed < steps:
            ended, count = self.execute_chunks(act)
            if not count:
                raise RuntimeError("no seeds are left to start an episode with")
            episodes += ended
            executed += count
        return episodes, executed

    def _step(self, index: int, action: np.ndarray) -> tuple[bool, Episode | None]:
        observation, builder = self._running[index]
        try:
            following, reward, terminated, truncated, info = self._environments[index].step(action)
        except RuntimeError as error:
            warnings.warn(f"an episode was given up after {len(builder)} steps: {error}", stacklevel=2)
            self.failures += 1
            del self._running[index]
            return True, None
        builder.append(observation, action, float(reward))
        self._running[index] = np.array(following), builder  # a copy: some environments write into one buffer
        if not (terminated or truncated):
            return False, None
        del self._running[index]
        return True, builder.finish(following, bool(terminated), bool(truncated), bool(info.get("is_success", False)))
