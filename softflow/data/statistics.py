"""Statistics of observations; the policy keeps them as buffers and normalises with them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from softflow.data.episodes import Episode

STD_FLOOR = 1e-4


def observation_statistics(episodes: Sequence[Episode]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation (O,) of each observation dimension, in float64; of packed ones (K,), of the numbers.

    They are taken over the observations that were acted on; the final observation of an episode was not.
    A dimension whose standard deviation is below `STD_FLOOR` is constant as far as the data tell: it gets 1, so that
    it is centred but a later change of it is not blown up by the division.

    Raises:
        ValueError: no episodes, or episodes with different observation sizes or layouts.
    """
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
    std = np.sqrt(variance)
    return mean, np.where(std < STD_FLOOR, 1.0, std)


def _numbers(episode: Episode) -> np.ndarray:
    """Of the observations that were acted on, (T, O) or (T, K)."""
    acted_on = episode.observation[:-1]
    return acted_on if episode.layout is None else episode.layout.numbers(acted_on)
