"""Rollouts: what an episode holds, what is executed, and what is counted."""

from __future__ import annotations

import io
from itertools import count
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from softflow.data import Decision, Episode
from softflow.training.checkpoint import as_arrays, as_tensors
from softflow.training.rollout import Rollout
from tests.training.vectors import side_by_side

HORIZON = 4


def numbered(observation: np.ndarray) -> np.ndarray:
    """Chunks whose actions are 0.0, 0.1, 0.2, 0.3."""
    assert observation.dtype == np.float32 and observation.ndim == 2
    return np.broadcast_to(np.arange(HORIZON, dtype=np.float32)[:, None] / 10, (len(observation), HORIZON, 1))


def assert_whole(episode: Episode, length: int, n_action_steps: int, terminated: bool) -> None:
    """The episode is all of one seed, from its first to its true final observation, in chunks of `n_action_steps`."""
    seed = episode.observation[0, 0]
    np.testing.assert_array_equal(episode.observation[:, 0], seed)
    np.testing.assert_array_equal(episode.observation[:, 1], np.arange(length + 1))
    np.testing.assert_array_equal(episode.reward, np.arange(1, length + 1))
    np.testing.assert_allclose(episode.action[:, 0], np.arange(length) % n_action_steps / 10, rtol=1e-6)
    assert (episode.terminated, episode.truncated) == (terminated, not terminated)
    assert episode.is_success == (seed % 2 == 0)


def seeds_of(episodes: list[Episode]) -> list[int]:
    return [int(episode.observation[0, 0]) for episode in episodes]


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=12),
    environments=st.integers(1, 4),
    n_action_steps=st.integers(1, HORIZON),
    one_buffer=st.booleans(),
)
def test_nothing_crosses_a_reset(
    counting: Any, lengths: list[int], environments: int, n_action_steps: int, one_buffer: bool
) -> None:
    envs = [
        counting(lengths.__getitem__, lambda seed: seed % 3 > 0, one_buffer=one_buffer) for _ in range(environments)
    ]
    rollout = Rollout(side_by_side(envs, n_action_steps), iter(range(len(lengths))))
    done, steps = [], 0
    while True:
        ended, count_ = rollout.execute_chunks(numbered)
        if not count_:
            break
        done += ended
        steps += count_
        assert count_ <= environments * n_action_steps
    assert sorted(seeds_of(done)) == list(range(len(lengths)))
    for episode in done:
        seed = seeds_of([episode])[0]
        assert_whole(episode, lengths[seed], n_action_steps, terminated=seed % 3 > 0)
    # Primitive steps, and not one after the end of an episode: the environment would have objected.
    assert steps == sum(lengths) == sum(env.total_steps for env in envs)
    assert rollout.failures == 0 and rollout.execute_chunks(numbered) == ([], 0)


def test_a_chunk_is_cut_short_by_the_end_of_its_episode(counting: Any) -> None:
    env = counting(lambda seed: 5)
    rollout = Rollout(side_by_side([env], 4), count())
    assert [rollout.execute_chunks(numbered)[1] for _ in range(4)] == [4, 1, 4, 1]
    assert env.seeds == [0, 1]


def test_chunks_are_asked_for_in_one_batch_where_the_environments_are(counting: Any) -> None:
    asked = []

    def act(observation: np.ndarray) -> np.ndarray:
        asked.append(observation.tolist())
        return numbered(observation)

    rollout = Rollout(side_by_side([counting(lambda seed: 3 + seed) for _ in range(2)], 2), iter([0, 1, 2]))
    while rollout.execute_chunks(act)[1]:
        pass
    # Seed 0 ends after 3 steps and seed 2 takes its place; seed 1 ends after 4, then one environment is idle.
    assert asked == [[[0, 0], [1, 0]], [[0, 2], [1, 2]], [[2, 0]], [[2, 2]], [[2, 4]]]


