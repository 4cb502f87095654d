"""How far a replay parts from its recording, in units of the scale of each part of the observation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from softflow.task import TaskSpec

Rows = NDArray[Any]
Numbers = NDArray[np.float64]

BLOCK = 2**20
"""Size of the columns that are converted to float64 at a time. Images of whole recordings would take much memory."""
MOST_ORDERED_PARTS = 12
"""Number of parts up to which all orders are compared. The work doubles with each part."""


class Motion(NamedTuple):
    """How well a replay predicts the changes of the recorded observations, for each measured number (M,).

    The measured numbers are all numbers of an observation, and one for each image.
    """

    missed: Numbers
    """The sum over steps of the differences between recorded and replayed changes, in units of each part's scale."""
    recorded: Numbers
    """The sum over steps of the recorded changes."""


class ObservationScale:
    """Compares observations in units of the scale of each part: its standard deviation in the recordings.

    A part that is constant in the recordings is compared in its own unit.

    Args:
        task: The task whose rows are compared.
        recordings: The rows (T + 1, O) of recorded episodes.

    Attributes:
        names: The names of the parts.
        measured: The names of the numbers that `motion` measures, (M,).
        plain: Which of them are numbers of an observation, and no images, (N,).
    """

    def __init__(self, task: TaskSpec, recordings: Sequence[Rows]) -> None:
        self.names = [part.name for part in task.observation]
        self.measured: list[str] = []
        self._images = {part.name for part in task.observation if part.is_image}
        self._columns, self._layout = task.columns, task.layout
        self._scale: dict[str, float] = {}
        self._sizes: dict[str, int] = {}
        for name in self.names:
            size = self._sizes[name] = 1 if name in self._images else self._part(name, recordings[0][:1]).shape[1]
            self.measured += [name] if size == 1 else [f"{name}[{index}]" for index in range(size)]
            self._scale[name] = self._deviation(name, recordings)
        self.plain = [index for index, name in enumerate(self.measured) if name not in self._images]

    def distances(self, rows: Rows, others: Rows) -> Numbers:
        """Return how far rows (T, O) are from others (T, O), as the root mean square of each part: (T, parts)."""
        distances = np.empty((len(rows), len(self.names)))
        for part, name in enumerate(self.names):
            for block in self._blocks(name, 0, len(rows)):
                apart = self._part(name, rows[block]) - self._part(name, others[block])
                distances[block, part] = np.sqrt(np.square(apart).mean(1)) / self._scale[name]
        return distances

    def numbers(self, rows: Rows) -> Numbers:
        """Return the `plain` numbers of rows (T, O): (T, N)."""
        parts = [self._part(name, rows) for name in self.names if name not in self._images]
        return np.concatenate([np.empty((len(rows), 0)), *parts], 1)

    def spreads(self, rows: Rows) -> Numbers:
        """Return how far the farthest of rows (n, O) is from their mean, as the root mean square of each part."""
        spreads = np.empty(len(self.names))
        for part, name in enumerate(self.names):
            mean = self._mean(name, [rows])
            squares = [np.square(block - mean).mean(1) for block in self._parts(name, [rows])]
            spreads[part] = np.sqrt(np.concatenate(squares).max()) / self._scale[name]
        return spreads

    def motion(self, recorded: Rows, replayed: Rows, steps: slice) -> Motion:
        """Compare the changes of a recording, (T + 1, O), with those of its replay.

        Args:
            recorded: The rows of the recording.
            replayed: The rows of the replay, (t + 1, O). If t < T, it is taken not to move any more.
            steps: The steps of the recording that count.
        """
        reached = np.minimum(np.arange(len(recorded)), len(replayed) - 1)
        start, stop, _ = steps.indices(len(recorded) - 1)
        sums: list[Numbers] = []
        for name in self.names:
            missed_and_moved = np.zeros((2, self._sizes[name]))
            for block in self._blocks(name, start, stop):
                both = slice(block.start, block.stop + 1)
                ours, theirs = (
                    np.diff(self._part(name, rows), axis=0) for rows in (recorded[both], replayed[reached[both]])
                )
                for row, changes in enumerate((ours - theirs, ours)):
                    sizes = (
                        np.sqrt(np.square(changes).mean(1, keepdims=True)) if name in self._images else np.abs(changes)
                    )
                    missed_and_moved[row] += sizes.sum(0)
            sums.append(missed_and_moved / self._scale[name])
        return Motion(*np.concatenate(sums, 1))

    def _deviation(self, name: str, recordings: Sequence[Rows]) -> float:
        """Return the standard deviation of a part over all rows, as the root mean square over its numbers, or 1."""
        count, mean = sum(map(len, recordings)), self._mean(name, recordings)
        variance = sum(np.square(part - mean).mean(1).sum() for part in self._parts(name, recordings)) / count
        deviation = float(np.sqrt(variance))
        return deviation if deviation > 1e-6 * max(1.0, float(np.abs(mean).max())) else 1.0

    def _mean(self, name: str, recordings: Sequence[Rows]) -> Numbers:
        return np.sum([part.sum(0) for part in self._parts(name, recordings)], 0) / sum(map(len, recordings))

    def _parts(self, name: str, recordings: Sequence[Rows]) -> Iterator[Numbers]:
        """Yield a part of all rows in blocks."""
        for rows in recordings:
            for block in self._blocks(name, 0, len(rows)):
                yield self._part(name, rows[block])

    def _blocks(self, name: str, start: int, stop: int) -> Iterator[slice]:
        size = max(1, BLOCK // len(self._columns[name]))
        return (slice(first, min(first + size, stop)) for first in range(start, stop, size))

    def _part(self, name: str, rows: Rows) -> Numbers:
        columns = rows[:, self._columns[name]]
        if self._layout is not None:
            columns = np.ascontiguousarray(columns).view(np.uint8 if name in self._images else np.float32)
        return columns.astype(np.float64)


def first_beyond(distances: Numbers, tolerances: Sequence[float]) -> int | None:
    """Return the first row of distances (T, parts) with one above its tolerance. None if there is none."""
    beyond = (distances > np.asarray(tolerances)).any(1)
    return int(beyond.argmax()) if beyond.any() else None


def disagreement(rows: Rows, others: Rows, sizes: Sequence[int]) -> Numbers:
    """Return how much each part of `others` disagrees with `rows` if it stands at each column of `rows`.

    Each number is compared in units of its standard deviation in both.

    Args:
        rows: Observations (n, O), whose parts may stand in another order.
        others: The observations (n, O) that they are compared with, one by one.
        sizes: How many numbers each part of `others` has.

    Returns:
        (parts, O). It is infinite where a part would reach beyond the row.
    """
    costs = np.full((len(sizes), sum(sizes)), np.inf)
    for part, end in enumerate(accumulate(sizes)):
        theirs = others[:, end - sizes[part] : end].astype(np.float64)
        for place in range(sum(sizes) - sizes[part] + 1):
            ours = rows[:, place : place + sizes[part]].astype(np.float64)
            deviation = np.concatenate([ours, theirs]).std(0)
            costs[part, place] = (np.abs(ours - theirs).mean(0) / np.where(deviation > 1e-6, deviation, 1.0)).sum()
    return costs


def offsets(sizes: Sequence[int], order: Sequence[int]) -> list[int]:
    """Return the first column of each part, in this order of the parts."""
    return list(accumulate((sizes[part] for part in order[:-1]), initial=0)) if order else []


def total(costs: Numbers, sizes: Sequence[int], order: Sequence[int]) -> float:
    """Return the sum of the costs (parts, O) of parts that stand in a row in this order."""
    return sum(float(costs[part, place]) for part, place in zip(order, offsets(sizes, order), strict=True))


def best_order(costs: Numbers, sizes: Sequence[int]) -> list[int]:
    """Return the order of the parts with the lowest total cost, the given one if no other is better.

    The best order of each set of parts is extended by one part at a time. Beyond `MOST_ORDERED_PARTS` parts there are
    too many sets, and the given order is returned.
    """
    given = list(range(len(sizes)))
    if len(sizes) > MOST_ORDERED_PARTS:
        return given
    best: dict[frozenset[int], list[int]] = {frozenset(): []}
    for _ in given:
        longer: dict[frozenset[int], list[int]] = {}
        for placed, order in best.items():
            for part in sorted(set(given) - placed):
                candidate, key = [*order, part], placed | {part}
                if key not in longer or total(costs, sizes, candidate) < total(costs, sizes, longer[key]):
                    longer[key] = candidate
        best = longer
    [found] = best.values()
    return found if total(costs, sizes, found) < total(costs, sizes, given) else given
