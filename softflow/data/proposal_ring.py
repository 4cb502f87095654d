"""A ring buffer of proposed chunks worth imitating, beside the rows of a replay."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from softflow.data.archive import read_into
from softflow.data.proposals import Proposals
from softflow.data.replay_checks import BLOCK
from softflow.data.replay_files import ReplayFiles

PROPOSALS_STATE = ("proposals_written", "proposal_switches")
"""Names of the arrays of a checkpoint that hold no proposals themselves."""


def proposal_dtype(horizon: int, action_dim: int) -> np.dtype:
    """Return the structured dtype of a proposal. Its `itemsize` is the number of bytes per decision."""
    return np.dtype([("proposal_row", np.int64), ("proposal_chunk", np.float32, (horizon, action_dim))])


class ProposalRing:
    """The newest `capacity` proposals, each with the row of the replay at which it was made.

    Rows are numbered in the order in which they were written, from the start of the run, so that numbers always
    increase. Memory is committed as it is written.

    Args:
        capacity: The largest number of proposals.
        horizon: The number H of actions in a chunk.
        action_dim: The size A of an action.
        folder: If given, the proposals are kept in files in this folder and not in memory.

    Attributes:
        columns: The columns of `proposal_dtype`, each (capacity, ...).

    Raises:
        UserError: There is no room for `capacity` proposals, or the files do not belong to such a ring.
    """

    def __init__(self, capacity: int, horizon: int, action_dim: int, folder: Path | None = None) -> None:
        self.capacity, self.horizon = capacity, horizon
        dtype, is_new = proposal_dtype(horizon, action_dim), folder is not None and not folder.exists()
        self._files = None if folder is None else ReplayFiles(folder, capacity, dtype)
        if self._files is None:
            self.columns = {name: np.zeros(capacity, dtype[name]) for name in dtype.names or ()}
        else:
            self.columns = self._files.rows
            if is_new:
                self._files.mark(0)  # a run may be resumed from a checkpoint that was saved before there were files
        self._written = 0  # proposals written in total, overwritten ones included
        self._number = 0
        self._switches: list[int] = []
        """Rows from which on episodes have proposals, have none, have some again, and so on."""

    def __len__(self) -> int:
        """The number of proposals that can be drawn."""
        return self._number

    @property
    def nbytes(self) -> int:
        """The size in bytes of all proposals, whether in use or not."""
        return sum(column.nbytes for column in self.columns.values())

    def add(self, rows: np.ndarray, proposals: Proposals | None, imitable: np.ndarray) -> None:
        """Store the proposals of an episode that were executed as proposed at steps worth imitating.

        Args:
            rows: The numbers of the episode's rows, (T + 1,).
            proposals: Its proposals, if it has any.
            imitable: Whether each row is worth imitating, (T + 1,).
        """
        if (proposals is not None) != len(self._switches) % 2:
            self._switches.append(int(rows[0]))
        if proposals is None:
            return
        chosen = np.flatnonzero(proposals.own & imitable[proposals.step])
        slots = (self._written + np.arange(len(chosen))) % self.capacity
        if self._files is not None:
            self._files.protect(slots[slots < self._filled])
        self.columns["proposal_row"][slots] = rows[proposals.step[chosen]]
        self.columns["proposal_chunk"][slots] = proposals.chunk[chosen]
        self._written += len(chosen)
        self._number = min(self._number + len(chosen), self.capacity)

    def forget_before(self, row: int) -> None:
        """Forget what belongs to rows before `row`."""
        rows = self.columns["proposal_row"]
        while self._number and rows[self._slot(0)] < row:
            self._number -= 1
        while len(self._switches) > 1 and self._switches[1] <= row:
            del self._switches[:2]

    def covers(self, rows: np.ndarray) -> np.ndarray:
        """Return whether the episodes of `rows` have proposals."""
        return np.searchsorted(self._switches, rows, side="right") % 2 == 1

    def take(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows (B,) and chunks (B, H, A) of proposals by their age; index 0 is the oldest."""
        slots = self._slot(index)
        return self.columns["proposal_row"][slots], self.columns["proposal_chunk"][slots]

    def state(self) -> dict[str, np.ndarray]:
        """Return the arrays of a checkpoint, which are not copied. Files stay where they are and are marked."""
        scalars = np.array(self._written), np.array(self._switches, np.int64)
        state = dict(zip(PROPOSALS_STATE, scalars, strict=True))
        if self._files is not None:
            self._files.mark(self._written)
            return state
        return state | {name: column[: self._filled] for name, column in self.columns.items()}

    def load(self, path: Path, state: Mapping[str, np.ndarray]) -> None:
        """Restore what `state` returned. Checkpoints of earlier versions have no proposals.

        Args:
            path: The archive with the arrays of `state()`.
            state: Those of `PROPOSALS_STATE` that it contains.

        Raises:
            ValueError: The arrays do not fit this ring.
            UserError: The files cannot be restored to this checkpoint.
        """
        written, switches = (state.get(name, np.empty(0, np.int64)) for name in PROPOSALS_STATE)
        self._written, self._switches = int(written) if written.size else 0, switches.tolist()
        if self._written < 0 or (np.diff(switches, prepend=-1) <= 0).any():
            raise ValueError(f"{' and '.join(PROPOSALS_STATE)} must be at least 0, and the latter must increase")
        if self._files is not None:
            self._files.restore(self._written)
        elif written.size:
            read_into(path, {name: column[: self._filled] for name, column in self.columns.items()})
        self._number = self._filled

    def check(self, imitable: np.ndarray, written: int) -> None:
        """Check all proposals that can be drawn against the rows of a replay.

        Args:
            imitable: Whether each row of the replay is worth imitating, (rows,).
            written: The number of rows written in total.

        Raises:
            ValueError: A chunk is not finite, or was not proposed at a step worth imitating.
        """
        last = -1
        for first in range(0, self._number, BLOCK):
            at, chunk = self.take(np.arange(first, min(first + BLOCK, self._number)))
            in_order = (np.diff(at, prepend=last) > 0) & (at < written) & self.covers(at)
            last = int(at[-1])
            known = in_order & imitable[at % len(imitable)]
            for good, problem in ((known, "belongs to no step worth imitating"), (_finite(chunk), "is not finite")):
                if not good.all():
                    raise ValueError(f"proposal {first + good.argmin()} {problem}")

    @property
    def _filled(self) -> int:
        return min(self._written, self.capacity)

    def _slot(self, index: np.ndarray | int) -> np.ndarray | int:
        return (self._written - self._number + index) % self.capacity


def _finite(chunk: np.ndarray) -> np.ndarray:
    return np.isfinite(chunk).all((1, 2))
