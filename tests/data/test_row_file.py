"""Observations with images in temporary files: the same bytes and batches as in memory, and memory that stays small."""

from __future__ import annotations

import errno
import gc
import os
import shutil
import tempfile
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from softflow.data import (
    Dataset,
    DemonstrationError,
    Episode,
    Replay,
    Windows,
    read_dataset,
    row_file,
    save_demonstrations,
)
from softflow.data.demonstrations import with_columns
from softflow.data.recording import Recording
from softflow.data.row_file import RowFile, current_file, place_of, rows_in_file
from softflow.errors import UserError
from softflow.formats import room
from softflow.task import ActionPart, ObservationPart, TaskSpec
from tests.formats.lerobot_datasets import GENUINE, episode_of
from tests.pictures import LAYOUT, lamp_episodes

TASK = TaskSpec(
    (ObservationPart("camera", (32, 32, 3), "uint8", axes="HWC"), ObservationPart("joints", (2,))),
    (ActionPart("action", (-1.0,), (1.0,)),),
    rate=10.0,
)
STEPS = 40
EPISODE_SIZE = (STEPS + 1) * TASK.row_size


def random_episodes(number: int) -> list[Episode]:
    rng = np.random.default_rng(number)
    return [episode_of(TASK, STEPS, rng) for _ in range(number)]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of temporary files, with small maps."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(row_file, "SMALLEST_MAP", 2**12)
    return temporary


def test_arrays_come_back_as_they_were(folder: Path) -> None:
    rng, file = np.random.default_rng(0), RowFile()
    arrays = [
        rng.integers(0, 256, (3, 1000), np.uint8),
        rng.normal(size=(7, 5)).astype(np.float32),
        rng.integers(0, 256, (40, 1000), np.uint8)[::2],
        rng.integers(0, 256, (1, 1), np.uint8),
    ]
    kept = [file.append(array) for array in arrays]
    for array, other in zip(arrays, kept, strict=True):
        assert other.dtype == array.dtype
        np.testing.assert_array_equal(other, array)
        place = place_of(other)
        assert place is not None and place[0] is file
        content = file.content()[place[1] : place[1] + array.nbytes]
        assert content.tobytes() == array.tobytes()
        with pytest.raises(ValueError):
            other.flags.writeable = True
    assert place_of(kept[0][1:]) == (file, 1000) and place_of(arrays[0]) is None and place_of(kept[0][:, 1:]) is None


def test_the_file_has_no_name_and_is_closed_when_its_last_array_is_gone(folder: Path) -> None:
    def open_here() -> list[str]:
        links = [os.path.join("/proc/self/fd", name) for name in os.listdir("/proc/self/fd")]
        return [os.readlink(link) for link in links if os.path.islink(link) and str(folder) in os.readlink(link)]

    file = RowFile()
    assert not open_here()  # no file is made for datasets without images
    array = file.append(np.ones((2, 9000), np.uint8))
    assert not list(folder.iterdir())
    del file
    gc.collect()
    assert array[1:].sum() == 9000
    if os.path.isdir("/proc/self/fd"):
        assert open_here()
        del array
        gc.collect()
        assert not open_here()


def test_episodes_lie_in_the_file_of_their_block_and_are_not_copied_again(folder: Path) -> None:
    [before] = lamp_episodes(1)
    with rows_in_file():
        [within] = lamp_episodes(1)
        moved, file = replace(before), current_file()
    assert current_file() is None and place_of(before.observation) is None
    for one in (within, moved):
        place = place_of(one.observation)
        assert place is not None and place[0] is file
        np.testing.assert_array_equal(one.observation, before.observation)
    assert np.shares_memory(replace(within, mode=3).observation, within.observation)
    assert not np.shares_memory(replace(before).observation, before.observation)  # its owner may change it


