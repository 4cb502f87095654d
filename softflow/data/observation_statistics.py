"""Statistics of observations; the policy keeps them as buffers and normalises with them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from softflow.data.episodes import Episode

RELATIVE_FLOOR = 1e-6
"""Standard deviations below this share of a dimension's largest magnitude are rounding: float32 has seven digits."""
ABSOLUTE_FLOOR = 1e-12
"""Standard deviations below this are what simulators leave of zero, in any unit that a robot is measured in."""


def observation_statistics(episodes: Sequence[Episode]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation (O,) of each observation dimension, in float64; of packed ones (K,), of the numbers.

    They are taken over the observations that were acted on; the final observation of an episode was not.
    The unit of a dimension does not matter: what counts as constant (`constant_dimensions`) is relative to its
    magnitude. A constant dimension gets its largest magnitude, at least 1, in place of its standard deviation: it is
    centred, but neither its rounding errors nor a later change of it are blown up by the division.

    Raises:
        ValueError: no episodes, or episodes with different observation sizes or layouts.
    """
    mean, std, largest = _moments(episodes)
    return mean, np.where(_is_constant(std, largest), np.maximum(largest, 1.0), std)


def constant_dimensions(episodes: Sequence[Episode]) -> np.ndarray:
    """Which dimensions never change, apart from rounding: bool (O,), of packed observations (K,).

    Raises:
        ValueError: as `observation_statistics`.
    """
    _, std, largest = _moments(episodes)
    return _is_constant(std, largest)


def _is_constant(std: np.ndarray, largest: np.ndarray) -> np.ndarray:
    return std <= np.maximum(RELATIVE_FLOOR * largest, ABSOLUTE_FLOOR)


def _moments(episodes: Sequence[Episode]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, standard deviation and largest magnitude of each dimension."""
    if not episodes:
        raise ValueError("no episodes to take observation statistics from: give at least one")
    sizes = sorted({episode.observation_dim for episode in episodes})
    if len(sizes) > 1:
        raise ValueError(f"episodes have different observation sizes {sizes}: give episodes of one environment")
    if len({episode.layout for episode in episodes}) > 1:
        raise ValueError("episodes have different observation layouts: give episodes of one environment")
    count = sum(len(episode) for episode in episodes)
    observations = [_numbers(episode) for episode in episodes]
    mean = sum(numbers.sum(0, dtype=np.float64) for numbers in observations) / count
    # A second pass: E[x^2] - E[x]^2 cancels where the mean is large.
    variance = sum(np.square(numbers - mean).sum(0) for numbers in observations) / count
    largest = np.max([np.abs(numbers).max(0) for numbers in observations], axis=0).astype(np.float64)
    return mean, np.sqrt(variance), largest


def _numbers(episode: Episode) -> np.ndarray:
    """The numbers of the observations that were acted on, (T, O) or (T, K)."""
    acted_on = episode.observation[:-1]
    return acted_on if episode.layout is None else episode.layout.numbers(acted_on)
