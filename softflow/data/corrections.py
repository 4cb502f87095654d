"""Corrections on disk: what a policy would have done, and what a human did instead. Schema in docs/corrections.md."""

from __future__ import annotations

import os
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
    "task": Field("", "text", optional=True),  # what is observed and done, as JSON
}


class CorrectionError(UserError):
    """Corrections that cannot be used; the message is one line that says where and why."""


@dataclass(frozen=True, eq=False)
class Corrections:
    """N decisions that a human made for a policy, in E episodes taken over from it.

    Arrays are copied, chunks and observations to float32, and made read-only; packed observations stay bytes.

    Attributes:
        observation: (N, O), what was seen.
        base_chunk: (N, H, A) in [-1, 1], what the policy would have executed there.
        human_chunk: (N, H, A) in [-1, 1], the actions from there on that the human took.
        episode: (N,), which of the E episodes a decision belongs to.
        is_success: (E,), whether the human solved the task.
        task: what is observed and done, None if it is not known.

    Raises:
        ValueError: a field has the wrong shape or type, is not finite, leaves its bounds, or does not fit the task.
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
        """Number N of decisions."""
        return len(self.observation)

    @property
    def shape(self) -> tuple[int, int, int]:
        """O, H, A."""
        return self.observation.shape[1], self.human_chunk.shape[1], self.human_chunk.shape[2]

    @property
    def successful(self) -> np.ndarray:
        """Rows (M,) of the decisions in episodes that the human solved: those worth learning from."""
        return np.flatnonzero(self.is_success[self.episode])


def save_corrections(path: str | os.PathLike[str], corrections: Corrections) -> None:
    """Write `corrections` to `path`, replacing a file of that name only once the new one is complete."""
    arrays: dict[str, np.ndarray] = {name: getattr(corrections, name) for name in _SCHEMA if name != "task"}
    if corrections.task is not None:
        arrays["task"] = json_array(corrections.task.describe())
    write_archive(Path(path), arrays, SCHEMA_VERSION)


def load_corrections(path: str | os.PathLike[str]) -> Corrections:
    """Read a file in the schema of docs/corrections.md. Nothing is unpickled.

    Raises:
        CorrectionError: the file is missing, unreadable, or not in the schema.
    """
    path = Path(path)
    try:
        arrays = read_archive(path, _SCHEMA, SCHEMA_VERSION, "docs/corrections.md")
        task = read_task(arrays)
        return Corrections(**{name: array for name, array in arrays.items() if name != "task"}, task=task)
    except (ValueError, OSError) as error:
        raise CorrectionError(f"{path}: {one_line(error)}") from error


def chunks_from(action: np.ndarray, horizon: int) -> np.ndarray:
    """The chunk from each of T steps on: actions (T, A) -> (T, horizon, A).

    Where the episode ends the last action is held, as in the windows of a `Replay`, which imitation has learnt from.
    """
    steps = np.arange(len(action))[:, None] + np.arange(horizon)
    return action[np.minimum(steps, len(action) - 1)]
