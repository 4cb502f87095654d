"""Datasets are recognised by their content, and other formats are brought in by one class."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from softflow.data import (
    Dataset,
    DatasetReader,
    DemonstrationError,
    Episode,
    available_readers,
    read_dataset,
    readers,
    register_reader,
    save_demonstrations,
)
from softflow.task import ActionPart, ObservationPart, TaskSpec

TASK = TaskSpec(
    (ObservationPart("q", (2,)),), (ActionPart("a", (0.0,), (4.0,)),), rate=20.0, success="any", name="mine"
)


def make_episode() -> Episode:
    return Episode.from_native(
        TASK, np.ones((3, 2)), [[1.0], [4.0]], [0, 1], terminated=True, truncated=False, is_success=True
    )


@pytest.fixture
def text_reader() -> Iterator[type[DatasetReader]]:
    @register_reader("text")
    class TextReader(DatasetReader):
        def recognizes(self, path: Path) -> bool:
            return path.is_file() and path.read_bytes()[:4] == b"TEXT"

        def read(self, path: Path) -> Dataset:
            return Dataset([make_episode()], TASK)

    yield TextReader
    readers._READERS._things.pop("text")


def test_our_own_format_keeps_the_task(tmp_path: Path) -> None:
    save_demonstrations(tmp_path / "d.npz", [make_episode()], TASK)
    for format in (None, "npz"):
        episodes, task = read_dataset(tmp_path / "d.npz", format)
        assert task == TASK and len(episodes) == 1
        np.testing.assert_array_equal(episodes[0].action, make_episode().action)
    save_demonstrations(tmp_path / "d.npz", [make_episode()])
    assert read_dataset(str(tmp_path / "d.npz")).task is None


def test_another_format_is_recognised_by_its_content(tmp_path: Path, text_reader: type[DatasetReader]) -> None:
    (tmp_path / "a.dat").write_text("TEXT ...")
    assert read_dataset(tmp_path / "a.dat").task == TASK
    assert available_readers() == ["npz", "text"]


def test_what_is_not_recognised_names_the_formats(tmp_path: Path, text_reader: type[DatasetReader]) -> None:
    (tmp_path / "a.dat").write_text("else")
    for path, format, message in (
        ("a.dat", None, "a.dat: it is of no known format: say which one it is, of npz, text"),
        ("a.dat", "txt", "unknown dataset format 'txt'; did you mean 'text'"),
        ("b.dat", None, "b.dat: no such file or folder"),
    ):
        with pytest.raises(DemonstrationError, match=message):
            read_dataset(tmp_path / path, format)
    (tmp_path / "both.npz").write_text("TEXT ...")
    with pytest.raises(DemonstrationError, match="it could be npz or text"):
        read_dataset(tmp_path / "both.npz")


def test_a_task_that_does_not_fit_its_episodes_is_refused(tmp_path: Path) -> None:
    other = TaskSpec((ObservationPart("q", (3,)),), TASK.action)
    with pytest.raises(DemonstrationError, match="observation of demonstration 0 has 2 dimensions, expected 3"):
        save_demonstrations(tmp_path / "d.npz", [make_episode()], other)
