"""Recordings of a robot: a file to which steps are appended, which is whole up to the last one however recording ends.

The first line is `softflow recording`, the second the version and the task as JSON. Records of one size follow. A
record is a step, with the observation before it and the action, or the end of an episode, with its last observation.
Rows and actions are those of the `TaskSpec`: (O,) and (A,) in [-1, 1].
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from softflow.data.demonstrations import Dataset
from softflow.data.episodes import Episode
from softflow.data.readers import DatasetReader
from softflow.errors import require_version
from softflow.files import TEXT_LIMIT
from softflow.task import TaskSpec

SIGNATURE = b"softflow recording\n"
VERSION = 1
STEP, END = 0, 1


class Recording:
    """Appends episodes to a new file. Each step is passed to the operating system at once.

    A process that is killed thus loses nothing. A machine that loses power may lose the last seconds.

    Args:
        path: The file. It must not exist.
        task: What is observed and done.

    Attributes:
        is_empty: Whether nothing has been appended yet.

    Raises:
        OSError: The file exists or cannot be written. `step` and `end` raise it, too.
    """

    def __init__(self, path: str | os.PathLike[str], task: TaskSpec) -> None:
        self._dtype, self.is_empty = _record_dtype(task), True
        self._file: BinaryIO = open(path, "xb", buffering=0)
        header = json.dumps({"version": VERSION, "task": task.describe()})
        self._write(SIGNATURE + header.encode() + b"\n")

    def step(self, observation: NDArray[Any], action: NDArray[np.floating]) -> None:
        """Append a step: the observation before it, (O,), and the action, (A,) in [-1, 1]."""
        self._append(STEP, observation, action)

    def end(self, observation: NDArray[Any], terminated: bool, is_success: bool) -> None:
        """Append the end of an episode: the observation after its last action, (O,), and how it ended."""
        self._append(END, observation, 0, terminated, is_success)

    def close(self) -> None:
        self._file.close()

    def _append(self, *values: Any) -> None:
        record = np.zeros(1, self._dtype)
        assert self._dtype.names is not None
        for name, value in zip(self._dtype.names, values, strict=False):
            record[name] = value
        self._write(record.tobytes())
        self.is_empty = False

    def _write(self, data: bytes) -> None:
        if self._file.write(data) != len(data):  # an unbuffered file writes what the disk has space for
            raise OSError(f"{self._file.name}: cannot be written: the disk is full")


class RecordingReader(DatasetReader):
    """Reads recordings.

    The last step of a successful episode has the reward 1, and all other steps 0. An episode without an end, because
    the recording was stopped or killed, is truncated and no success; its last observation is used twice.
    """

    def recognizes(self, path: Path) -> bool:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return file.read(len(SIGNATURE)) == SIGNATURE

    def read(self, path: Path, wanted: TaskSpec | None = None) -> Dataset:
        with path.open("rb") as file:
            if file.read(len(SIGNATURE)) != SIGNATURE:
                raise ValueError("this is no recording of softflow-robot")
            task = _read_header(file.readline(TEXT_LIMIT))
            dtype, content = _record_dtype(task), file.read()
        whole = len(content) // dtype.itemsize  # the last record may have been cut off
        records = np.frombuffer(content, dtype, whole)
        if not ((records["kind"] <= END) & (records["terminated"] <= 1) & (records["is_success"] <= 1)).all():
            raise ValueError("its records are damaged: repair the file from a copy, or record again")
        return Dataset(list(_episodes(records, task)), task)


def _record_dtype(task: TaskSpec) -> np.dtype[Any]:
    kind = "<f4" if task.layout is None else "u1"
    fields = [("kind", "u1"), ("observation", kind, (task.row_size,)), ("action", "<f4", (task.action_dim,))]
    return np.dtype([*fields, ("terminated", "u1"), ("is_success", "u1")])


def _read_header(line: bytes) -> TaskSpec:
    try:
        header = json.loads(line)
        version, described = header["version"], header["task"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError("its header is damaged") from error
    require_version("version", version, VERSION)
    return TaskSpec.build(described)


def _episodes(records: NDArray[Any], task: TaskSpec) -> Iterator[Episode]:
    begin = 0
    for end in [*np.flatnonzero(records["kind"] == END).tolist(), len(records)]:
        steps = records[begin:end]
        last = records[end] if end < len(records) else None
        begin = end + 1
        if not len(steps):  # nothing was begun after the last episode
            continue
        final = steps[-1:]["observation"] if last is None else last["observation"][None]
        terminated, success = (False, False) if last is None else (bool(last["terminated"]), bool(last["is_success"]))
        reward = np.zeros(len(steps))
        reward[-1] = success
        yield Episode(
            np.concatenate([steps["observation"], final]),
            steps["action"],
            reward,
            terminated,
            not terminated,
            success,
            layout=task.layout,
            task=task,
        )