def test_each_decision_is_recorded_in_its_own_episode(counting: Any) -> None:
    """Environments with counters of their own; episodes that end inside a chunk, and one whose simulation fails."""
    lengths, n_action_steps = [5, 2, 7, 4, 1, 6], 2
    envs = [counting(lengths.__getitem__, fails_at={3: 3}) for _ in range(3)]

    def decide(observation: np.ndarray) -> Decision[np.ndarray]:
        return Decision(numbered(observation), np.concatenate([10 * observation, -observation], 1))

    rollout, done = Rollout(side_by_side(envs, n_action_steps), iter(range(len(lengths)))), []
    with pytest.warns(UserWarning, match="given up"):
        while (result := rollout.execute_chunks(decide))[1]:
            done += result[0]
    assert sorted(seeds_of(done)) == [0, 1, 2, 4, 5]
    for episode in done:
        acted_on = episode.observation[:-1:n_action_steps]
        assert len(acted_on) == -(-len(episode) // n_action_steps)
        np.testing.assert_array_equal(episode.decision, np.concatenate([10 * acted_on, -acted_on], 1))


def test_collect_counts_primitive_steps_and_goes_on_with_unfinished_episodes(counting: Any) -> None:
    envs = [counting(lambda seed: 7) for _ in range(3)]
    rollout, episodes, total = Rollout(side_by_side(envs, 2), count(100)), [], 0
    for wanted in (1, 10, 20, 5):
        ended, steps = rollout.collect(numbered, wanted)
        assert wanted <= steps < wanted + 3 * 2
        episodes += ended
        total += steps
        assert total == sum(env.total_steps for env in envs)
    assert len(episodes) == 3 * (total // 21)
    for episode in episodes:
        assert_whole(episode, 7, 2, terminated=True)


@settings(max_examples=30, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=9),
    environments=st.integers(1, 4),
    n_action_steps=st.integers(1, HORIZON),
    rounds=st.integers(0, 6),
    has_record=st.booleans(),
)
def test_another_rollout_goes_on_from_its_state(
    restorable: Any, lengths: list[int], environments: int, n_action_steps: int, rounds: int, has_record: bool
) -> None:
    def act(observation: np.ndarray) -> np.ndarray | Decision[np.ndarray]:
        asked.append(observation.tolist())
        return Decision(numbered(observation), 10 * observation) if has_record else numbered(observation)

    def rollout() -> Rollout:
        envs = [restorable(lengths.__getitem__, lambda seed: seed % 3 > 0) for _ in range(environments)]
        return Rollout(side_by_side(envs, n_action_steps), seeds)

    def finish(rollout: Rollout) -> list[Episode]:
        asked.clear()
        return [episode for episodes, _ in iter(lambda: rollout.execute_chunks(act), ([], 0)) for episode in episodes]

    seeds, asked = iter(range(len(lengths))), list[Any]()
    one = rollout()
    for _ in range(rounds):
        one.execute_chunks(act)
    file = io.BytesIO()
    torch.save(as_tensors(one.state_dict()), file)
    file.seek(0)
    left = list(seeds)
    seeds = iter(left)
    other = rollout()
    assert other.load_state_dict(as_arrays(torch.load(file, weights_only=True))) == 0
    one._seeds = iter(left)
    expected, asked_of_one = finish(one), list(asked)
    got = finish(other)
    assert asked == asked_of_one and len(got) == len(expected)
    for episode, same in zip(got, expected, strict=True):
        for name in ("observation", "action", "reward", "terminated", "is_success", "decision"):
            np.testing.assert_array_equal(getattr(episode, name), getattr(same, name))


def test_without_seeds_collect_cannot_go_on(counting: Any) -> None:
    rollout = Rollout(side_by_side([counting()], 2), iter([7]))
    with pytest.raises(RuntimeError, match="no seeds are left"):
        rollout.collect(numbered, 6)


def test_a_failed_simulation_loses_only_its_episode(counting: Any) -> None:
    envs = [counting(fails_at={1: 3, 4: 1, 5: 5}) for _ in range(2)]
    rollout, done = Rollout(side_by_side(envs, 4), iter(range(8))), []
    with pytest.warns(UserWarning, match="an episode was given up after . steps: the simulation became unstable"):
        while (result := rollout.execute_chunks(numbered))[1]:
            done += result[0]
    assert rollout.failures == 3
    assert sorted(seeds_of(done)) == [0, 2, 3, 6, 7]
    for episode in done:
        assert_whole(episode, 5, 4, terminated=True)
    assert sorted(envs[0].seeds + envs[1].seeds) == list(range(8))


def test_success_is_false_unless_the_environment_says_so(counting: Any) -> None:
    class Silent(counting):
        def step(self, action: np.ndarray) -> Any:
            return *super().step(action)[:4], {}

    [episode], _ = Rollout(side_by_side([Silent(lambda seed: 2)], 2), count()).execute_chunks(numbered)
    assert episode.is_success is False
