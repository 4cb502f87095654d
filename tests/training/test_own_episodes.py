"""Own episodes are received, and averaged, in the order in which they started."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from softflow.data import Decision, Episode, Proposals
from softflow.training.checkpoint import as_arrays, as_tensors
from softflow.training.own_episodes import RECENT_EPISODES, OwnEpisodes
from softflow.training.rollout import Rollout
from tests.pictures import LAYOUT, lamp_episodes
from tests.training.vectors import side_by_side


def episode(seed: int, steps: int = 2, success: bool = True) -> Episode:
    observation = np.full((steps + 1, 2), seed)
    proposals = Proposals(np.array([0]), np.full((1, 4, 1), 3.0), np.array([seed % 2 == 0]))
    plain = Episode(observation, np.zeros((steps, 1)), np.ones(steps), True, False, success, proposals=proposals)
    return replace(plain, seed=seed, arm=seed % 3, decision=np.full((1, 3), seed), outcome={"gap": seed / 2})


def seeds_of(episodes: list[Episode]) -> list[int | None]:
    return [one.seed for one in episodes]


def through_a_file(own: OwnEpisodes, other: OwnEpisodes) -> OwnEpisodes:
    file = io.BytesIO()
    torch.save(as_tensors(own.state_dict()), file)
    file.seek(0)
    other.load_state_dict(as_arrays(torch.load(file, weights_only=True)))
    return other


def test_an_episode_waits_for_all_that_started_before_it() -> None:
    own = OwnEpisodes()
    assert own.add([episode(12)], running=[10, 11, 13]) == [] and own.scalars() == {} and own.released == 0
    assert own.add([episode(14)], running=[10, 11, 13]) == []
    assert seeds_of(own.add([episode(10, steps=6, success=False)], running=[11, 13, 15])) == [10]
    assert own.scalars() == {}  # of the three that started together
    assert seeds_of(own.add([], running=[13, 15])) == [12]  # 11 was lost
    assert own.scalars() == {"rollout/ep_rew_mean": 4, "rollout/ep_len_mean": 4, "rollout/success_rate": 0.5}
    assert seeds_of(own.add([episode(15), episode(13)], running=[])) == [13, 14, 15]
    assert own.released == 5 and own.scalars()["rollout/success_rate"] == 0.8


def test_averages_are_of_the_latest_and_end_with_their_stage() -> None:
    own = OwnEpisodes()
    own.add([episode(seed, success=seed >= 10) for seed in range(RECENT_EPISODES)], running=[])
    own.add([episode(seed, success=True) for seed in range(RECENT_EPISODES, RECENT_EPISODES + 5)], running=[])
    assert own.scalars()["rollout/success_rate"] == (RECENT_EPISODES - 5) / RECENT_EPISODES
    own.add([episode(102)], running=[101])
    own.clear()
    assert own.scalars() == {} and own.add([], running=[]) == []
    assert own.released == RECENT_EPISODES + 5


def test_a_resumed_run_has_no_averages_before_an_uninterrupted_one() -> None:
    own = OwnEpisodes()
    own.add([episode(10)], running=[11, 12, 13])
    resumed = through_a_file(own, OwnEpisodes())
    assert own.scalars() == resumed.scalars() == {}
    for one in (own, resumed):
        one.add([episode(11), episode(12)], running=[13, 14, 15])
    assert own.scalars() == resumed.scalars() != {}


@pytest.mark.filterwarnings("ignore:an episode was given up")
@settings(max_examples=60)
@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=12),
    lost=st.sets(st.integers(0, 11), max_size=3),
    environments=st.integers(1, 4),
    saved_after=st.integers(0, 8),
)
def test_all_are_received_once_and_in_order_across_a_checkpoint(
    counting: Any, lengths: list[int], lost: set[int], environments: int, saved_after: int
) -> None:
    envs = [counting(lengths.__getitem__, fails_at=dict.fromkeys(lost, 1)) for _ in range(environments)]
    rollout, own, received, ended = Rollout(side_by_side(envs, 2), iter(range(len(lengths)))), OwnEpisodes(), [], []

    def act(observation: np.ndarray, arms: np.ndarray) -> Decision[np.ndarray]:
        chunk = np.zeros((len(observation), 3, 1), np.float32)
        return Decision(chunk, observation, chunk)

    rounds, steps = 0, 1
    while steps:
        new, steps = rollout.execute_chunks(act)
        ended += new
        received += own.add(new, rollout.running_seeds)
        if rounds == saved_after:
            own = through_a_file(own, OwnEpisodes())
        rounds += 1
    assert seeds_of(received) == sorted(set(range(len(lengths))) - lost)
    assert own.released == len(ended) == len(received)


def test_what_is_held_back_is_saved_whole() -> None:
    own = OwnEpisodes()
    kept = [episode(5), replace(episode(6), proposals=None, decision=None, outcome={})]
    own.add(kept, running=[4])
    restored = through_a_file(own, OwnEpisodes()).add([], running=[])
    assert seeds_of(restored) == [5, 6]
    for before, after in zip(kept, restored, strict=True):
        assert (after.arm, after.outcome, after.is_success, after.mode) == (before.arm, dict(before.outcome), True, -1)
        assert type(after.terminated) is type(after.is_success) is bool
        for name in ("observation", "action", "reward"):
            np.testing.assert_array_equal(getattr(after, name), getattr(before, name))
    assert restored[0].proposals is not None and restored[0].decision is not None
    np.testing.assert_array_equal(restored[0].decision, [[5, 5, 5]])
    np.testing.assert_array_equal(restored[0].proposals.chunk, np.full((1, 4, 1), 3))
    assert restored[0].proposals.own.tolist() == [False] and restored[0].proposals.step.tolist() == [0]
    assert restored[1].proposals is restored[1].decision is None


def test_packed_observations_keep_their_layout() -> None:
    own, [packed] = OwnEpisodes(LAYOUT), lamp_episodes(1)
    own.add([replace(packed, seed=2)], running=[1])
    [restored] = through_a_file(own, OwnEpisodes(LAYOUT)).add([], running=[])
    assert restored.layout == LAYOUT and restored.observation.dtype == np.uint8
    np.testing.assert_array_equal(restored.observation, packed.observation)
