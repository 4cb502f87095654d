"""The rows of a replay that are worth imitating."""

from __future__ import annotations

import numpy as np


class ImitableRows:
    """Flags of the rows worth imitating in a ring of `capacity` rows, and an index of those that windows start from.

    The flags say what the rule says of each step. Steps of episodes with proposals are not in the index, because their
    proposals are imitated instead.

    Attributes:
        worth: (capacity,) bool, whether each row is a step worth imitating.
    """

    def __init__(self, capacity: int) -> None:
        self.worth = np.zeros(capacity, np.bool_)
        self._index = np.empty(capacity, np.int64)  # a ring, oldest first
        self._start = self._number = 0

    def __len__(self) -> int:
        """The number of rows in the index."""
        return self._number

    @property
    def nbytes(self) -> int:
        """The size in bytes of flags and index."""
        return self.worth.nbytes + self._index.nbytes

    def add(self, rows: np.ndarray) -> None:
        """Add the newest `rows` to the index, except those that are not worth imitating."""
        rows = rows[self.worth[rows]]
        self._index[(self._start + self._number + np.arange(len(rows))) % len(self._index)] = rows
        self._number += len(rows)

    def forget(self, rows: np.ndarray) -> None:
        """Drop the oldest `rows`, all of which `add` was given, from the index. Call this before their flags change."""
        number = int(np.count_nonzero(self.worth[rows]))
        self._start = (self._start + number) % len(self._index)
        self._number -= number

    def take(self, numbers: np.ndarray) -> np.ndarray:
        """Return the rows with these numbers in the index, oldest first."""
        return self._index[(self._start + numbers) % len(self._index)]

    def restore(self, worth: np.ndarray, rows: np.ndarray) -> None:
        """Replace the flags of the first rows by `worth` and the index by those of `rows`, oldest first."""
        self.worth[:] = False
        self.worth[: len(worth)] = worth
        self._number = 0
        self.add(rows)
