"""Confidence intervals of success rates, over the episodes of one run and over runs and tasks."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray


def wilson_interval(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the Wilson score interval of a success rate (Wilson 1927, doi:10.1080/01621459.1927.10502953).

    Unlike the normal approximation, it stays in [0, 1] and does not collapse at rates of 0 and 1.

    Raises:
        ValueError: There are no trials, `successes` is outside [0, trials], or `confidence` is outside (0, 1).
    """
    if not (trials > 0 and 0 <= successes <= trials):
        raise ValueError(f"need 0 <= successes <= trials and trials > 0, got {successes} of {trials}")
    z = NormalDist().inv_cdf(0.5 + _checked(confidence) / 2)
    rate = successes / trials
    centre = rate + z**2 / (2 * trials)
    spread = z * math.sqrt(rate * (1 - rate) / trials + z**2 / (4 * trials**2))
    scale = 1 + z**2 / trials
    low = 0.0 if successes == 0 else (centre - spread) / scale  # exact, without rounding errors
    high = 1.0 if successes == trials else (centre + spread) / scale
    return low, high


def difference_interval(
    first: tuple[int, int], second: tuple[int, int], confidence: float = 0.95
) -> tuple[float, float]:
    """Return an interval of the difference of two success rates, the first minus the second.

    This is Newcombe's hybrid score interval, which combines the Wilson intervals of both rates (Statistics in Medicine
    17, 873-890, 1998, method 10). It assumes independent episodes. For rates of the same seeds, which tend to be hard
    or easy for both, it is too wide rather than too narrow.

    Args:
        first: Successes and trials of the first rate.
        second: Successes and trials of the second rate.
        confidence: The fraction of such intervals that contain the true difference.

    Raises:
        ValueError: As in `wilson_interval`.
    """
    (one, two), ((low, high), (other_low, other_high)) = (
        [successes / trials for successes, trials in (first, second)],
        [wilson_interval(*counts, confidence) for counts in (first, second)],
    )
    below, above = math.hypot(one - low, other_high - two), math.hypot(high - one, two - other_low)
    return one - two - below, one - two + above


def interquartile_mean(scores: ArrayLike) -> float:
    """Return the mean of the middle half of all scores, of any shape (Agarwal et al. 2021, arXiv:2108.13264).

    As in the authors' code, a quarter of the scores, rounded down, is dropped at each end.

    Raises:
        ValueError: There are no scores, or one is not finite.
    """
    ordered = np.sort(_finite(scores), axis=None)
    cut = ordered.size // 4
    return float(ordered[cut : ordered.size - cut].mean())


def stratified_bootstrap_interval(
    scores: ArrayLike,
    rng: np.random.Generator,
    statistic: Callable[[NDArray[np.float64]], float] = interquartile_mean,
    confidence: float = 0.95,
    resamples: int = 2000,
) -> tuple[float, float]:
    """Return a percentile bootstrap interval of a statistic (Agarwal et al. 2021, arXiv:2108.13264).

    Runs are drawn with replacement within each task, so that every resample contains all tasks.

    Args:
        scores: The scores, (runs, tasks).
        rng: The generator that draws the resamples.
        statistic: A function from scores (runs, tasks) to a number.
        confidence: The fraction of the resamples' statistics inside the interval.
        resamples: The number of resamples.

    Raises:
        ValueError: `scores` has another shape, is empty or not finite, `confidence` is outside (0, 1), or `resamples`
            is below 1.
    """
    scores = _finite(scores)
    if scores.ndim != 2:
        raise ValueError(f"scores must be of shape (runs, tasks), got {scores.shape}")
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, got {resamples}")
    runs, tasks = scores.shape
    tail = (1 - _checked(confidence)) / 2
    draws = rng.integers(runs, size=(resamples, runs, tasks))
    statistics = [statistic(np.take_along_axis(scores, draw, axis=0)) for draw in draws]
    low, high = np.quantile(statistics, [tail, 1 - tail])
    return float(low), float(high)


def _finite(scores: ArrayLike) -> NDArray[np.float64]:
    array = np.asarray(scores, dtype=np.float64)
    if array.size == 0 or not np.isfinite(array).all():
        raise ValueError("scores must be finite numbers, at least one")
    return array


def _checked(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, got {confidence}")
    return confidence
