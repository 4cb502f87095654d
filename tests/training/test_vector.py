"""Chunks as steps of a vector environment, in one process and in many."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from functools import partial
from itertools import count
from typing import Any

import gymnasium
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from softflow.data import Episode
from softflow.errors import EpisodeLost
from softflow.training.failures import EnvironmentFailed
from softflow.training.rollout import Rollout
from softflow.training.vector import ChunkExecution, VectorizationMode, closing, vectorize
from tests.training.vectors import side_by_side


def collect(
    make: Callable[[], gymnasium.Env],
    number: int,
    n_action_steps: int,
    episodes: int,
    mode: VectorizationMode = "sync",
    processes: int | None = None,
) -> Any:
    """The episodes of the seeds 0, 1, ... by their seed, and the failures."""

    def act(observation: np.ndarray, arms: np.ndarray) -> np.ndarray:
        """Whose action says what was seen when it was decided: 0.1 for each step of the episode."""
        return np.repeat(observation[:, None, 1:] / 100, n_action_steps, 1)

    with closing(vectorize([make] * number, n_action_steps, mode, processes)) as environments:
        rollout, done = Rollout(environments, iter(range(episodes))), list[Episode]()
        while (result := rollout.execute_chunks(act))[1]:
            done += result[0]
    return {int(episode.observation[0, 0]): episode for episode in done}, rollout.failures


def assert_same(one: dict[int, Episode], other: dict[int, Episode]) -> None:
    assert one.keys() == other.keys()
    for seed, episode in one.items():
        for name in ("observation", "action", "reward", "terminated", "truncated", "is_success"):
            np.testing.assert_array_equal(getattr(episode, name), getattr(other[seed], name))


@settings(max_examples=40)
@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=10),
    number=st.integers(2, 5),
    n_action_steps=st.integers(1, 4),
)
def test_many_environments_give_what_one_would(
    counting: Any, lengths: list[int], number: int, n_action_steps: int
) -> None:
    make = partial(counting, lengths.__getitem__, lambda seed: seed % 3 > 0)
    alone, _ = collect(make, 1, n_action_steps, len(lengths))
    together, _ = collect(make, number, n_action_steps, len(lengths))
    assert sorted(alone) == list(range(len(lengths)))
    assert_same(alone, together)


@pytest.mark.filterwarnings("ignore:an episode was given up")
@pytest.mark.parametrize(("number", "processes"), [(4, 4), (5, 2), (7, 3), (3, 1), (2, 5)])
def test_processes_give_what_one_process_would(counting: Any, number: int, processes: int) -> None:
    """Episodes of all lengths, two whose simulation fails, one at its first step; at the end environments are idle."""
    make = partial(counting, lambda seed: 1 + 5 * seed % 7, lambda seed: seed % 3 > 0, fails_at={3: 1, 5: 2})
    one, failed = collect(make, 1, 3, 11)
    many, failed_of_many = collect(make, number, 3, 11, "async", processes)
    assert failed == failed_of_many == 2 and sorted(one) == [0, 1, 2, 4, 6, 7, 8, 9, 10]
    assert_same(one, many)


def test_there_are_as_many_processes_as_cores(counting: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 3)
    for number, others in ((2, 1), (7, 2)):
        with closing(vectorize([counting] * number, 2, "async")):
            assert len(multiprocessing.active_children()) == others
        assert not multiprocessing.active_children()


def test_a_step_is_a_chunk(counting: Any) -> None:
    environment = ChunkExecution(lambda: counting(lambda seed: 5), 3)
    assert environment.action_space.shape == (3, 1) and environment.observation_space.shape == (3, 2)
    observation, _ = environment.reset(seed=7)
    np.testing.assert_array_equal(observation, [[7, 0], [7, 0], [7, 0]])
    observation, reward, terminated, truncated, info = environment.step(np.zeros((3, 1)))
    np.testing.assert_array_equal(observation, [[7, 1], [7, 2], [7, 3]])
    assert (reward, terminated, truncated, info["chunk"]["steps"]) == (1 + 2 + 3, False, False, 3)
    observation, reward, terminated, truncated, info = environment.step(np.zeros((3, 1)))
    np.testing.assert_array_equal(observation, [[7, 4], [7, 5], [7, 5]])  # the episode has ended after its fifth step
    assert (reward, terminated, truncated, info["end"].is_success) == (4 + 5, True, False, False)
    assert info["chunk"]["steps"] == 2
    np.testing.assert_array_equal(info["chunk"]["rewards"], [4, 5, 0])


def test_an_idle_environment_is_left_alone(counting: Any) -> None:
    inner = counting(lambda seed: 9)
    environment = ChunkExecution(lambda: inner, 2)
    environment.reset(seed=1)
    environment.step(np.zeros((2, 1)))
    environment.reset(options={"idle": True})
    observation, reward, terminated, truncated, info = environment.step(np.zeros((2, 1)))
    assert inner.total_steps == 2 and inner.seeds == [1]
    assert (reward, terminated, truncated, info["chunk"]["steps"]) == (0, False, False, 0)
    np.testing.assert_array_equal(observation, [[1, 2], [1, 2]])


def test_a_reset_that_fails_costs_its_episode(counting: Any) -> None:
    class Unplaced(counting):
        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            if seed in (1, 2):
                raise EpisodeLost("the cube fell")
            return super().reset(seed=seed, options=options)

    rollout = Rollout(side_by_side([Unplaced()], 2), iter(range(4)))
    done = []
    with pytest.warns(UserWarning, match="given up after 0 steps: the cube fell"):
        while (result := rollout.execute_chunks(lambda *_: np.zeros((1, 2, 1))))[1]:
            done += result[0]
    assert [episode.observation[0, 0] for episode in done] == [0, 3] and rollout.failures == 2


def test_an_environment_that_never_starts_is_an_error(counting: Any) -> None:
    class Unplaced(counting):
        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            raise EpisodeLost("the cube fell")

    rollout = Rollout(side_by_side([Unplaced()], 2), count())
    with (
        pytest.warns(UserWarning),
        pytest.raises(EnvironmentFailed, match="failed in 10 resets in a row: the cube fell"),
    ):
        rollout.execute_chunks(lambda *_: np.zeros((1, 2, 1)))