def test_a_file_of_ours_and_its_parts_lie_in_a_file(folder: Path, tmp_path: Path) -> None:
    episodes = random_episodes(3)
    save_demonstrations(tmp_path / "d.npz", episodes)
    read = read_dataset(tmp_path / "d.npz")
    cameras = with_columns(read, {TASK.observation[0]: TASK.columns["camera"]})
    for one, camera, expected in zip(read.episodes, cameras.episodes, episodes, strict=True):
        assert place_of(one.observation) is not None and place_of(camera.observation) is not None
        np.testing.assert_array_equal(one.observation, expected.observation)
        np.testing.assert_array_equal(camera.observation, expected.observation[:, TASK.columns["camera"]])


def test_files_are_written_as_numpy_writes_them(tmp_path: Path) -> None:
    episodes = random_episodes(2)
    save_demonstrations(tmp_path / "d.npz", episodes)
    with np.load(tmp_path / "d.npz") as arrays:
        np.savez_compressed(tmp_path / "numpy.npz", **arrays)
        expected = np.concatenate([one.observation[:-1] for one in episodes])
        np.testing.assert_array_equal(arrays["observation"], expected)
    with zipfile.ZipFile(tmp_path / "d.npz") as one, zipfile.ZipFile(tmp_path / "numpy.npz") as other:
        assert one.namelist() == other.namelist()
        assert all(one.read(name) == other.read(name) for name in one.namelist())


@given(st.lists(st.tuples(st.sampled_from("mab"), st.integers(1, 6)), min_size=1, max_size=6), st.integers(1, 8))
def test_a_fixed_replay_gives_the_same_batches(sources: list[tuple[str, int]], horizon: int) -> None:
    """Episodes lie in memory (m) and in two files (a, b), in any order."""
    rng, files = np.random.default_rng(0), {"a": RowFile(), "b": RowFile()}
    episodes, rows = list[Episode](), 0
    for source, steps in sources:
        episode = episode_of(TASK, steps, rng)
        if source in files:
            episode = replace(episode, observation=files[source].append(episode.observation))
            assert place_of(episode.observation) is not None
        episodes.append(episode)
        rows += steps + 1
    replays = [Replay(rows, TASK.row_size, 1, np.uint8, fixed=fixed) for fixed in (False, True)]
    for episode in episodes:
        for replay in replays:
            replay.add_episode(episode)
    one, other = (replay.sample(32, horizon, np.random.default_rng(1)) for replay in replays)
    for name in Windows.__dataclass_fields__:
        got, expected = getattr(other, name), getattr(one, name)
        assert got.dtype == expected.dtype and got.flags.writeable
        np.testing.assert_array_equal(got, expected)
    assert "observation" not in replays[1].used_rows() and replays[1].nbytes < replays[0].nbytes


def test_a_fixed_replay_is_filled_once(tmp_path: Path) -> None:
    [first, second] = lamp_episodes(2)
    replay = Replay(len(first) + 1, LAYOUT.size, 1, np.uint8, fixed=True)
    replay.add_episode(first)
    with pytest.raises(ValueError, match="cannot take more"):
        replay.add_episode(second)
    for use in (replay.save, replay.load):
        with pytest.raises(ValueError, match="neither saved nor loaded"):
            use(tmp_path / "replay.npz")
    numbers = Replay(5, 2, 1, fixed=True)
    numbers.add_episode(Episode(np.ones((5, 2)), np.zeros((4, 1)), np.zeros(4), True, False, False))
    assert (numbers.used_rows()["observation"] == 1).all()


def learn_from(path: Path) -> Dataset:
    """Read a dataset and draw batches of it, as a run does."""
    dataset = read_dataset(path)
    replay = Replay(sum(len(one) + 1 for one in dataset.episodes), TASK.row_size, 1, np.uint8, fixed=True)
    for episode in dataset.episodes:
        replay.add_episode(replace(episode, mode=1))
    replay.sample(8, 4, np.random.default_rng(0))
    return dataset


def peak(action: Callable[[], object]) -> int:
    """The largest memory of numpy's arrays and Python's objects that an action takes, in bytes."""
    tracemalloc.start()
    action()
    largest = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return largest


