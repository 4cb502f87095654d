"""Whole chunks: which are left out, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from softflow.data import Episode, whole_chunks
from softflow.errors import UserError


def episode(start: int, rewards: list[float]) -> Episode:
    """Step t sees `start` + t and does a hundredth of it."""
    seen = start + np.arange(len(rewards) + 1)[:, None]
    return Episode(seen, seen[:-1] / 100, np.array(rewards), True, False, True)


def test_neither_held_ends_nor_what_earns_nothing() -> None:
    episodes = [
        episode(0, [0, 0, 1, 0, 0, 0]),  # reward comes after steps 0, 1 and 2
        episode(10, [0, 0, 0, 1]),  # steps 2 and 3 are too near the end
        episode(20, [0, 0, 0, 0]),  # a failure
        episode(30, [1, 1]),  # shorter than a chunk
    ]
    observation, chunk = whole_chunks(episodes, 3)
    assert observation[:, 0].tolist() == [0, 1, 2, 10, 11]
    np.testing.assert_allclose(chunk[:, :, 0] * 100, observation + np.arange(3), rtol=1e-6)
    assert chunk.shape == (5, 3, 1) and chunk.dtype == np.float32


def test_nothing_left_is_refused() -> None:
    with pytest.raises(UserError, match="no episode has 3 steps with reward after them"):
        whole_chunks([episode(0, [0, 0, 0, 0]), episode(0, [1, 1])], 3)
