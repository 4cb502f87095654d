"""Confidence intervals of success rates, over the episodes of one run and over runs and tasks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import NamedTuple

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


class Counts(NamedTuple):
    """Results of runs that differ only in their seed.

    Attributes:
        successes: The number of successes of each seed, (S,).
        episodes: The number of episodes of each seed, (S,).
    """

    successes: Sequence[int]
    episodes: Sequence[int]

    @property
    def rate(self) -> float:
        """The mean of the seeds' success rates."""
        return float(np.mean(np.divide(self.successes, self.episodes)))

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Return the interval of `rate` over seeds and episodes.

        This is a hierarchical bootstrap. It draws seeds with replacement, and the rate of each drawn seed from the
        Jeffreys posterior of its episodes. Unlike resampled episodes, the posterior also varies when all or none
        succeed. A single seed gives Wilson's interval, which knows nothing of the spread over seeds.

        In simulations with three seeds of 50 episodes around a mean of 0.6, a 95 % interval held this mean in 98 % of
        the cases if the seeds were equal, in 95 % if their standard deviation was 0.05, and in 89 % if it was 0.1. For
        Wilson's interval of all episodes together it was 96, 86 and 73 %.

        Raises:
            ValueError: The counts are not valid, or `confidence` is outside (0, 1).
        """
        _check_counts(self)
        if len(self.successes) == 1:
            return wilson_interval(self.successes[0], self.episodes[0], confidence)
        rng = np.random.default_rng(0)
        return _percentiles(_rates(self, _seeds(self, rng), rng), self.rate, confidence)

    def difference(self, reference: Counts, paired: bool = False, confidence: float = 0.95) -> tuple[float, float]:
        """Return the interval of ``self.rate - reference.rate``, by the same bootstrap as `interval`.

        If both have a single seed, it is that of `difference_interval`.

        Args:
            reference: The other results.
            paired: Whether both have the same seeds in the same order, as runs and their own imitation have. The seeds
                are then drawn together, and what they share cancels.
            confidence: The fraction of the resamples' differences inside the interval.

        Raises:
            ValueError: Counts are not valid, paired counts differ in number, or `confidence` is outside (0, 1).
        """
        _check_counts(self)
        _check_counts(reference)
        if paired and len(self.successes) != len(reference.successes):
            raise ValueError(f"paired counts need the same seeds: {len(self.successes)} and {len(reference.successes)}")
        if len(self.successes) == len(reference.successes) == 1:
            first, second = ((counts.successes[0], counts.episodes[0]) for counts in (self, reference))
            return difference_interval(first, second, confidence)
        rng = np.random.default_rng(0)
        seeds = _seeds(self, rng)
        rates = _rates(self, seeds, rng)
        reference_rates = _rates(reference, seeds if paired else _seeds(reference, rng), rng)
        return _percentiles(rates - reference_rates, self.rate - reference.rate, confidence)


def probability_of_improvement(scores: ArrayLike, reference: ArrayLike) -> float:
    """Return how probably a run scores higher than one of the reference on the same task (arXiv:2108.13264).

    Ties count half. The probabilities of all tasks are averaged.

    Args:
        scores: The scores of a method, (runs, tasks).
        reference: The scores of the other method, (its runs, tasks).

    Raises:
        ValueError: A shape is wrong, or a score is not finite.
    """
    ours, theirs = _finite(scores), _finite(reference)
    if ours.ndim != 2 or theirs.ndim != 2 or ours.shape[1] != theirs.shape[1]:
        raise ValueError(f"scores must be of shape (runs, tasks), got {ours.shape} and {theirs.shape}")
    difference = ours[:, None] - theirs[None]
    return float(np.mean((difference > 0) + 0.5 * (difference == 0)))


_RESAMPLES = 10_000


def _seeds(counts: Counts, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return indices (resamples, S) of seeds, drawn with replacement."""
    return rng.integers(len(counts.successes), size=(_RESAMPLES, len(counts.successes)))


def _rates(counts: Counts, seeds: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Return the mean success rates (resamples,) of the drawn seeds, each drawn from its posterior."""
    successes, episodes = np.asarray(counts.successes)[seeds], np.asarray(counts.episodes)[seeds]
    return rng.beta(successes + 0.5, episodes - successes + 0.5).mean(1)


def _percentiles(statistics: NDArray[np.float64], estimate: float, confidence: float) -> tuple[float, float]:
    """Return the interval, extended to the estimate, which can lie at the end of what is possible."""
    tail = (1 - _checked(confidence)) / 2
    low, high = np.quantile(statistics, [tail, 1 - tail])
    return min(float(low), estimate), max(float(high), estimate)


def _check_counts(counts: Counts) -> None:
    if not counts.successes or len(counts.successes) != len(counts.episodes):
        raise ValueError(f"need as many successes as numbers of episodes, at least one, got {counts}")
    for successes, episodes in zip(counts.successes, counts.episodes, strict=True):
        if not (episodes > 0 and 0 <= successes <= episodes):
            raise ValueError(f"need 0 <= successes <= episodes and episodes > 0, got {successes} of {episodes}")


def _finite(scores: ArrayLike) -> NDArray[np.float64]:
    array = np.asarray(scores, dtype=np.float64)
    if array.size == 0 or not np.isfinite(array).all():
        raise ValueError("scores must be finite numbers, at least one")
    return array


def _checked(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, got {confidence}")
    return confidence
