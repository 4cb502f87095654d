"""Rollouts: what an episode holds, what is executed, and what is counted."""

from __future__ import annotations

import io
from itertools import count, cycle
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


def numbered(observation: np.ndarray, arms: np.ndarray) -> np.ndarray:
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


@settings(max_examples=60)
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

    def act(observation: np.ndarray, arms: np.ndarray) -> np.ndarray:
        asked.append(observation.tolist())
        return numbered(observation, arms)

    rollout = Rollout(side_by_side([counting(lambda seed: 3 + seed) for _ in range(2)], 2), iter([0, 1, 2]))
    while rollout.execute_chunks(act)[1]:
        pass
    # Seed 0 ends after 3 steps and seed 2 takes its place; seed 1 ends after 4, then one environment is idle.
    assert asked == [[[0, 0], [1, 0]], [[0, 2], [1, 2]], [[2, 0]], [[2, 2]], [[2, 4]]]


def test_each_decision_is_recorded_in_its_own_episode(counting: Any) -> None:
    """Environments with counters of their own; episodes that end inside a chunk, and one whose simulation fails."""
    lengths, n_action_steps = [5, 2, 7, 4, 1, 6], 2
    envs = [counting(lengths.__getitem__, fails_at={3: 3}) for _ in range(3)]

    def decide(observation: np.ndarray, arms: np.ndarray) -> Decision[np.ndarray]:
        return Decision(numbered(observation, arms), np.concatenate([10 * observation, -observation], 1))

    rollout, done = Rollout(side_by_side(envs, n_action_steps), iter(range(len(lengths)))), []
    with pytest.warns(UserWarning, match="given up"):
        while (result := rollout.execute_chunks(decide))[1]:
            done += result[0]
    assert sorted(seeds_of(done)) == [0, 1, 2, 4, 5]
    for episode in done:
        acted_on = episode.observation[:-1:n_action_steps]
        assert len(acted_on) == -(-len(episode) // n_action_steps)
        np.testing.assert_array_equal(episode.decision, np.concatenate([10 * acted_on, -acted_on], 1))


def test_proposals_are_kept_whole_with_the_step_of_their_decision(counting: Any) -> None:
    """Chunks of 4 of which 2 are executed: the tail and what lies outside the box are kept as proposed."""

    def decide(observation: np.ndarray, arms: np.ndarray) -> Decision[np.ndarray]:
        proposed = numbered(observation, arms) + observation[:, 1][:, None, None]  # 0 ... 0.3, then 2 ... 2.3, ...
        return Decision(proposed[:, :2].clip(-1, 1), proposed=proposed)

    rollout = Rollout(side_by_side([counting(lambda seed: 5) for _ in range(2)], 2), iter([7, 8]))
    episodes, _ = rollout.collect(decide, 10)
    assert sorted(seeds_of(episodes)) == [7, 8]
    for episode in episodes:
        assert episode.proposals is not None and episode.decision is None
        assert episode.proposals.step.tolist() == [0, 2, 4] and episode.proposals.own.all()
        np.testing.assert_allclose(episode.proposals.chunk[..., 0], [[s, s + 0.1, s + 0.2, s + 0.3] for s in (0, 2, 4)])
        np.testing.assert_allclose(episode.action[:, 0], [0, 0.1, 1, 1, 1], rtol=1e-6)


def test_a_chunk_that_is_not_executed_as_proposed_is_not_the_policys_own(counting: Any) -> None:
    """The second environment is limited from its third step on, in the first action; in the tail it does not matter."""

    def decide(observation: np.ndarray, arms: np.ndarray) -> Decision[np.ndarray]:
        proposed = numbered(observation, arms) + 0.5
        executed = proposed.copy()
        executed[:, 2:] = 0
        executed[(observation[:, 0] == 1) & (observation[:, 1] >= 2), 0] = 0.4
        return Decision(executed, proposed=proposed)

    rollout = Rollout(side_by_side([counting(lambda seed: 5) for _ in range(2)], 2), iter([0, 1]))
    episodes = {seeds_of([episode])[0]: episode.proposals for episode in rollout.collect(decide, 10)[0]}
    assert {seed: made.own.tolist() for seed, made in episodes.items() if made is not None} == {
        0: [True, True, True],
        1: [True, False, False],
    }


@pytest.mark.parametrize("part", ["record", "proposed"])
def test_what_a_decision_keeps_must_be_finite(part: str, counting: Any) -> None:
    def decide(observation: np.ndarray, arms: np.ndarray) -> Decision[np.ndarray]:
        kept = numbered(observation, arms).copy()
        kept[(observation[:, 1] >= 2), 3] = np.inf  # beyond the executed actions
        return Decision(kept[:, :2], **{part: kept})

    name = {"record": "record of a decision", "proposed": "proposed chunk"}[part]
    rollout = Rollout(side_by_side([counting(lambda seed: 5)], 2), iter([7]))
    with pytest.raises(FloatingPointError, match=f"the {name} is not finite: environment 0, step 3 .* seed 7"):
        rollout.collect(decide, 10)


def test_each_episode_is_executed_by_the_arm_it_was_assigned(counting: Any) -> None:
    asked, arms = [], iter([1, 0, 2, 1])

    def act(observation: np.ndarray, arms: np.ndarray) -> np.ndarray:
        asked.append([(int(seed), int(arm)) for seed, arm in zip(observation[:, 0], arms, strict=True)])
        return numbered(observation, arms)

    environments = side_by_side([counting(lambda seed: 2 + 2 * (seed % 2)) for _ in range(2)], 2)
    rollout, done = Rollout(environments, iter(range(4)), assign=lambda: next(arms)), []
    while (result := rollout.execute_chunks(act))[1]:
        done += result[0]
    assert asked == [[(0, 1), (1, 0)], [(1, 0), (2, 2)], [(3, 1)], [(3, 1)]]
    assert {(episode.seed, episode.arm) for episode in done} == {(0, 1), (1, 0), (2, 2), (3, 1)}
    assert all(episode.seed == episode.observation[0, 0] for episode in done)


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


@settings(max_examples=30)
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
    def act(observation: np.ndarray, arms: np.ndarray) -> np.ndarray | Decision[np.ndarray]:
        asked.append(observation.tolist())
        chunk = numbered(observation, arms) + arms[:, None, None] / 10
        return Decision(chunk, 10 * observation, 2 * chunk) if has_record else chunk

    def rollout() -> Rollout:
        envs = [restorable(lengths.__getitem__, lambda seed: seed % 3 > 0) for _ in range(environments)]
        return Rollout(side_by_side(envs, n_action_steps), seeds, assign=lambda: next(assigned))

    def finish(rollout: Rollout) -> list[Episode]:
        asked.clear()
        return [episode for episodes, _ in iter(lambda: rollout.execute_chunks(act), ([], 0)) for episode in episodes]

    seeds, asked, assigned = iter(range(len(lengths))), list[Any](), cycle([0, 2, 1])
    one = rollout()
    for _ in range(rounds):
        one.execute_chunks(act)
    file = io.BytesIO()
    torch.save(as_tensors(one.state_dict()), file)
    file.seek(0)
    left = list(seeds)
    arms_left = [next(assigned) for _ in left]
    seeds = iter(left)
    other = rollout()
    assert other.load_state_dict(as_arrays(torch.load(file, weights_only=True))) == 0
    one._seeds = iter(left)
    assigned = iter(arms_left)
    expected, asked_of_one = finish(one), list(asked)
    assigned = iter(arms_left)
    got = finish(other)
    assert asked == asked_of_one and len(got) == len(expected)
    for episode, same in zip(got, expected, strict=True):
        for name in ("observation", "action", "reward", "terminated", "is_success", "decision", "arm", "seed"):
            np.testing.assert_array_equal(getattr(episode, name), getattr(same, name))
        assert (episode.proposals is not None) == (same.proposals is not None) == has_record
        if episode.proposals is not None and same.proposals is not None:
            for name, value in vars(same.proposals).items():
                np.testing.assert_array_equal(getattr(episode.proposals, name), value)


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
