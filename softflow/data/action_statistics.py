"""Statistics of demonstrated actions, which a policy stores as buffers and uses to normalise actions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from softflow.data.episodes import Episode

CONTINUOUS_NOISE = 0.05
"""Default noise of a continuous dimension, as a fraction of its scale. Higher values smooth the density more."""
FEW_VALUED_NOISE = 0.1
"""Default noise of a dimension of few values, as a fraction of its scale."""
CONSTANT_SCALE = 0.01
"""Scale of a constant dimension. Actions lie in [-1, 1], so samples hardly leave the constant."""
TAIL = 0.01
"""Fraction of the data at either end that is winsorised: replaced by the quantile there."""
FARTHEST = 50.0
"""Every demonstrated action lies within this many scales of the centre. Rare actions farther out raise the scale."""
FEW_VALUES = 8
"""Largest number of distinct values of a dimension of few values."""
SHARED_STEPS = 10
"""Number of steps that must share each value of a dimension of few values."""
REPETITION = 4
"""Number of steps per distinct value, on average, from which on the gaps between the values are their resolution and
not those of a small sample."""
ROUNDING = 1e-6
"""Actions in [-1, 1] that differ by less are equal up to rounding: float32 has seven digits."""

Transform = Callable[[NDArray[np.float64]], NDArray[np.float64]]


@dataclass(frozen=True)
class ActionStatistics:
    """Statistics of each action dimension, (A,) each.

    Attributes:
        center: The mean of the winsorised data.
        scale: The standard deviation of the winsorised data; see `action_statistics` for the exceptions.
        noise: The default standard deviation of the noise on the data in training.
        constant: Whether the dimension never changes, apart from rounding.
        few_valued: Whether the dimension takes few values, each of them often, like a gripper that is open or shut.
    """

    center: NDArray[np.float64]
    scale: NDArray[np.float64]
    noise: NDArray[np.float64]
    constant: NDArray[np.bool_]
    few_valued: NDArray[np.bool_]


def action_statistics(episodes: Sequence[Episode], transform: Transform | None = None) -> ActionStatistics:
    """Compute the statistics of the actions of all episodes.

    The scale of a dimension is the standard deviation of its data, winsorised at the quantiles `TAIL` and 1 - `TAIL`.
    If that is zero although the dimension changes, it is the standard deviation of all data. A constant dimension has
    the scale `CONSTANT_SCALE`. No scale is smaller than the largest distance from the centre over `FARTHEST`.

    The noise is `CONTINUOUS_NOISE` times the scale, or `FEW_VALUED_NOISE` times the scale in a dimension of few values.
    In a dimension with more values, it is at least half of the median gap between neighbouring values if the values
    recur (`REPETITION`), as in actions that are quantised to 21 levels.

    Args:
        episodes: The demonstrations, with actions in [-1, 1].
        transform: Maps each number of the actions before anything is computed, (N, A) -> (N, A), such as the atanh of
            a bounded flow. It must increase. None leaves the actions as they are.

    Raises:
        ValueError: There are no episodes, or their numbers of action dimensions differ.
    """
    if not episodes:
        raise ValueError("no episodes to take action statistics from: give at least one")
    sizes = sorted({episode.action_dim for episode in episodes})
    if len(sizes) > 1:
        raise ValueError(f"episodes have different action sizes {sizes}: give episodes of one environment")
    actions = np.concatenate([episode.action for episode in episodes]).astype(np.float64)
    if transform is not None:
        actions = transform(actions)
    columns = [_of_dimension(np.sort(column)) for column in actions.T]
    return ActionStatistics(*(np.array(values) for values in zip(*columns, strict=True)))


def _of_dimension(ordered: NDArray[np.float64]) -> tuple[float, float, float, bool, bool]:
    """Return the fields of `ActionStatistics` for the sorted data of one dimension, (N,)."""
    if ordered[-1] - ordered[0] <= ROUNDING:
        return float(np.median(ordered)), CONSTANT_SCALE, CONTINUOUS_NOISE * CONSTANT_SCALE, True, False
    winsorised = ordered.clip(*np.quantile(ordered, (TAIL, 1 - TAIL)))
    if winsorised[-1] - winsorised[0] <= ROUNDING:
        winsorised = ordered
    center = winsorised.mean()
    scale = max(winsorised.std(), max(ordered[-1] - center, center - ordered[0]) / FARTHEST)
    values, counts = _distinct(ordered)
    if len(values) <= FEW_VALUES and counts.min() >= SHARED_STEPS:
        return center, scale, FEW_VALUED_NOISE * scale, False, True
    noise = CONTINUOUS_NOISE * scale
    if len(values) > FEW_VALUES and len(ordered) >= REPETITION * len(values):
        noise = max(noise, np.median(np.diff(values)) / 2)
    return center, scale, noise, False, False


def _distinct(ordered: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the distinct values of sorted data and their counts. Values that differ by rounding alone are one value,
    unless they are so dense that the data are continuous at this scale."""
    values, counts = np.unique(ordered, return_counts=True)
    first = np.flatnonzero(np.diff(values, prepend=-np.inf) > ROUNDING)
    last = np.append(first[1:], len(values)) - 1
    if (values[last] - values[first]).max() > 2 * ROUNDING:
        return values, counts
    return values[first], np.add.reduceat(counts, first)
