"""Rows that no replay writes are refused when a replay is loaded, wherever they are kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from softflow.data import Episode, Replay, replay_checks
from tests.data.test_replay_checkpoint import assert_same_replay

CAPACITY = 12
NAN, INF = float("nan"), float("inf")


def episode(rewards: list[float], first: float = 0.0, terminated: bool = True, success: bool = True) -> Episode:
    """Observations count from `first`."""
    steps = len(rewards)
    observation = first + np.arange(steps + 1)[:, None] * np.ones(2)
    return Episode(observation, np.full((steps, 1), 0.5), np.array(rewards), terminated, not terminated, success)


def three_episodes(folder: Path | None) -> Replay:
    """Rows 0 and 1 are overwritten by the end of the third: in order, rows 2 3 4 | 5 6 7 8 | 9 10 11 0 1.

    Their `remaining`: 2 1 0 | 3 2 1 0 | 4 3 2 1 0. Rewards are 1, of the second episode 0 0 2."""
    replay = Replay(CAPACITY, 2, 1, folder=folder)
    replay.add_episode(episode([1.0] * 4))
    replay.add_episode(episode([0.0, 0.0, 2.0], terminated=False, success=False))
    replay.add_episode(episode([1.0] * 4))
    return replay


DAMAGES: dict[str, tuple[str, int, Any, str]] = {
    "an observation": ("observation", 6, NAN, "row 6: observation is not finite"),
    "an action": ("action", 6, NAN, r"row 6: action is not in \[-1, 1\]"),
    "a large action": ("action", 0, 1.5, r"row 0: action is not in \[-1, 1\]"),
    "a reward": ("reward", 5, NAN, "row 5: reward is not finite, got nan"),
    "an infinite reward": ("reward", 5, -INF, "row 5: reward is not finite, got -inf"),
    "a return": ("return_to_go", 5, INF, "row 5: return_to_go is not finite, got inf"),
    "another return": ("return_to_go", 6, 2.1, "row 5: return_to_go is not the reward and the return of the next row"),
    "another reward": ("reward", 7, 1.9, "row 7: return_to_go is not the reward and the return of the next row"),
    "a return at the end": ("return_to_go", 8, 1.0, "row 8: return_to_go is not 0 at the end of an episode, got 1.0"),
    "a negative remaining": ("remaining", 5, -3, "row 5: remaining is negative, got -3"),
    "a long remaining": ("remaining", 5, 2**31 - 1, "row 5: remaining is not one more than in the next row"),
    "a short remaining": ("remaining", 10, 1, "row 9: remaining is not one more than in the next row"),
    "no remaining": ("remaining", 6, 0, "row 5: remaining is not one more than in the next row"),
    "an episode of no steps": ("remaining", 9, 0, "row 8: remaining is not one more .* nor 0 before the first row"),
    "a last row that goes on": ("remaining", 1, 1, "row 0: remaining is not one more than in the next row"),
    "an end within": ("terminated", 6, True, "row 5: terminated changes within an episode, got False"),
    "a success within": ("success", 7, True, "row 6: success changes within an episode, got False"),
}


@pytest.fixture(params=["memory", "disk"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path | None:
    return tmp_path / "rows" if request.param == "disk" else None


def change(file: Path, folder: Path | None, column: str, row: int, value: Any) -> None:
    """In the files of a saved replay."""
    if folder is None:
        with np.load(file) as saved:
            arrays = dict(saved)
        arrays[column][row] = value
        with file.open("wb") as opened:
            np.savez(opened, **arrays)
    else:
        np.lib.format.open_memmap(folder / f"{column}.npy", "r+")[row] = value


@pytest.mark.parametrize("damage", DAMAGES)
def test_rows(damage: str, folder: Path | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    column, row, value, message = DAMAGES[damage]
    monkeypatch.setattr(replay_checks, "BLOCK", 5)  # rows 2 ... 6 in one, 7 ... 11 in the next, then 0 and 1
    file = tmp_path / "replay.npz"
    three_episodes(folder).save(file)
    Replay(CAPACITY, 2, 1, folder=folder).load(file)
    change(file, folder, column, row, value)
    with pytest.raises(ValueError, match=message):
        Replay(CAPACITY, 2, 1, folder=folder).load(file)


def test_truth_values_are_one_of_two(folder: Path | None, tmp_path: Path) -> None:
    file = tmp_path / "replay.npz"
    replay = three_episodes(folder)
    replay.used_rows()["success"].view(np.uint8)[5:9] = 7
    replay.save(file)
    with pytest.raises(ValueError, match="row 5: success is neither true nor false"):
        Replay(CAPACITY, 2, 1, folder=folder).load(file)


@pytest.mark.parametrize(
    ("written", "message"),
    [(4, "row 3: remaining is not 0, but this is the last row"), (12, "row 0: remaining is 0, but an episode begins")],
)
def test_a_count_of_rows_that_is_not_theirs(written: int, message: str, tmp_path: Path) -> None:
    """The ring is not full, or was never overwritten, and so begins and ends with an episode."""
    file, replay = tmp_path / "replay.npz", Replay(CAPACITY, 2, 1)
    replay.add_episode(episode([1.0] * 5))
    replay.add_episode(episode([1.0] * 5))
    if written == 12:
        replay.used_rows()["remaining"][0] = replay.used_rows()["return_to_go"][0] = 0
    replay._written = written
    replay.save(file)
    with pytest.raises(ValueError, match=message):
        Replay(CAPACITY, 2, 1).load(file)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (lambda flags: ~flags, r"row \d+: imitable is true, but no step begins here"),
        (lambda flags: flags[1:], r"imitable is bool of shape \(11,\), expected one bool for each of the 12 rows"),
        (lambda flags: flags.astype(float), r"imitable is float64 of shape \(12,\), expected one bool"),
        (lambda flags: (7 * flags.view(np.uint8)).view(np.bool_), "imitable is bool of .*, expected one bool"),
    ],
)
def test_flags_of_what_is_imitated(changed: Any, message: str, folder: Path | None, tmp_path: Path) -> None:
    file = tmp_path / "replay.npz"
    three_episodes(folder).save(file)
    with np.load(file) as saved:
        arrays = dict(saved)
    np.savez(file, **{**arrays, "imitable": changed(arrays["imitable"])})
    with pytest.raises(ValueError, match=message):
        Replay(CAPACITY, 2, 1, folder=folder).load(file)


def test_a_checkpoint_of_an_earlier_version_has_no_flags(folder: Path | None, tmp_path: Path) -> None:
    """There, the steps with reward to come are imitated."""
    file, replay = tmp_path / "replay.npz", Replay(CAPACITY, 2, 1, folder=folder)
    replay.add_episode(episode([-1.0, 0.0, 1.0, 0.0]))  # rows 0 ... 4; reward follows the steps 1 and 2
    replay.save(file)
    with np.load(file) as saved:
        arrays = dict(saved)
    del arrays["imitable"]
    np.savez(file, **arrays)
    restored = Replay(CAPACITY, 2, 1, folder=folder)
    restored.load(file)
    assert set(restored.sample(50, 1, np.random.default_rng(0), imitable=True).row) == {1, 2}
    assert restored.imitable_steps == replay.imitable_steps == 2


def test_arrays_that_do_not_belong(tmp_path: Path) -> None:
    file = tmp_path / "replay.npz"
    three_episodes(None).save(file)
    with np.load(file) as saved:
        arrays = dict(saved)
    np.savez(file, **arrays, rewards=arrays["reward"])
    with pytest.raises(ValueError, match="unknown array 'rewards': did you mean 'reward'"):
        Replay(CAPACITY, 2, 1).load(file)
    with pytest.raises(ValueError, match="unknown array 'observation'"):  # its rows are in files
        Replay(CAPACITY, 2, 1, folder=tmp_path / "rows").load(file)


rewards = st.lists(st.floats(-(2.0**99), 2.0**99, width=32), min_size=1, max_size=CAPACITY - 1)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(episodes=st.lists(st.tuples(rewards, st.booleans(), st.booleans()), max_size=6), block=st.integers(1, 13))
def test_whatever_a_replay_has_written_is_loaded(
    tmp_path: Path, episodes: list[tuple[list[float], bool, bool]], block: int
) -> None:
    """Returns of any size, rounded to float32, and a ring that is empty, partly filled or overwritten."""
    file, saved, loaded = tmp_path / "replay.npz", Replay(CAPACITY, 2, 1), Replay(CAPACITY, 2, 1)
    for given_rewards, terminated, success in episodes:
        saved.add_episode(episode(given_rewards, 0.0, terminated, success))
    saved.save(file)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(replay_checks, "BLOCK", block)
        loaded.load(file)
    assert_same_replay(saved, loaded)
