"""The rows of a replay in files, which can be restored to their state at a checkpoint.

<column>.npy         all rows of one column, mapped into memory
before.<written>     the previous content of rows that were overwritten after `written` rows had been written
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

import numpy as np

from softflow.errors import UserError, one_line

KEPT_MARKS = 3
"""Marks to keep: for the checkpoint being written, the last one, and the one before, which is deleted afterwards."""
SAVED_AHEAD = 2**22
"""Bytes of rows that are copied and flushed to the disk at once, before they are overwritten."""


class ReplayFiles:
    """The columns of a ring buffer in the files of a folder, which are opened if they exist and created otherwise.

    A ring overwrites its oldest rows, although the last checkpoint still needs them. They are copied to a file first,
    from which `restore` reads back all rows that were overwritten since a `mark`. Every row is either in its column or
    in that file, even if the process is killed.

    Args:
        folder: The folder of the files.
        capacity: The number of rows of the ring.
        columns: The structured dtype of a row.

    Attributes:
        rows: The columns by name, each (capacity, ...). Rows may be written after `protect`.

    Raises:
        UserError: Existing files do not belong to such a ring, or there is no room for new files.
    """

    def __init__(self, folder: Path, capacity: int, columns: np.dtype) -> None:
        self._folder, self._capacity, self._columns = folder, capacity, columns
        open_or_make = self._open if folder.exists() else self._make
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._maps = {
                name: open_or_make(folder / f"{name}.npy", columns[name], (capacity, *columns[name].shape))
                for name in columns.names or ()
            }
        except OSError as error:
            reason = error.strerror or error
            raise UserError(f"{folder}: a replay of {capacity:,} steps: {reason}; set replay_capacity lower") from error
        self.rows: dict[str, np.ndarray] = {name: np.asarray(column) for name, column in self._maps.items()}
        self._marked = 0
        self._saved = 0  # number of rows in the file of the mark, in the order in which they were written
        self._file: BinaryIO | None = None

    def protect(self, rows: np.ndarray) -> None:
        """Save the next `rows` of the ring as far as a mark needs them. Call this before they are overwritten."""
        oldest, filled = self._ring(self._marked)
        order = (rows - oldest) % self._capacity
        needed = int(order.max(where=order < filled, initial=-1)) + 1
        if needed <= self._saved or self._file is None:
            return
        end = min(max(needed, self._saved + SAVED_AHEAD // self._columns.itemsize), filled)
        before = (oldest + np.arange(self._saved, end)) % self._capacity
        records = np.empty(len(before), self._columns)
        for name, column in self.rows.items():
            records[name] = column[before]
        self._file.write(records.tobytes())
        _force_to_disk(self._file)
        self._saved = end

    def mark(self, written: int) -> None:
        """Make the current state of all rows, after `written` rows were written, available to `restore`."""
        for column in self._maps.values():
            column.flush()
        if written != self._marked or self._file is None:
            self._begin(written)
        for number in self._marks()[:-KEPT_MARKS]:
            self._before(number).unlink()

    def restore(self, written: int) -> None:
        """Restore the rows to their state at a mark, and delete later marks. A killed call can safely be repeated.

        Raises:
            UserError: The mark is too old or belongs to another ring.
        """
        marks = [number for number in self._marks() if number >= written]
        if written not in marks:
            raise UserError(f"{self._folder}: rows of this checkpoint are missing or overwritten: start anew")
        for number in reversed(marks):
            self._bring_back(number)
        for column in self._maps.values():
            column.flush()
        for number in reversed(marks[1:]):  # the newest first, so that the marks left can always be restored
            self._before(number).unlink()
        self._continue(written)

    def _bring_back(self, mark: int) -> None:
        """Copy the rows that were overwritten since `mark` back to the columns."""
        file = self._before(mark)
        if count := self._whole_records(file):  # the row of an incomplete record was not overwritten yet
            records = np.memmap(file, self._columns, "r", shape=(count,))
            rows = (self._ring(mark)[0] + np.arange(count)) % self._capacity
            for name, column in self.rows.items():
                column[rows] = records[name]

    def _begin(self, mark: int) -> None:
        self._before(mark).write_bytes(b"")
        self._continue(mark)

    def _continue(self, mark: int) -> None:
        """Append rows that are overwritten from now on to the file of `mark`."""
        if self._file is not None:
            self._file.close()
        file = self._before(mark)
        self._marked, self._saved = mark, self._whole_records(file)
        os.truncate(file, self._saved * self._columns.itemsize)
        self._file = file.open("ab")
        _force_to_disk(self._file)

    def _ring(self, written: int) -> tuple[int, int]:
        """Return the index of the oldest row and the number of rows in use."""
        return max(written - self._capacity, 0) % self._capacity, min(written, self._capacity)

    def _before(self, mark: int) -> Path:
        return self._folder / f"before.{mark}"

    def _marks(self) -> list[int]:
        numbers = (file.suffix.removeprefix(".") for file in self._folder.glob("before.*"))
        return sorted(int(number) for number in numbers if number.isdecimal())

    def _whole_records(self, file: Path) -> int:
        return file.stat().st_size // self._columns.itemsize

    @staticmethod
    def _make(file: Path, column: np.dtype, shape: tuple[int, ...]) -> np.memmap:
        mapped = np.lib.format.open_memmap(file, "w+", column.base, shape)
        if hasattr(os, "posix_fallocate"):  # otherwise a disk that fills up later would kill the process
            with file.open("r+b") as opened:
                os.posix_fallocate(opened.fileno(), 0, file.stat().st_size)
        return mapped

    @staticmethod
    def _open(file: Path, column: np.dtype, shape: tuple[int, ...]) -> np.memmap:
        try:
            np.lib.format.open_memmap(file, "r")  # fails for a truncated file, which "r+" would extend
            mapped = np.lib.format.open_memmap(file, "r+")
        except Exception as error:  # numpy raises errors of many types for damaged files
            raise UserError(f"{file}: not a column of a replay ({one_line(error)}): start anew") from error
        if mapped.shape != shape or mapped.dtype != column.base or np.isfortran(mapped):
            raise UserError(f"{file}: {mapped.dtype} of shape {mapped.shape}, expected {column.base} of shape {shape}")
        return mapped


def _force_to_disk(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
