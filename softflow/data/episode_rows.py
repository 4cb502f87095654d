"""A column of a replay whose observations stay where the episodes have them."""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from softflow.data.row_file import RowFile, place_of


class EpisodeRows:
    """A column (capacity, O) of packed observations, which refers to those of episodes in place of a copy.

    Observations that lie in memory are written to a file of its own. Rows are never overwritten.

    Args:
        capacity: The number of rows.
        size: The number O of bytes of an observation.
    """

    def __init__(self, capacity: int, size: int) -> None:
        self.shape, self.dtype = (capacity, size), np.dtype(np.uint8)
        self._own = RowFile()
        self._files: list[RowFile] = []
        self._file, self._begin = np.zeros(capacity, np.uint16), np.zeros(capacity, np.int64)
        self._windows: list[np.ndarray] = []  # of each file, the O bytes from any byte on

    @property
    def nbytes(self) -> int:
        """The size in bytes of what is kept in memory."""
        return self._file.nbytes + self._begin.nbytes

    def __setitem__(self, rows: np.ndarray, observation: np.ndarray) -> None:
        """Let `rows` (T,) be the observations (T, O) of an episode."""
        place = place_of(observation) or place_of(self._own.append(observation))
        assert place is not None
        file, begin = place
        if file not in self._files:
            self._files.append(file)
        self._file[rows] = self._files.index(file)
        self._begin[rows] = begin + np.arange(len(rows)) * self.shape[1]
        self._windows.clear()  # the file may have grown

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        """Return a copy of the observations at `rows`, (B,) -> (B, O)."""
        if not self._windows:
            self._windows += [sliding_window_view(file.content(), self.shape[1]) for file in self._files]
        file, begin = self._file[rows], self._begin[rows]
        if len(self._windows) == 1:
            return np.asarray(self._windows[0][begin])
        taken = np.empty((len(rows), self.shape[1]), np.uint8)
        for number, windows in enumerate(self._windows):
            here = file == number
            taken[here] = windows[begin[here]]
        return taken