def test_memory_does_not_grow_with_a_file_of_ours(tmp_path: Path) -> None:
    peaks = []
    for number in (20, 40):  # enough for the blocks of up to 1 MB that zipfile reads
        path = tmp_path / f"{number}.npz"
        save_demonstrations(path, random_episodes(number), TASK)
        peaks.append(peak(lambda: save_demonstrations(path, *learn_from(path))))  # noqa: B023
    assert peaks[1] - peaks[0] < EPISODE_SIZE, "20 episodes more take the memory of less than one"


def test_memory_does_not_grow_with_a_lerobot_dataset(tmp_path: Path) -> None:
    writer = pytest.importorskip("softflow.formats.lerobot.writer")
    peaks = []
    for number in (1, 2, 8):  # the first time, modules are imported
        path = tmp_path / f"{number}"
        writer.write_lerobot(path, Dataset(random_episodes(number), TASK))
        peaks.append(peak(lambda: learn_from(path)))  # noqa: B023
    assert peaks[2] - peaks[1] < EPISODE_SIZE, "6 episodes more take the memory of less than one"


def test_memory_does_not_grow_with_a_recording(tmp_path: Path) -> None:
    peaks = []
    for number in (1, 2, 8):
        path = tmp_path / f"{number}.rec"
        recording = Recording(path, TASK)
        for episode in random_episodes(number):
            for observation, action in zip(episode.observation[:-1], episode.action, strict=True):
                recording.step(observation, action)
            recording.end(episode.observation[-1], True, True)
        recording.close()
        peaks.append(peak(lambda: learn_from(path)))  # noqa: B023
    assert peaks[2] - peaks[1] < EPISODE_SIZE, "6 episodes more take the memory of less than one"


class FullDisk:
    """A file on a disk that is full."""

    def fileno(self) -> int:
        return -1

    def seek(self, position: int) -> None: ...

    def write(self, content: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def close(self) -> None: ...


def test_a_full_disk_is_one_clear_line(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_demonstrations(tmp_path / "d.npz", random_episodes(1))
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: FullDisk())
    with pytest.raises(UserError, match=f"{folder}: the temporary file .* No space left on device.*: set .* TMPDIR"):
        RowFile().append(np.zeros((1, 3), np.uint8))
    with pytest.raises(DemonstrationError, match=r"d\.npz: .*No space left on device.*TMPDIR") as error:
        read_dataset(tmp_path / "d.npz")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["d.npz", "lerobot/v061_video", "lerobot/v061_image", "minari/nested-v0"])
def test_a_dataset_without_room_is_refused_before_anything_is_written(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    path = GENUINE.parent / name
    if name == "d.npz":
        path = tmp_path / name
        save_demonstrations(path, random_episodes(2), TASK)
    size = sum(episode.observation.nbytes for episode in read_dataset(path).episodes)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=size))
    read_dataset(path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=size - 1))
    monkeypatch.setattr(RowFile, "append", None)
    with pytest.raises(UserError, match=rf"{path}: its observations take .* GB in a temporary file, and {folder} has"):
        read_dataset(path)


def test_the_space_is_said_before_it_is_taken(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    writer = pytest.importorskip("softflow.formats.lerobot.writer")
    writer.write_lerobot(tmp_path / "d", Dataset(random_episodes(2), TASK))
    line = f"{tmp_path / 'd'}: its observations take 0.0 GB in a temporary file in {folder}"
    read_dataset(tmp_path / "d")
    assert line not in capsys.readouterr().err
    monkeypatch.setattr(room, "SAID_FROM", 2 * EPISODE_SIZE)
    read_dataset(tmp_path / "d")
    assert line in capsys.readouterr().err


def test_large_temporary_files_lie_on_a_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TMPDIR", raising=False)
    monkeypatch.setattr(row_file, "ON_DISK", tmp_path)
    assert row_file.temporary_folder() == tmp_path
    monkeypatch.setattr(row_file, "ON_DISK", tmp_path / "missing")
    assert row_file.temporary_folder() == Path(tempfile.gettempdir())


@pytest.fixture(autouse=True)
def _no_file_is_left_open() -> Iterator[None]:
    yield
    assert current_file() is None
