"""Proposed chunks: in episodes, and in a replay that compares with a list of everything it was given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from softflow.data import Episode, EpisodeBuilder, ImitationRule, Proposals, Replay, replay_files, sample_mixed
from tests.data.test_replay import make_episode, rng

HORIZON, CAPACITY = 3, 23
HYPOTHESIS = dict(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


def proposals(**changes: Any) -> Proposals:
    valid = dict(step=np.array([0, 2]), chunk=np.zeros((2, HORIZON, 1)), own=np.array([True, False]))
    return Proposals(**{**valid, **changes})


def own_episode(steps: int, number: int, every: int = 2, taken_over: int = 10**6, paid: int | None = None) -> Episode:
    """A decision every `every` steps, whose chunk tells where it comes from; from `taken_over` on they are not own."""
    plain = make_episode(steps, number, paid=paid)
    step = np.arange(0, steps, every)
    chunk = 1000 * number + step[:, None, None] + np.arange(HORIZON)[:, None] / 10
    made = Proposals(step, chunk, step < taken_over)
    ending = plain.terminated, plain.truncated, plain.is_success
    return Episode(plain.observation, plain.action, plain.reward, *ending, proposals=made)


def test_chunks_may_leave_the_box_and_are_read_only_float32() -> None:
    source = np.full((2, HORIZON, 1), 7.5)
    kept = proposals(chunk=source)
    source[:] = 0
    assert kept.chunk.dtype == np.float32 and (kept.chunk == 7.5).all() and kept.step.dtype == np.int64
    assert kept.horizon == HORIZON
    for array in (kept.step, kept.chunk, kept.own):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(step=np.array([0.0, 2.0])), r"steps of proposals must be integers of shape \(D,\), got float64"),
        (dict(step=np.array([2, 2])), "must be at least 0 and increase"),
        (dict(step=np.array([-1, 2])), "must be at least 0 and increase"),
        (dict(step=np.zeros(0, int), own=np.zeros(0, bool), chunk=np.zeros((0, 3, 1))), "must be at least 0 and inc"),
        (dict(own=np.array([1, 0])), "own must be one bool for each of the 2 proposals, got int64"),
        (dict(own=np.array([True])), "own must be one bool for each of the 2 proposals"),
        (dict(chunk=np.zeros((1, HORIZON, 1))), "there are 1 proposed chunks for 2 steps"),
        (dict(chunk=np.zeros((2, HORIZON))), r"proposed chunk must be .* of shape \(D, H, A\)"),
        (dict(chunk=np.full((2, HORIZON, 1), np.nan)), r"proposed chunk\[0, 0, 0\] = nan is not a finite float32"),
    ],
)
def test_what_no_policy_proposes_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        proposals(**changes)


def test_proposals_must_fit_their_episode() -> None:
    plain = make_episode(2)
    fields = plain.observation, plain.action, plain.reward, True, False, True
    with pytest.raises(ValueError, match="a chunk was proposed at step 2, but the episode has 2 steps"):
        Episode(*fields, proposals=proposals())
    with pytest.raises(ValueError, match="have actions of 4 numbers, the episode 1"):
        Episode(*fields, proposals=proposals(step=np.array([0, 1]), chunk=np.zeros((2, 3, 4))))
    for arm in (-1, 1.5, True):
        with pytest.raises(ValueError, match="arm must be one integer, 0 or more"):
            Episode(*fields, arm=arm)  # type: ignore[arg-type]


@pytest.mark.parametrize("saved_by_an_earlier_version", [False, True])
def test_a_builder_goes_on_from_its_state(saved_by_an_earlier_version: bool) -> None:
    whole, parted = EpisodeBuilder(arm=2, seed=9), EpisodeBuilder(arm=2, seed=9)
    for builder in (whole, parted):
        for step in range(5):
            if step in (0, 3):
                builder.propose(np.full((HORIZON, 1), 2.0 + step), own=step == 0)
            builder.append(np.array([step, 0.0]), np.array([0.5]), 1.0)
            if builder is parted and step == 3:
                state = builder.state_dict()
                if saved_by_an_earlier_version:
                    state = {name: state[name] for name in ("observation", "action", "reward", "decision")}
                parted = builder = EpisodeBuilder(arm=2, seed=9)
                parted.load_state_dict(state)
    episode, other = (builder.finish(np.array([5.0, 0.0]), True, False, True) for builder in (whole, parted))
    assert episode.proposals is not None and (episode.arm, episode.seed) == (other.arm, other.seed) == (2, 9)
    assert episode.proposals.step.tolist() == [0, 3] and episode.proposals.own.tolist() == [True, False]
    assert episode.proposals.chunk[:, 0, 0].tolist() == [2, 5]
    if saved_by_an_earlier_version:
        assert other.proposals is None and len(other) == 5
    else:
        assert other.proposals is not None
        for name, value in vars(episode.proposals).items():
            np.testing.assert_array_equal(getattr(other.proposals, name), value)
    whole.append(np.zeros(2), np.zeros(1), 0.0)
    assert whole.finish(np.zeros(2), True, False, True).proposals is None  # nothing is left of the episode before


def test_windows_of_own_episodes_start_at_own_decisions_and_hold_what_was_proposed() -> None:
    replay = Replay(30, 2, 1, horizon=HORIZON, n_action_steps=2)
    replay.add_episode(make_episode(3, 1))  # rows 0 ... 3
    replay.add_episode(own_episode(7, 2, taken_over=4, paid=6))  # rows 4 ... 11, decisions at steps 0, 2, 4, 6
    replay.add_episode(own_episode(7, 3, paid=3))  # rows 12 ... 19; reward follows steps 0 and 2
    windows = replay.sample(500, HORIZON, rng(), imitable=True)
    assert replay.imitable_steps == 3 + 2 + 2 and replay.proposals == 4
    assert set(windows.row) == {0, 1, 2, 4, 6, 12, 14}
    for i, row in enumerate(windows.row):
        number, step = windows.observation[i].astype(int)
        if number == 1:
            np.testing.assert_array_equal(windows.chunk[i], replay.gather(np.array([row]), HORIZON).chunk[0])
        else:
            np.testing.assert_allclose(windows.chunk[i, :, 0], 1000 * number + step + np.arange(3) / 10)
    # What the critic learns from is what was executed, from any step on.
    executed = replay.sample(500, HORIZON, rng())
    assert set(executed.row) == {0, 1, 2, *range(4, 11), *range(12, 19)} and (np.abs(executed.chunk) <= 1).all()
    # The first actions of a chunk are those of the chunk.
    np.testing.assert_array_equal(
        replay.sample(50, 2, rng(1), True).chunk, replay.sample(50, 3, rng(1), True).chunk[:, :2]
    )
    with pytest.raises(ValueError, match="horizon is 4, but proposed chunks have 3 actions"):
        replay.sample(50, 4, rng(), imitable=True)


def test_a_replay_without_the_right_horizon_refuses_proposals() -> None:
    for horizon in (None, HORIZON + 1):
        with pytest.raises(ValueError, match=f"the episode's proposals have horizon 3, the replay's {horizon}"):
            Replay(30, 2, 1, horizon=horizon).add_episode(own_episode(4, 0))


def test_a_batch_is_mixed_once_a_proposal_is_worth_imitating() -> None:
    offline, online = Replay(20, 2, 1), Replay(20, 2, 1, horizon=HORIZON)
    offline.add_episode(make_episode(6, 1))
    online.add_episode(own_episode(4, 2, taken_over=0))
    assert set(sample_mixed(offline, online, 10, 3, rng(), imitable=True).observation[:, 0]) == {1}
    online.add_episode(own_episode(4, 3))
    mixed = sample_mixed(offline, online, 10, 3, rng(), imitable=True)
    np.testing.assert_array_equal(mixed.observation[:, 0], [1] * 5 + [3] * 5)


def test_memory_is_one_chunk_a_decision() -> None:
    without = Replay(10**5, 153, 15).nbytes
    beside = Replay(10**5, 153, 15, horizon=8, n_action_steps=4).nbytes - without
    assert beside == 10**5 // 4 * (4 * 8 * 15 + 8)


# ------------------------------------------------------------------------------ against a list of everything given


RULES: dict[str, Callable[[Episode, int], bool]] = {
    "reward_to_come": lambda episode, step: episode.reward[step:].sum() > 0,
    "all": lambda episode, step: True,
    "success": lambda episode, step: episode.is_success,
    "return>=10": lambda episode, step: episode.reward.sum() >= 10,
}


class Naive:
    """Everything that a replay was given, as tuples (number of the row, first action of the chunk)."""

    def __init__(self, kept: int, rule: str) -> None:
        self.kept, self.rule, self.written = kept, rule, 0
        self.plain: list[tuple[int, float]] = []
        self.proposed: list[tuple[int, float]] = []

    def add(self, episode: Episode) -> None:
        paid = [RULES[self.rule](episode, step) for step in range(len(episode))]
        if episode.proposals is None:
            self.plain += [(self.written + i, float(episode.action[i, 0])) for i in range(len(episode)) if paid[i]]
        else:
            made = episode.proposals
            for step, chunk, own in zip(made.step, made.chunk, made.own, strict=True):
                if own and paid[step]:
                    self.proposed.append((self.written + int(step), float(chunk[0, 0])))
        self.written += len(episode) + 1
        self.plain = [entry for entry in self.plain if entry[0] >= self.written - CAPACITY]
        self.proposed = [entry for entry in self.proposed[-self.kept :] if entry[0] >= self.written - CAPACITY]


kinds = st.tuples(
    st.booleans(), st.integers(1, CAPACITY - 1), st.integers(1, 4), st.integers(0, 25), st.integers(0, 25)
)
parts = st.lists(kinds, max_size=9)


def episodes_of(part: list[tuple[bool, int, int, int, int]], first: int) -> list[Episode]:
    made = [
        own_episode(steps, number, every, taken_over, paid) if is_own else make_episode(steps, number, paid=paid)
        for number, (is_own, steps, every, taken_over, paid) in enumerate(part, first)
    ]
    return [replace(episode, is_success=number % 3 > 0) for number, episode in enumerate(made, first)]


def assert_as_listed(replay: Replay, naive: Naive) -> None:
    """The windows worth imitating are those that are listed, by row and first action, and each is drawn as often."""
    listed = [(row % CAPACITY, action) for row, action in naive.plain + naive.proposed]
    assert (replay.imitable_steps, replay.proposals) == (len(listed), len(naive.proposed))
    if listed:
        everything = replay._gather_imitable(np.arange(len(listed)), HORIZON)
        drawn = list(zip(everything.row.tolist(), everything.chunk[:, 0, 0].tolist(), strict=True))
        assert drawn == [(row, pytest.approx(action, rel=1e-6)) for row, action in listed]
        sampled = replay.sample(5, HORIZON, rng(1), imitable=True)
        index = rng(1).integers(len(listed), size=5)
        np.testing.assert_array_equal(sampled.row, everything.row[index])
        np.testing.assert_array_equal(sampled.chunk, everything.chunk[index])


@pytest.fixture
def new_folder(tmp_path: Path) -> Callable[[], Path]:
    folders = iter(range(10**6))
    return lambda: tmp_path / f"{next(folders)}"


@settings(max_examples=60, **HYPOTHESIS)
@given(
    before=parts, after=parts, n_action_steps=st.integers(1, 4), on_disk=st.booleans(), rule=st.sampled_from([*RULES])
)
def test_it_holds_what_a_list_would_and_goes_on_from_a_checkpoint(
    new_folder: Callable[[], Path], before: Any, after: Any, n_action_steps: int, on_disk: bool, rule: str
) -> None:
    folder, file = new_folder() if on_disk else None, new_folder()

    def make() -> Replay:
        chunks: dict[str, Any] = {"horizon": HORIZON, "n_action_steps": n_action_steps}
        return Replay(CAPACITY, 2, 1, folder=folder, **chunks, imitate=ImitationRule(rule))

    replay, naive = make(), Naive(-(-CAPACITY // n_action_steps), rule)
    with pytest.MonkeyPatch.context() as patch:
        for owner, to_disk in ((replay_files.os, "fsync"), (np.memmap, "flush")):
            patch.setattr(owner, to_disk, lambda _: None)  # slow, and nothing is killed here
        for episode in episodes_of(before, 1):
            replay.add_episode(episode)
            naive.add(episode)
            assert_as_listed(replay, naive)
        replay.save(file)
        for episode in episodes_of(after, 50):  # in files, these are overwritten when the checkpoint is loaded
            replay.add_episode(episode)
        resumed = make()
        resumed.load(file)
        assert_as_listed(resumed, naive)
        for episode in episodes_of(after, 50):
            resumed.add_episode(episode)
            naive.add(episode)
        assert_as_listed(resumed, naive)
        if not on_disk:  # in files, it would share its rows with the resumed one
            assert_as_listed(replay, naive)


# --------------------------------------------------------------------------------------------------- checkpoints


@pytest.mark.parametrize("on_disk", [False, True])
def test_a_checkpoint_of_an_earlier_version_has_windows_only(on_disk: bool, tmp_path: Path) -> None:
    folder, file = tmp_path / "rows" if on_disk else None, tmp_path / "replay.npz"
    earlier = Replay(CAPACITY, 2, 1, folder=folder)  # without a horizon, it is written as it was then
    earlier.add_episode(make_episode(5, 1))
    earlier.save(file)
    for _ in range(2):  # in files, the second time after a run that was killed before its checkpoint was whole
        replay = Replay(CAPACITY, 2, 1, folder=folder, horizon=HORIZON, n_action_steps=2)
        replay.load(file)
        assert (replay.imitable_steps, replay.proposals) == (5, 0)
        replay.add_episode(own_episode(6, 2))
        assert (replay.imitable_steps, replay.proposals) == (8, 3)
        replay.save(tmp_path / "unfinished.npz")


DAMAGES: dict[str, tuple[str, Any, str]] = {
    "a chunk": ("proposal_chunk", np.nan, "proposal 1 is not finite"),
    "an earlier row": ("proposal_row", 0, "proposal 1 belongs to no step worth imitating"),
    "a final row": ("proposal_row", 6, "proposal 1 belongs to no step worth imitating"),
    "a later row": ("proposal_row", 10**9, "proposal 1 belongs to no step worth imitating"),
}


def saved_arrays(file: Path) -> dict[str, np.ndarray]:
    """Save a replay with one episode, and return the arrays of the file."""
    replay = Replay(CAPACITY, 2, 1, horizon=HORIZON)
    replay.add_episode(own_episode(6, 1))
    replay.save(file)
    with np.load(file) as saved:
        return dict(saved)


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_proposals_are_refused(damage: str, tmp_path: Path) -> None:
    name, value, message = DAMAGES[damage]
    file = tmp_path / "replay.npz"
    arrays = saved_arrays(file)
    arrays[name][1] = value
    np.savez(file, **arrays)
    with pytest.raises(ValueError, match=message):
        Replay(CAPACITY, 2, 1, horizon=HORIZON).load(file)


def test_impossible_counts_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "replay.npz"
    arrays = saved_arrays(file)
    for changes in ({"proposals_written": np.array(-1)}, {"proposal_switches": np.array([5, 5])}):
        np.savez(file, **{**arrays, **changes})
        with pytest.raises(ValueError, match="must be at least 0, and the latter must increase"):
            Replay(CAPACITY, 2, 1, horizon=HORIZON).load(file)
    np.savez(file, **arrays)
    with pytest.raises(ValueError, match=r"proposal_chunk is float32 of shape \(3, 3, 1\), expected .*\(3, 4, 1\)"):
        Replay(CAPACITY, 2, 1, horizon=HORIZON + 1).load(file)
