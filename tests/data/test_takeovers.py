"""Which chunks of whom are imitated in an episode with takeovers, and what a takeover costs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from softflow.data import Episode, Proposals, load_demonstrations, save_demonstrations
from softflow.data.imitable import ImitationRule
from softflow.data.takeovers import (
    as_demonstration,
    describe_takeovers,
    human_chunks,
    human_steps,
    of_the_human,
    of_the_policy,
    replay_of,
    require_chunks,
    whole_starts,
    with_penalty,
)
from softflow.errors import UserError

HUMAN = np.array([0, 0, 1, 1, 1, 0, 0, 1, 1, 1], bool)
"""Two takeovers: one within the episode, one to its end."""


def make_episode(human: np.ndarray | None = HUMAN, success: bool = True, first: int = 0) -> Episode:
    """Observations count from `first`; the action at step t is t / 100."""
    steps = 10 if human is None else len(human)
    observation = first + np.arange(steps + 1)[:, None]
    action = np.arange(steps)[:, None] / 100
    return Episode(observation, action, np.zeros(steps), success, not success, success, human=human)


def imitated(episode: Episode, horizon: int) -> dict[int, list[int]]:
    """The chunks that a replay of the episode imitates, in hundredths, by the step at which they start."""
    windows = replay_of([episode], horizon).sample(300, horizon, np.random.default_rng(0), imitable=True)
    chunks = np.round(100 * windows.chunk[..., 0]).astype(int).tolist()
    return dict(sorted(zip(windows.observation[:, 0].astype(int).tolist(), chunks, strict=True)))


def test_demonstrations_without_a_chunk_of_a_person_are_refused() -> None:
    acts = np.array([False, True, True, True, False, False, False])
    nobody, brief = make_episode(np.zeros(7, np.bool_)), make_episode(acts)
    rule, refused = ImitationRule("success"), "no person acted for {} in a row where imitate is 'success': give"
    require_chunks([nobody, brief], rule, 3)
    require_chunks([nobody, make_episode(None)], rule, 4)
    failure = make_episode(acts, success=False)
    for episodes, horizon, steps in (([nobody, brief], 4, "4 steps"), ([nobody, failure], 1, "1 step")):
        with pytest.raises(UserError, match=refused.format(steps)):
            require_chunks(episodes, rule, horizon)
    with pytest.raises(UserError, match="no episode is a success"):
        require_chunks([failure], rule, 3)


def test_what_is_imitated_of_takeovers_is_described() -> None:
    acts = np.array([False, False, True, True, True, False, True])
    plain = Episode(np.zeros((8, 1)), np.zeros((7, 1)), np.zeros(7), True, False, True)
    assert describe_takeovers([plain], 2) is None
    described = describe_takeovers([plain, replace(plain, human=acts)], 2)
    assert described is not None and described.startswith("a person acted in 1 demonstration:")
    assert described.endswith("at most 3 of them")  # 2, 3, and 6, whose chunk ends with the episode
    nobody = replace(plain, human=np.zeros(7, np.bool_))
    assert describe_takeovers([nobody, replace(plain, human=acts)], 2) == described
    choice = ImitationRule("all").choose([])
    assert choice.steps([plain, nobody, replace(plain, human=acts)]) == 7 + 0 + 4
    assert choice.describe([nobody, replace(plain, human=acts)]) == "imitate all: 1 of 2 episodes, 4 of 14 steps"


def test_the_humans_chunks_lie_within_a_takeover_or_end_with_the_episode() -> None:
    assert of_human(make_episode(), 3) == {2: [2, 3, 4], 7: [7, 8, 9], 8: [8, 9, 9], 9: [9, 9, 9]}
    assert of_human(make_episode(), 2) == {2: [2, 3], 3: [3, 4], 7: [7, 8], 8: [8, 9], 9: [9, 9]}
    assert of_human(make_episode(), 1) == {step: [step] for step in (2, 3, 4, 7, 8, 9)}
    assert of_human(make_episode(), 4) == {7: [7, 8, 9, 9], 8: [8, 9, 9, 9], 9: [9, 9, 9, 9]}  # the first is too short


def of_human(episode: Episode, horizon: int) -> dict[int, list[int]]:
    return imitated(of_the_human(episode, horizon), horizon)


def of_policy(episode: Episode, horizon: int) -> dict[int, list[int]]:
    return imitated(of_the_policy(episode, horizon), horizon)


def test_without_proposals_the_policys_chunks_are_what_it_executed() -> None:
    assert of_policy(make_episode(), 2) == {0: [0, 1], 5: [5, 6]}
    assert of_policy(make_episode(~HUMAN), 3) == {2: [2, 3, 4], 7: [7, 8, 9], 8: [8, 9, 9], 9: [9, 9, 9]}
    assert list(of_policy(make_episode(None), 2)) == list(range(10))


def test_the_policys_own_chunks_are_its_proposals() -> None:
    chunk = np.array([[0.5, 0.6], [0.7, 0.8], [0.3, 0.2]])[..., None]
    proposals = Proposals(np.array([0, 5, 6]), chunk, np.array([True, True, False]))
    assert of_policy(replace(make_episode(), proposals=proposals), 2) == {0: [50, 60], 5: [70, 80]}


def test_a_demonstration_that_says_who_acted_shows_the_humans_chunks() -> None:
    assert imitated(as_demonstration(make_episode(), 3), 3) == of_human(make_episode(), 3)
    proposals = Proposals(np.array([0]), np.zeros((1, 3, 1)), np.array([True]))
    unknown = replace(make_episode(None), proposals=proposals)
    assert list(imitated(as_demonstration(unknown, 3), 3)) == list(range(10))  # as a demonstration without proposals
    assert as_demonstration(unknown, 3).proposals is None


def test_only_successes_are_imitated() -> None:
    solved, failed = make_episode(first=0), make_episode(success=False, first=100)
    observation, chunk = human_chunks([failed, solved], 3)
    assert observation[:, 0].tolist() == [2, 7, 8, 9]
    np.testing.assert_allclose(chunk[:, :, 0], [[0.02, 0.03, 0.04], [0.07, 0.08, 0.09], [0.08, 0.09, 0.09], [0.09] * 3])
    assert human_chunks([failed], 3)[0].shape[0] == 0
    assert replay_of([of_the_human(failed, 3), of_the_human(solved, 3)], 3).imitable_steps == 4
    with pytest.raises(UserError, match="no episode is a success"):
        replay_of([of_the_human(failed, 3)], 3).sample(1, 3, np.random.default_rng(0), imitable=True)


def test_rounds_accumulate() -> None:
    rounds = [make_episode(first=100 * number) for number in range(3)]
    assert human_chunks(rounds, 3)[0][:, 0].tolist() == [2, 7, 8, 9, 102, 107, 108, 109, 202, 207, 208, 209]


def test_a_takeover_costs_at_the_step_before_it() -> None:
    assert with_penalty(make_episode(), 0.5).reward.tolist() == [0, -0.5, 0, 0, 0, 0, -0.5, 0, 0, 0]
    assert with_penalty(make_episode(np.ones(4, bool)), 0.5).reward.tolist() == [0] * 4  # the policy never acted
    assert with_penalty(make_episode(None), 0.5).reward.tolist() == [0] * 10


@given(st.lists(st.booleans(), min_size=1, max_size=30), st.integers(1, 6))
def test_starts_are_those_of_windows_of_one_actor(flags: list[bool], horizon: int) -> None:
    expected = [all(flags[step : step + horizon]) for step in range(len(flags))]
    assert whole_starts(np.array(flags), horizon).tolist() == expected


def test_nobody_took_over_where_it_was_not_recorded() -> None:
    assert not human_steps(make_episode(None)).any()


def test_proposals_are_kept_in_a_file(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    first = Proposals(np.array([0, 4]), 2 * rng.normal(size=(2, 3, 1)), np.array([True, False]))
    third = Proposals(np.array([1]), rng.normal(size=(1, 3, 1)), np.array([True]))
    given = [replace(make_episode(), proposals=proposals) for proposals in (first, None, third)]
    save_demonstrations(tmp_path / "e.npz", given)
    read = load_demonstrations(tmp_path / "e.npz")
    assert read[1].proposals is None
    for number, proposals in ((0, first), (2, third)):
        for name in ("step", "chunk", "own"):
            np.testing.assert_array_equal(getattr(read[number].proposals, name), getattr(proposals, name))
    other = Proposals(np.array([1]), rng.normal(size=(1, 2, 1)), np.array([True]))
    with pytest.raises(UserError, match=r"other\.npz: proposals have \[2, 3\] actions: write one file for each policy"):
        save_demonstrations(tmp_path / "other.npz", [given[0], replace(make_episode(), proposals=other)])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"proposal_step": np.array([3, 20])}, "proposal_step is 20, expected a step, 0 ... 19"),
        ({"proposal_step": np.array([4, 3])}, "the steps of proposals must be at least 0 and increase"),
        ({"proposal_own": None}, "missing proposal_own: proposals need all three arrays"),
        ({"proposal_own": np.array([True])}, "proposal_own has D = 1, but proposal_step has D = 2"),
        ({"proposal": np.full((2, 3, 1), np.nan)}, "proposed chunk"),
        ({"proposal": np.zeros((2, 3, 2))}, "proposal has A = 2, but action has A = 1"),
    ],
)
def test_proposals_that_make_no_sense_are_refused(
    changes: dict[str, np.ndarray | None], message: str, tmp_path: Path
) -> None:
    proposals = Proposals(np.array([3, 4]), np.zeros((2, 3, 1)), np.array([True, True]))
    save_demonstrations(tmp_path / "e.npz", [replace(make_episode(), proposals=proposals), make_episode()])
    arrays = {**np.load(tmp_path / "e.npz"), **changes}
    np.savez(tmp_path / "e.npz", **{name: array for name, array in arrays.items() if array is not None})
    with pytest.raises(UserError, match=r"e\.npz: ") as refused:
        load_demonstrations(tmp_path / "e.npz")
    assert message in str(refused.value)
