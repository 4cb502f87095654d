"""A replay that is saved and loaded, or killed and loaded, goes on exactly; in memory as in files."""

from __future__ import annotations

import errno
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from softflow.data import Episode, Replay, replay_files
from softflow.errors import UserError
from softflow.task.layout import ObservationLayout, Part
from tests.data.test_replay import assert_same, make_episode, rng

CAPACITY = 15
HYPOTHESIS = dict(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
lengths = st.lists(st.integers(1, CAPACITY - 1), max_size=8)


def make_replay(folder: Path | None = None, capacity: int = CAPACITY) -> Replay:
    return Replay(capacity, 2, 1, folder=folder)


def add(replay: Replay, steps: list[int], first: int = 0) -> None:
    for number, length in enumerate(steps, first):
        replay.add_episode(make_episode(length, number, success=number % 2 == 0, paid=length - number % 3))


def assert_same_replay(first: Replay, second: Replay) -> None:
    rows = second.used_rows()
    for name, column in first.used_rows().items():
        np.testing.assert_array_equal(column, rows[name], err_msg=name)
    assert (first.steps, first.imitable_steps) == (second.steps, second.imitable_steps)
    for imitable in (False, True):
        if first.imitable_steps if imitable else first.steps:
            assert_same(first.sample(20, 4, rng(), imitable), second.sample(20, 4, rng(), imitable))


@pytest.fixture
def new_folder(tmp_path: Path) -> Callable[[], Path]:
    folders = iter(range(10**6))
    return lambda: tmp_path / f"{next(folders)}"


@settings(max_examples=40, **HYPOTHESIS)
@given(before=lengths, after=lengths)
def test_in_memory_it_goes_on_exactly(new_folder: Callable[[], Path], before: list[int], after: list[int]) -> None:
    saved, restored, file = make_replay(), make_replay(), new_folder()
    add(restored, [9])  # to be forgotten
    add(saved, before)
    saved.save(file)
    restored.load(file)
    assert_same_replay(saved, restored)
    add(saved, after, 50)
    add(restored, after, 50)
    assert_same_replay(saved, restored)


@settings(max_examples=40, **HYPOTHESIS)
@given(parts=st.lists(lengths, min_size=1, max_size=5), ahead=st.sampled_from([0, 40, 10**6]), data=st.data())
def test_in_files_it_goes_back_to_a_checkpoint(
    new_folder: Callable[[], Path], parts: list[list[int]], ahead: int, data: st.DataObject
) -> None:
    """The same in memory and in files. After each part a checkpoint, after the last none; then one of the two newest is
    loaded, again and again, and a new one saved."""
    folder, files = new_folder(), [new_folder() for _ in parts]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(replay_files, "SAVED_AHEAD", ahead)
        for owner, to_disk in ((os, "fsync"), (np.memmap, "flush")):
            patch.setattr(owner, to_disk, lambda _: None)  # slow, and nothing is killed here
        on_disk, in_memory, snapshots = make_replay(folder), make_replay(), []
        for number, (part, file) in enumerate(zip(parts, files, strict=True)):
            on_disk.save(file)
            snapshots.append(make_replay())
            add(snapshots[-1], [length for part in parts[:number] for length in part])
            add(on_disk, part, sum(map(len, parts[:number])))
            add(in_memory, part, sum(map(len, parts[:number])))
            assert_same_replay(in_memory, on_disk)
        for _ in range(2):
            newest = len(files) - 1
            chosen = data.draw(st.integers(max(newest - 1, 0), newest))
            del files[chosen + 1 :]
            on_disk = make_replay(folder)
            on_disk.load(files[chosen])
            assert_same_replay(snapshots[chosen], on_disk)
            more = data.draw(lengths)
            add(on_disk, more, 80)
            resumed = make_replay(folder)
            resumed.load(files[chosen])
            assert_same_replay(snapshots[chosen], resumed)


def test_what_is_kept_of_overwritten_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fifteen rows: ten were written, then five beside them, then three over the first, which the checkpoint holds."""
    monkeypatch.setattr(replay_files, "SAVED_AHEAD", 0)
    folder, file, size = tmp_path / "rows", tmp_path / "replay.npz", 4 * 2 + 4 + 4 + 4 + 4 + 2
    replay = make_replay(folder)
    add(replay, [4, 4])
    replay.save(file)
    assert file.stat().st_size < 2000  # no rows
    add(replay, [4])
    assert (folder / "before.10").stat().st_size == 0
    third = {name: column[2].copy() for name, column in replay.used_rows().items()}
    add(replay, [2], 3)
    assert (folder / "before.10").stat().st_size == 3 * size
    os.truncate(folder / "before.10", 3 * size - 1)  # killed while it was written, before the row was overwritten
    for name, column in replay.used_rows().items():
        column[2] = third[name]
    resumed = make_replay(folder)
    resumed.load(file)
    assert (folder / "before.10").stat().st_size == 2 * size
    np.testing.assert_array_equal(resumed.used_rows()["observation"][:3], [[0, 0], [0, 1], [0, 2]])


def test_checkpoints_that_files_do_not_lead_back_to(tmp_path: Path) -> None:
    folder, files = tmp_path / "rows", [tmp_path / f"{number}.npz" for number in range(4)]
    replay = make_replay(folder)
    for number, file in enumerate(files):
        replay.save(file)
        add(replay, [6], number)
    make_replay(folder).load(files[2])
    with pytest.raises(UserError, match="rows of this checkpoint are missing or overwritten: start anew"):
        make_replay(folder).load(files[0])
    with pytest.raises(ValueError, match="missing observation"):
        make_replay().load(files[2])
    with pytest.raises(UserError, match=r"observation.npy: float32 of shape \(15, 2\), expected float32 of shape \(16"):
        make_replay(folder, 16)
    os.truncate(folder / "reward.npy", 130)
    with pytest.raises(UserError, match=r"reward.npy: not a column of a replay \("):
        make_replay(folder)


def test_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"a replay of 1,000,000,000,000 steps: .*set replay_capacity lower"):
        Replay(10**12, 24_796, 15, np.uint8)

    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(UserError, match=r"a replay of 15 steps: No space left on device; set replay_capacity lower"):
        make_replay(tmp_path / "rows")


def test_rows_take_memory_as_they_are_written(tmp_path: Path) -> None:
    """A terabyte of rows, more than most machines have, of which one page is used."""
    before = resident("VmRSS")
    replay, other = (Replay(10**6, 10**6, 1, np.uint8) for _ in range(2))
    layout = ObservationLayout((Part("camera", (1000, 1000, 1), "uint8"),))
    observation = np.arange(2 * 10**6, dtype=np.uint32).astype(np.uint8).reshape(2, -1)
    replay.add_episode(Episode(observation, np.zeros((1, 1)), np.ones(1), True, False, True, layout=layout))
    replay.save(tmp_path / "replay.npz")
    other.load(tmp_path / "replay.npz")
    batch = other.sample(1, 1, np.random.default_rng(0))
    np.testing.assert_array_equal([batch.observation[0], batch.next_observation[0]], observation)
    assert resident("VmRSS") - before < 10**9


def test_another_replays_checkpoint_is_refused(tmp_path: Path) -> None:
    replay, file = make_replay(), tmp_path / "replay.npz"
    add(replay, [3])
    replay.save(file)
    with pytest.raises(ValueError, match="capacity 15, this one has 16"):
        make_replay(capacity=16).load(file)
    with pytest.raises(ValueError, match=r"observation is float32 of shape \(4, 2\), expected .*\(4, 3\)"):
        Replay(15, 3, 1).load(file)
    with pytest.raises(ValueError, match=r"observation is float32 .*, expected uint8"):
        Replay(15, 2, 1, np.uint8).load(file)
    with np.load(file) as saved:
        np.savez(file, **{name: array for name, array in saved.items() if name != "written"})
    with pytest.raises(ValueError, match="missing written"):
        make_replay().load(file)


def collect_forever(folder: Path, file: Path) -> None:
    """Episodes of 1 ... 14 steps by their number, and a checkpoint now and then that says how many there are."""
    replay, number = make_replay(folder), 0
    if file.exists():
        replay.load(file)
        with np.load(file) as saved:
            number = episodes_of(int(saved["written"]))
    while True:
        add(replay, [1 + number % 14], number)
        number += 1
        if number % 4 == 0:
            replay.save(file)


def episodes_of(written: int) -> int:
    number = 0
    while written:
        written -= 2 + number % 14
        number += 1
    return number


@pytest.mark.parametrize("kills", [5, pytest.param(100, marks=pytest.mark.slow)])
def test_killed_at_any_moment(kills: int, tmp_path: Path) -> None:
    folder, file, chance = tmp_path / "rows", tmp_path / "replay.npz", random.Random(kills)
    for _ in range(kills):
        process = multiprocessing.get_context("fork").Process(target=collect_forever, args=(folder, file))
        process.start()
        while not file.exists():
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.2))
        assert process.pid is not None and process.is_alive()
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        with np.load(file) as saved:
            written = int(saved["written"])
        expected, replay = make_replay(), make_replay(folder)
        add(expected, [1 + number % 14 for number in range(episodes_of(written))])
        replay.load(file)
        assert_same_replay(expected, replay)


def resident(kind: str) -> int:
    """Bytes of this process in memory: `VmRSS` now, `VmHWM` at most."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(kind)]
    return 1024 * int(line.split()[1])


def fill_save_and_load(folder: Path) -> None:
    """A million steps of tape_cut's sizes; limits as shares of the raw arrays."""
    steps, episodes, raw = 200, 5_000, 10**6 * (4 * 153 + 4 * 15 + 4 + 2)
    rng = np.random.default_rng(0)
    observation, action = rng.normal(size=(steps + 1, 153)), rng.uniform(-1, 1, (steps, 15))
    episode = Episode(observation, action, np.ones(steps), True, False, True)
    before = resident("VmRSS")
    replay = Replay(episodes * (steps + 1), 153, 15)
    for _ in range(episodes):
        replay.add_episode(episode)
    used = resident("VmRSS") - before
    replay.save(folder / "replay.npz")
    while_saving = resident("VmHWM") - before
    replay.load(folder / "replay.npz")
    while_loading = resident("VmHWM") - before
    print([f"{bytes / raw:.3f}" for bytes in (used, while_saving, while_loading)])
    assert used < 1.06 * raw and while_saving < 1.15 * raw and while_loading < 1.2 * raw


@pytest.mark.slow
def test_a_million_steps_in_memory(tmp_path: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(target=fill_save_and_load, args=(tmp_path,))
    process.start()
    process.join()
    assert process.exitcode == 0
