"""Whole chunks: which are left out, by hand."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from softflow.data import Episode, ImitationRule, whole_chunks
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


def test_the_rule_of_the_imitation_decides() -> None:
    """With a reward of -1 per step, no step of a success has reward after it."""
    success, failure = episode(0, [-1, -1, 0]), dataclasses.replace(episode(10, [-1, -1, -1]), is_success=False)
    observation, _ = whole_chunks([success, failure], 2, imitate=ImitationRule("success"))
    assert observation[:, 0].tolist() == [0, 1]
    with pytest.raises(UserError, match="no step has reward after it"):
        whole_chunks([success, failure], 2)


def test_nothing_left_is_refused() -> None:
    with pytest.raises(
        UserError, match="no episode has 3 steps, of which the first is worth imitating: give longer ones"
    ):
        whole_chunks([episode(0, [0, 0, 0, 0]), episode(0, [1, 1])], 3)
