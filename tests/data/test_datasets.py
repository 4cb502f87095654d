"""Datasets: what a file says of its task, how a format is recognised, and what is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from softflow.data import (
    CorrectionError,
    Corrections,
    Dataset,
    DemonstrationError,
    Episode,
    check_compatible,
    in_order_of,
    load_corrections,
    load_dataset,
    load_demonstrations,
    save_corrections,
    save_demonstrations,
    task_of,
)
from softflow.data.readers import BUILT_IN, DatasetReader, read_dataset, readers, register_reader
from softflow.errors import UserError
from softflow.task import TaskMismatch, TaskSpec
from tests.packages import install
from tests.task.specs import IMAGES, NUMBERS, OBSERVED, SEEN

EPISODES = [
    Episode.from_native(
        NUMBERS, [OBSERVED] * 3, [[1, 0.25, 0.25, 0.5]] * 2, [0, 1], terminated=True, truncated=False, is_success=True
    )
]
PACKED = [Episode.from_native(IMAGES, [SEEN] * 2, [[0.5]], [1], terminated=False, truncated=True, is_success=True)]


MANY = {
    **NUMBERS.describe(),
    "observation": [{"name": "a", "shape": [], "dtype": "int64", "categories": [10**12]}],
}
"""A task of rows that no memory has room for."""


@pytest.mark.parametrize(("task", "episodes"), [(NUMBERS, EPISODES), (IMAGES, PACKED)])
def test_demonstrations_keep_their_task(tmp_path: Path, task: TaskSpec, episodes: list[Episode]) -> None:
    path = tmp_path / "d.npz"
    save_demonstrations(path, episodes, task)
    for dataset in (load_dataset(path), read_dataset(path), read_dataset(str(path), format="npz")):
        assert dataset.task == task
        np.testing.assert_array_equal(dataset.episodes[0].observation, episodes[0].observation)
    assert len(load_demonstrations(path)) == 1
    save_demonstrations(path, episodes)  # they know it themselves
    assert read_dataset(path).task == task
    save_demonstrations(path, [replace(episode, task=None) for episode in episodes])
    assert read_dataset(path).task is None and "task" not in np.load(path)


def test_observations_are_put_in_the_order_of_the_environment() -> None:
    for task, episodes in ((NUMBERS, EPISODES), (IMAGES, PACKED)):
        backwards = replace(task, observation=task.observation[::-1])
        given = Dataset([replace(episodes[0], task=None)], task)
        there = in_order_of(backwards, given)
        assert there.task == backwards and there.episodes[0].layout == backwards.layout
        if task.layout is not None and backwards.layout is not None:
            before, after = (
                one.unpack(dataset.episodes[0].observation)
                for one, dataset in ((task.layout, given), (backwards.layout, there))
            )
            for name in before:
                np.testing.assert_array_equal(before[name], after[name])
        else:
            assert not np.array_equal(there.episodes[0].observation, episodes[0].observation)
        back = in_order_of(task, there)
        np.testing.assert_array_equal(back.episodes[0].observation, episodes[0].observation)
        other = replace(task, observation=task.observation[1:])
        assert in_order_of(other, given) is given


def test_episodes_of_one_list_are_of_one_task() -> None:
    assert task_of(EPISODES) == NUMBERS and task_of([replace(EPISODES[0], task=None)]) is None
    with pytest.raises(DemonstrationError, match="of different tasks"):
        task_of([EPISODES[0], replace(EPISODES[0], task=None)])


def test_demonstrations_of_another_task_are_not_saved(tmp_path: Path) -> None:
    with pytest.raises(DemonstrationError, match="observation of demonstration 0 has 13 dimensions, expected 12"):
        save_demonstrations(tmp_path / "d.npz", EPISODES, replace(NUMBERS, observation=NUMBERS.observation[:-1]))
    with pytest.raises(DemonstrationError, match="hold numbers alone, expected wrist"):
        save_demonstrations(tmp_path / "d.npz", EPISODES, IMAGES)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "Expecting property name"),
        ("[" * 100_000, "JSON that is nested too deeply"),
        ("{}", "not the description of a task"),
        (json.dumps(MANY), "observation of demonstration 0 has 13 dimensions, expected 1000000000000: its task"),
        (json.dumps(IMAGES.describe()), "hold numbers alone, expected .*: its task describes other arrays"),
        (json.dumps(replace(NUMBERS, action=NUMBERS.action[:2]).describe()), "has 3 dimensions, expected 2: its task"),
    ],
)
def test_a_task_that_is_none_is_one_clear_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "d.npz"
    save_demonstrations(path, EPISODES, NUMBERS)
    np.savez(path, **{**np.load(path), "task": np.array(text)})
    with pytest.raises(DemonstrationError, match=message) as caught:
        load_demonstrations(path)
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


def test_tasks_are_compared_by_name_where_both_are_known() -> None:
    sizes = NUMBERS.row_size, NUMBERS.action_dim
    first, second, *others = NUMBERS.observation
    swapped = replace(NUMBERS, observation=(second, first, *others), rate=10.0)
    check_compatible(EPISODES, *sizes, recorded=NUMBERS, expected=NUMBERS)
    check_compatible(EPISODES, *sizes, recorded=swapped)
    check_compatible(EPISODES, *sizes, expected=swapped)
    with pytest.raises(TaskMismatch, match=r"order gear, robot/joints, .*; the control rate is 10 Hz, expected 50 Hz"):
        check_compatible(EPISODES, *sizes, recorded=swapped, expected=NUMBERS)
    with pytest.raises(DemonstrationError, match="has 13 dimensions, expected 14"):
        check_compatible(EPISODES, sizes[0] + 1, sizes[1], recorded=NUMBERS, expected=NUMBERS)


def corrections(task: TaskSpec | None, size: int = 13) -> Corrections:
    chunks = np.zeros((2, 1, 4, 3))
    return Corrections(np.ones((1, size)), *chunks, np.array([0]), np.array([True]), task)


def test_corrections_keep_their_task(tmp_path: Path) -> None:
    path = tmp_path / "c.npz"
    for task in (NUMBERS, None):
        save_corrections(path, corrections(task))
        assert load_corrections(path).task == task
    with pytest.raises(ValueError, match="observation has 12 dimensions, but its task has 13"):
        corrections(NUMBERS, size=12)
    with pytest.raises(ValueError, match="human_chunk has 3 dimensions, but its task has 2"):
        corrections(replace(NUMBERS, action=NUMBERS.action[:2]))
    np.savez(path, **{**np.load(path), "task": np.array("{}")})
    with pytest.raises(CorrectionError, match="not the description of a task"):
        load_corrections(path)


# ------------------------------------------------------------------------------------------------------- other formats

READER = """\
from pathlib import Path
import numpy as np
from softflow.data import Dataset, Episode
from softflow.data.readers import DatasetReader
from softflow.task import ActionPart, ObservationPart, TaskSpec

