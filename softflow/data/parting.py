"""How far a replay parts from its recording, in units of the scale of each part of the observation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softflow.task import TaskSpec

Rows = NDArray[Any]
Numbers = NDArray[np.float64]

MOST_ORDERED_PARTS = 12
"""Number of parts up to which all orders are compared. The work doubles with each part."""


class ObservationScale:
    """Compares observations in units of the scale of each part: its standard deviation in the recordings.

    A part that is constant in the recordings is compared in its own unit.

    Args:
        task: The task whose rows are compared.
        recordings: The rows (T + 1, O) of recorded episodes.
    """

    def __init__(self, task: TaskSpec, recordings: Sequence[Rows]) -> None:
        self.names = [part.name for part in task.observation]
        self._layout, self._columns = task.layout, task.columns
        self._scale = {name: _scale([self._part(name, rows) for rows in recordings]) for name in self.names}

    def distances(self, rows: Rows, others: Rows) -> Numbers:
        """Return how far rows (T, O) are from others (T, O), as the root mean square of each part: (T, parts)."""
        return self._measured(lambda name: self._part(name, rows) - self._part(name, others))

    def misfit(self, recorded: Rows, replayed: Rows, steps: slice) -> float:
        """Return how badly a replay predicts the changes of the recorded observations.

        0 is a replay that changes as the recording does, 1 is as bad as one that does not move.

        Args:
            recorded: The rows of the recording, (T + 1, O).
            replayed: The rows of the replay, (t + 1, O), where t <= T. It is taken not to move from then on.
            steps: The steps of the recording that count.
        """
        missing = len(recorded) - len(replayed)
        replayed = np.concatenate([replayed, np.repeat(replayed[-1:], missing, 0)])
        motion = self._measured(lambda name: np.diff(self._part(name, recorded), axis=0))[steps]
        error = self._measured(
            lambda name: np.diff(self._part(name, recorded), axis=0) - np.diff(self._part(name, replayed), axis=0)
        )[steps]
        return float(error.sum() / max(motion.sum(), np.finfo(np.float64).tiny)) if error.any() else 0.0

    def _measured(self, differences: Any) -> Numbers:
        columns = [np.sqrt(np.square(differences(name)).mean(1)) / self._scale[name] for name in self.names]
        return np.stack(columns, 1)

    def _part(self, name: str, rows: Rows) -> Numbers:
        columns = rows[:, self._columns[name]]
        if self._layout is not None:
            columns = np.ascontiguousarray(columns).view(next(p.dtype for p in self._layout.parts if p.name == name))
        return columns.astype(np.float64)


def _scale(parts: Sequence[Numbers]) -> float:
    """Return the standard deviation of a part over all rows, as the root mean square over its numbers, or 1."""
    count = sum(map(len, parts))
    mean = sum(part.sum(0) for part in parts) / count
    scale = float(np.sqrt(sum(np.square(part - mean).mean(1).sum() for part in parts) / count))
    return scale if scale > 1e-6 * max(1.0, float(np.abs(mean).max())) else 1.0


def first_beyond(distances: Numbers, tolerances: Sequence[float]) -> int | None:
    """Return the first row of distances (T, parts) with one above its tolerance. None if there is none."""
    beyond = (distances > np.asarray(tolerances)).any(1)
    return int(beyond.argmax()) if beyond.any() else None


def disagreement(recorded: Sequence[Rows], replayed: Sequence[Rows], sizes: Sequence[int]) -> NDArray[np.float64]:
    """Return how much each part disagrees if it stands at each column of the recorded rows.

    Rows and their changes are compared, each number in units of its standard deviation in the recordings.

    Args:
        recorded: The rows (T, O) of recordings.
        replayed: The rows (t, O) of their replays.
        sizes: How many numbers each part of the replayed rows has.

    Returns:
        (parts, O). It is infinite where a part would not fit into the row.
    """
    pairs = [(some[: len(others)], others[: len(some)]) for some, others in zip(recorded, replayed, strict=True)]
    ours, theirs = (np.concatenate(rows).astype(np.float64) for rows in zip(*pairs, strict=True))
    our_changes, their_changes = (
        np.concatenate([np.diff(rows, axis=0) for rows in both]).astype(np.float64) for both in zip(*pairs, strict=True)
    )
    costs = np.full((len(sizes), sum(sizes)), np.inf)
    for part, end in enumerate(accumulate(sizes)):
        columns = slice(end - sizes[part], end)
        for place in range(sum(sizes) - sizes[part] + 1):
            at = slice(place, place + sizes[part])
            costs[part, place] = sum(
                float((np.abs(some[:, at] - others[:, columns]).mean(0) / _deviation(some[:, at])).sum())
                for some, others in ((ours, theirs), (our_changes, their_changes))
            )
    return costs


def _deviation(rows: Numbers) -> Numbers:
    deviation = rows.std(0)
    return np.where(deviation > 1e-6, deviation, 1.0)


def total(costs: NDArray[np.float64], sizes: Sequence[int], order: Sequence[int]) -> float:
    """Return the sum of the costs (parts, O) of parts that stand in a row in this order."""
    places = accumulate((sizes[part] for part in order), initial=0)
    return sum(float(costs[part, place]) for part, place in zip(order, places, strict=False))


def best_order(costs: NDArray[np.float64], sizes: Sequence[int]) -> list[int]:
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
