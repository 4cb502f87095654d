"""Recordings of a robot: a file to which steps are appended, which is whole up to the last one however recording ends.

The first line is `softflow recording`, the second the version and the task as JSON. Records follow, each of which
begins with a byte that says what it is: a step, with the observation before it, the action, and who acted; the end of
an episode, with its last observation; or a chunk of the policy, which comes before the first step that executes it.
Rows and actions are those of the `TaskSpec`: (O,) and (A,) in [-1, 1]. Version 1 has no chunks and does not say who
acted.
"""

from __future__ import annotations

import json
import mmap
import os
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray

from softflow.data.damage import reading_episode
from softflow.data.demonstrations import Dataset
from softflow.data.episodes import Episode
from softflow.data.proposals import Proposals
from softflow.data.readers import DatasetReader
from softflow.errors import require_version
from softflow.files import TEXT_LIMIT
from softflow.task import TaskSpec

SIGNATURE = b"softflow recording\n"
VERSION = 2
STEP, END, CHUNK = 0, 1, 2
DAMAGED = "its records are damaged: repair the file from a copy, or record again"


class Recorder(Protocol):
    """What a control loop records to."""

    def step(
        self,
        observation: NDArray[Any],
        action: NDArray[np.floating],
        human: bool = False,
        as_proposed: bool = False,
        proposed: tuple[int, NDArray[np.floating]] | None = None,
    ) -> None:
        """See `Recording.step`."""

    def end(self, observation: NDArray[Any], terminated: bool, is_success: bool) -> None:
        """See `Recording.end`."""


class Recording:
    """Appends episodes to a new file. Each step is passed to the operating system at once.

    A process that is killed thus loses nothing. A machine that loses power may lose the last seconds.

    Args:
        path: The file. It must not exist.
        task: What is observed and done.
        arm: The `Episode.arm` of all episodes.

    Attributes:
        is_empty: Whether nothing has been appended yet.

    Raises:
        OSError: The file exists or cannot be written. `step` and `end` raise it, too.
    """

    def __init__(self, path: str | os.PathLike[str], task: TaskSpec, arm: int = 0) -> None:
        self._task, self._dtype, self.is_empty = task, _record_dtype(task, VERSION), True
        self._file: BinaryIO = open(path, "xb", buffering=0)
        header = json.dumps({"version": VERSION, "task": task.describe(), "arm": arm})
        self._write(SIGNATURE + header.encode() + b"\n")

    def step(
        self,
        observation: NDArray[Any],
        action: NDArray[np.floating],
        human: bool = False,
        as_proposed: bool = False,
        proposed: tuple[int, NDArray[np.floating]] | None = None,
    ) -> None:
        """Append a step.

        Args:
            observation: The observation before it, (O,).
            action: The action, (A,) in [-1, 1].
            human: Whether a person acted.
            as_proposed: Whether the action is that of the last chunk for this step, unchanged.
            proposed: If this step is the first that executes a chunk of the policy: the step of the episode before
                which the chunk's observation was taken, and the chunk as the policy drew it, (H, A) in the units of
                [-1, 1], before it was clipped.
        """
        chunk = b"" if proposed is None else self._chunk(*proposed)
        self._append(chunk, kind=STEP, observation=observation, action=action, human=human, as_proposed=as_proposed)

    def end(self, observation: NDArray[Any], terminated: bool, is_success: bool) -> None:
        """Append the end of an episode: the observation after its last action, (O,), and how it ended."""
        self._append(kind=END, observation=observation, terminated=terminated, is_success=is_success)

    def close(self) -> None:
        self._file.close()

    def _chunk(self, step: int, chunk: NDArray[np.floating]) -> bytes:
        record = np.zeros(1, _chunk_dtype(len(chunk), self._task))
        record["kind"], record["horizon"], record["step"], record["chunk"] = CHUNK, len(chunk), step, chunk
        return record.tobytes()

    def _append(self, before: bytes = b"", **values: Any) -> None:
        record = np.zeros(1, self._dtype)
        for name, value in values.items():
            record[name] = value
        self._write(before + record.tobytes())
        self.is_empty = False

    def _write(self, data: bytes) -> None:
        if self._file.write(data) != len(data):  # an unbuffered file writes what the disk has space for
            raise OSError(f"{self._file.name}: cannot be written: the disk is full")


class RecordingReader(DatasetReader):
    """Reads recordings.

    The last step of a successful episode has the reward 1, and all other steps 0. An episode without an end, because
    the recording was stopped or killed, is truncated and no success; its last observation is used twice.

    `Episode.human` is None if nobody took over. `Episode.proposals` has the chunks as the policy drew them. A chunk is
    `own` if it was executed from its first action on, by nobody else, and unchanged by a guard.
    """

    SIGN = "a file of softflow-robot"

    def recognizes(self, path: Path) -> bool:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return file.read(len(SIGNATURE)) == SIGNATURE

    def read(self, path: Path, wanted: TaskSpec | None = None) -> Dataset:
        with path.open("rb") as file:
            if file.read(len(SIGNATURE)) != SIGNATURE:
                raise ValueError("this is no recording of softflow-robot")
            version, task, arm = _read_header(file.readline(TEXT_LIMIT))
            begin, content = file.tell(), mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        records = _records(content, begin, version, task)
        return Dataset([replace(episode, arm=arm) for episode in _episodes(records, task)], task)


