"""Corrections in files: a policy's chunks, and what a human did instead.

docs/how-to/corrections.md describes the schema.
"""

from __future__ import annotations

import os
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from softflow.data.archive import Field, read_archive, write_archive
from softflow.data.checks import actions, numbers_or_bytes
from softflow.data.json_arrays import json_array, read_task
from softflow.errors import UserError, one_line
from softflow.task import TaskSpec

SCHEMA_VERSION = 1
_SCHEMA = {  # axes: N decisions in all, E corrections, O, H, A
    "observation": Field("NO", "number"),
    "base_chunk": Field("NHA", "number"),
    "human_chunk": Field("NHA", "number"),
    "episode": Field("N", "integer"),
    "is_success": Field("E", "bool"),
    "task": Field("", "text", optional=True),  # a TaskSpec as JSON
}


class CorrectionError(UserError):
    """Corrections cannot be used. The message says in one line where and why."""


@dataclass(frozen=True, eq=False)
class Corrections:
    """N decisions that a human made in place of a policy, in E episodes.

    Arrays are copied and made read-only. Chunks and observations become float32, but packed observations stay uint8.

    Attributes:
        observation: (N, O), the observations.
        base_chunk: (N, H, A) in [-1, 1], the chunk that the policy would have executed.
        human_chunk: (N, H, A) in [-1, 1], the actions that the human took from there on.
        episode: (N,), the index of the episode of each decision.
        is_success: (E,), whether the human solved the task.
        task: The specification of observations and actions. None if it is not known.

    Raises:
        ValueError: A field has the wrong shape or type, is not finite, exceeds its bounds, or does not fit the task.
    """

    observation: np.ndarray
    base_chunk: np.ndarray
    human_chunk: np.ndarray
    episode: np.ndarray
    is_success: np.ndarray
    task: TaskSpec | None = None

    def __post_init__(self) -> None:
        self._set("observation", numbers_or_bytes("observation", self.observation, ("N", "O")))
        for name in ("base_chunk", "human_chunk"):
            self._set(name, actions(name, getattr(self, name), ("N", "H", "A")))
        for name, kinds in (("episode", "iu"), ("is_success", "b")):
            array = np.array(getattr(self, name))
            if array.ndim != 1 or array.dtype.kind not in kinds:
                raise ValueError(f"{name} must be one-dimensional {'integers' if name == 'episode' else 'bools'}")
            array.flags.writeable = False
            self._set(name, array)
        if self.base_chunk.shape != self.human_chunk.shape:
            raise ValueError(
                f"base_chunk has shape {self.base_chunk.shape}, but human_chunk has {self.human_chunk.shape}"
            )
        if not len(self.observation) == len(self.human_chunk) == len(self.episode):
            raise ValueError("observation, human_chunk and episode must have one row for each decision")
        wrong = np.flatnonzero((self.episode < 0) | (self.episode >= len(self.is_success)))
        if len(wrong):
            raise ValueError(
                f"episode[{wrong[0]}] = {self.episode[wrong[0]]}, but is_success has {len(self.is_success)} episodes"
            )

        if self.task is not None:
            for name, got, expected in (
                ("observation", self.observation.shape[1], self.task.row_size),
                ("human_chunk", self.human_chunk.shape[2], self.task.action_dim),
            ):
                if got != expected:
                    raise ValueError(f"{name} has {got} dimensions, but its task has {expected}")

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def __len__(self) -> int:
        """The number N of decisions."""
        return len(self.observation)

    @property
    def shape(self) -> tuple[int, int, int]:
        """The sizes (O, H, A)."""
        return self.observation.shape[1], self.human_chunk.shape[1], self.human_chunk.shape[2]

    @property
    def successful(self) -> np.ndarray:
        """The indices (M,) of decisions in episodes that the human solved, which are worth learning from."""
        return np.flatnonzero(self.is_success[self.episode])


def save_corrections(path: str | os.PathLike[str], corrections: Corrections) -> None:
    """Write `corrections` to `path`. An existing file is replaced only once the new one is complete."""
    arrays: dict[str, np.ndarray] = {name: getattr(corrections, name) for name in _SCHEMA if name != "task"}
    if corrections.task is not None:
        arrays["task"] = json_array(corrections.task.describe())
    write_archive(Path(path), arrays, SCHEMA_VERSION)


def load_corrections(path: str | os.PathLike[str]) -> Corrections:
    """Read a file with the schema of docs/how-to/corrections.md. Nothing is unpickled.

    Raises:
        CorrectionError: The file is missing, unreadable, or does not match the schema.
    """
    path = Path(path)
    try:
        arrays = read_archive(path, _SCHEMA, SCHEMA_VERSION, "docs/how-to/corrections.md")
        task = read_task(arrays)
        return Corrections(**{name: array for name, array in arrays.items() if name != "task"}, task=task)
    except (ValueError, OSError) as error:
        raise CorrectionError(f"{path}: {one_line(error)}") from error


def holds_corrections(path: str | os.PathLike[str]) -> bool:
    """Return whether a file is one of `save_corrections`. False if it is missing or damaged."""
    try:
        with zipfile.ZipFile(path) as archive:
            return "base_chunk.npy" in archive.namelist()
    except Exception:  # zipfile raises errors of many types for damaged files
        return False


def chunks_from(action: np.ndarray, horizon: int) -> np.ndarray:
    """Return the chunk that starts at each of T steps: actions (T, A) -> (T, horizon, A).

    At the end of the episode the last action is repeated, as in the windows of a `Replay`, from which imitation learns.
    """
    steps = np.arange(len(action))[:, None] + np.arange(horizon)
    return action[np.minimum(steps, len(action) - 1)]
