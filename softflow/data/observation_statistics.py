"""Statistics of observations, which the policy stores as buffers and uses to normalise observations."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from softflow.data.episodes import Episode

RELATIVE_FLOOR = 1e-6
"""A standard deviation below this fraction of a dimension's largest magnitude is rounding: float32 has seven digits."""
ABSOLUTE_FLOOR = 1e-12
"""A standard deviation below this is a simulator's rounding error around zero, in any unit used in robotics."""


def observation_statistics(episodes: Sequence[Episode]) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean and standard deviation (O,) of each observation dimension in float64.

    For packed observations they have shape (K,) and cover the numbers. They are computed over all observations except
    the final one of each episode, on which the policy never acts.

    The unit of a dimension does not matter, because `constant_dimensions` compares with its magnitude. A constant
    dimension gets its largest magnitude, at least 1, in place of its standard deviation. It is thus centred, but the
    division amplifies neither its rounding errors nor a later change of it.

    Raises:
        ValueError: There are no episodes, or their observation sizes or layouts differ.
    """
    mean, std, largest = _moments(episodes)
    return mean, np.where(_is_constant(std, largest), np.maximum(largest, 1.0), std)


def some_observations(episodes: Sequence[Episode], number: int = 1_000) -> np.ndarray:
    """Return about so many observations, (N, O), evenly spaced in the episodes. Each episode has at least one."""
    stride = max(sum(map(len, episodes)) // number, 1)
    return np.concatenate([episode.observation[: len(episode) : stride] for episode in episodes])


def constant_dimensions(episodes: Sequence[Episode]) -> np.ndarray:
    """Return which dimensions never change, apart from rounding: bool (O,), or (K,) for packed observations.

    Raises:
        ValueError: There are no episodes, or their observation sizes or layouts differ.
    """
    _, std, largest = _moments(episodes)
    return _is_constant(std, largest)


def _is_constant(std: np.ndarray, largest: np.ndarray) -> np.ndarray:
    return std <= np.maximum(RELATIVE_FLOOR * largest, ABSOLUTE_FLOOR)


def _moments(episodes: Sequence[Episode]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the mean, standard deviation and largest magnitude of each dimension."""
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
    """Return the numbers of all observations except the final one, (T, O) or (T, K)."""
    acted_on = episode.observation[:-1]
    return acted_on if episode.layout is None else episode.layout.numbers(acted_on)