def _record_dtype(task: TaskSpec, version: int) -> np.dtype[Any]:
    kind = "<f4" if task.layout is None else "u1"
    who = [("human", "u1"), ("as_proposed", "u1")] if version > 1 else []
    fields = [("kind", "u1"), ("observation", kind, (task.row_size,)), ("action", "<f4", (task.action_dim,)), *who]
    return np.dtype([*fields, ("terminated", "u1"), ("is_success", "u1")])


def _chunk_dtype(horizon: int, task: TaskSpec) -> np.dtype[Any]:
    shape = horizon, task.action_dim
    return np.dtype([("kind", "u1"), ("horizon", "<u2"), ("step", "<u4"), ("chunk", "<f4", shape)])


def _read_header(line: bytes) -> tuple[int, TaskSpec, int]:
    try:
        header = json.loads(line)
        version, described, arm = header["version"], header["task"], header.get("arm", 0)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError("its header is damaged") from error
    if version != 1:
        require_version("version", version, VERSION)
    return version, TaskSpec.build(described), arm


def _records(content: mmap.mmap, at: int, version: int, task: TaskSpec) -> Iterator[NDArray[Any]]:
    """Yield the records from a byte on, each as an array of one. A last one that was cut off is left out."""
    dtype = _record_dtype(task, version)
    while at < len(content):
        kind = content[at]
        if kind > (CHUNK if version > 1 else END):
            raise ValueError(DAMAGED)
        horizon = int.from_bytes(content[at + 1 : at + 3], "little")
        of_kind = _chunk_dtype(horizon, task) if kind == CHUNK else dtype
        if at + of_kind.itemsize > len(content):
            return
        yield np.frombuffer(content, of_kind, 1, at)
        at += of_kind.itemsize


def _episodes(records: Iterator[NDArray[Any]], task: TaskSpec) -> list[Episode]:
    steps, chunks = list[NDArray[Any]](), list[tuple[int, NDArray[Any]]]()
    episodes, begun = list[Episode](), 0
    for record in chain(records, [None]):
        if record is not None and record["kind"][0] == STEP:
            steps.append(record)
        elif record is not None and record["kind"][0] == CHUNK:
            chunks.append((len(steps), record))
        else:
            if steps:  # or nothing was begun after the last episode
                with reading_episode(f"episode {begun}"):
                    episodes.append(_episode(np.concatenate(steps), chunks, record, task))
                begun += 1
            steps, chunks = [], []
    return episodes


def _episode(
    steps: NDArray[Any], chunks: list[tuple[int, NDArray[Any]]], end: NDArray[Any] | None, task: TaskSpec
) -> Episode:
    """Return the episode of some steps. Each chunk comes with the number of steps before it."""
    flags = {name: _flags(steps, name) for name in ("human", "as_proposed") if name in (steps.dtype.names or ())}
    terminated, success = (end is not None and bool(_flags(end, name)[0]) for name in ("terminated", "is_success"))
    reward = np.zeros(len(steps))
    reward[-1] = success
    human = flags.get("human")
    return Episode(
        np.concatenate([steps["observation"], steps[-1:]["observation"] if end is None else end["observation"]]),
        steps["action"],
        reward,
        terminated,
        not terminated,
        success,
        layout=task.layout,
        task=task,
        proposals=_proposals(chunks, flags["as_proposed"]) if chunks else None,
        human=human if human is not None and human.any() else None,
    )


def _flags(records: NDArray[Any], name: str) -> NDArray[np.bool_]:
    if (records[name] > 1).any():
        raise ValueError(DAMAGED)
    return records[name].astype(np.bool_)


def _proposals(chunks: list[tuple[int, NDArray[Any]]], as_proposed: NDArray[np.bool_]) -> Proposals | None:
    """Return the chunks that were executed, of which `as_proposed` (T,) says which steps they left unchanged."""
    begins = [begin for begin, _ in chunks if begin < len(as_proposed)]  # the step after the last one was cut off
    if not begins:
        return None
    records = [record for _, record in chunks[: len(begins)]]
    if len({record["chunk"].shape for record in records}) > 1:
        raise ValueError(DAMAGED)
    joined = np.concatenate(records)
    unchanged = [as_proposed[begin:end].all() for begin, end in pairwise([*begins, len(as_proposed)])]
    return Proposals(joined["step"], joined["chunk"], np.array(unchanged) & (joined["step"] == begins))