TASK = TaskSpec((ObservationPart("joints", (2,)),), (ActionPart("torque", (-2.0,), (2.0,)),), rate=10.0)

class CsvReader(DatasetReader):
    def recognizes(self, path: Path) -> bool:
        return path.is_dir() and any(path.glob("*.csv"))

    def read(self, path: Path) -> Dataset:
        episodes = []
        for file in sorted(path.glob("*.csv")):
            rows = np.loadtxt(file, delimiter=",", ndmin=2)
            episodes.append(Episode.from_native(
                TASK, rows[:, :2], rows[:, 2:3], rows[:, 3], terminated=True, truncated=False, is_success=True,
                final_observation_missing=True,
            ))
        return Dataset(episodes, TASK)

class NoReader:
    pass
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    entry_points = "csv = csv_reader:CsvReader\nbad = csv_reader:NoReader\nmissing = csv_reader:Gone"
    monkeypatch.syspath_prepend(install(tmp_path / "site", entry_points, "csv_reader", READER, "softflow.readers"))
    yield


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "0.csv").write_text("1,2,-2,0\n3,4,1,1\n")
    return tmp_path / "logs"


def test_a_package_brings_a_format(installed: None, recording: Path) -> None:
    assert set(readers().names()) == {"bad", "csv", "missing", "npz", "recording", *BUILT_IN}
    dataset = read_dataset(recording, format="csv")
    assert dataset.task is not None and dataset.task.rate == 10
    [episode] = dataset.episodes
    np.testing.assert_array_equal(episode.observation, [[1, 2], [3, 4], [3, 4]])
    np.testing.assert_array_equal(episode.action, [[-1], [0.5]])
    np.testing.assert_array_equal(episode.reward, [0, 1])


def test_a_reader_that_cannot_be_had_is_one_clear_line(installed: None, recording: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"csv_reader:NoReader .* is not a subclass of softflow\.data\.DatasetReader"):
        read_dataset(recording, format="bad")
    assert len(read_dataset(recording).episodes) == 1  # whatever the others are
    with pytest.raises(
        DemonstrationError,
        match=r"in no known format; bad could not be tried: .*NoReader.*; missing could .*; known are",
    ):
        read_dataset(tmp_path)
    with pytest.raises(UserError, match="'missing' cannot be imported from csv_reader:Gone"):
        read_dataset(recording, format="missing")
    with pytest.raises(UserError, match=r"unknown dataset format 'cvs'; did you mean 'csv'\?"):
        read_dataset(recording, format="cvs")
    save_demonstrations(tmp_path / "d.npz", EPISODES)  # ours are read whatever others do
    assert len(read_dataset(tmp_path / "d.npz").episodes) == 1


@pytest.fixture
def registered() -> Iterator[type[DatasetReader]]:
    """A format that a program registers: any file called *.txt."""

    @register_reader("text")
    class TextReader(DatasetReader):
        answer: Any = Dataset([], None)
        asked: ClassVar[list[TaskSpec | None]] = []

        def recognizes(self, path: Path) -> bool:
            return path.suffix == ".txt"

        def read(self, path: Path, wanted: TaskSpec | None = None) -> Dataset:
            if isinstance(self.answer, Exception):
                raise self.answer
            self.asked.append(wanted)
            return self.answer

    yield TextReader
    readers()._things.pop("text")


def test_a_registered_format_is_recognised(registered: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.touch()
    registered.answer = Dataset(EPISODES, NUMBERS)
    assert read_dataset(path) is registered.answer
    assert read_dataset(path, wanted=NUMBERS) is registered.answer and registered.asked == [None, NUMBERS]
    with pytest.raises(ValueError, match="'text' is already registered"):
        register_reader("text")(registered)
    for answer, message in (
        (ValueError("no\nheader"), f"{path}: no header"),
        (OSError("locked"), f"{path}: locked"),
        (KeyError("actions"), f"{path}: TextReader fails: KeyError('actions')"),
        (UserError("as it is"), "as it is"),
        (Dataset([], None), f"{path}: no episodes"),
    ):
        registered.answer = answer
        with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
            read_dataset(path)


def test_what_nobody_recognises(tmp_path: Path) -> None:
    with pytest.raises(DemonstrationError, match=r"none\.npz: no such file"):
        read_dataset(tmp_path / "none.npz")
    np.savez(tmp_path / "theirs.npz", observations=np.zeros(3))
    (tmp_path / "a.csv").write_text("1,2\n")
    for name in ("theirs.npz", "a.csv", "."):
        with pytest.raises(
            DemonstrationError,
            match=r"in no known format; known are .*lerobot \(a folder with meta/info\.json\), .*npz \(",
        ):
            read_dataset(tmp_path / name)
    for content, message in ((b"", "the file is empty"), (b"PK\3\4", "truncated or corrupt"), (b"1,2", "not an .npz")):
        (tmp_path / "damaged.npz").write_bytes(content)
        with pytest.raises(DemonstrationError, match=message):
            read_dataset(tmp_path / "damaged.npz")
    with pytest.raises(DemonstrationError, match="missing schema_version"):
        read_dataset(tmp_path / "theirs.npz", format="npz")
