"""Numbers of an action in another order or of another sign are known by their effects."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from softflow.data.action_effects import Arrangement, Steps, arrangement

EFFECTS = np.array([[1.0, 0.0, 2.0, 0.0], [0.0, 3.0, 0.0, 0.0], [0.0, 0.0, -0.4, 1.0]])
"""What three numbers of an action add to the speed of four numbers of an observation."""
DRIVEN = [[0, 2], [1], [3]]
"""The numbers of the observation that each of them mainly changes, as a share of all their changes."""


def episodes(seed: int, order: list[int], signs: list[int], moved: float = 1.0) -> list[Steps]:
    """Random actions and the motion that they cause, with the actions stored in another order and with other signs."""
    rng, recorded = np.random.default_rng(seed), []
    for _ in range(4):
        actions = rng.uniform(-1, 1, (30, 3)) * [1, 1, moved]
        numbers = np.cumsum(np.concatenate([rng.normal(size=(1, 4)), actions @ EFFECTS]), 0)
        recorded.append(Steps(numbers, (actions * signs)[:, order].astype(np.float32)))
    return recorded


@given(st.permutations(range(3)), st.lists(st.sampled_from([-1, 1]), min_size=3, max_size=3), st.integers(0, 99))
def test_any_arrangement_is_found(order: list[int], signs: list[int], seed: int) -> None:
    found = arrangement(episodes(seed, order, signs), episodes(seed + 1, [0, 1, 2], [1, 1, 1]))
    assert found == Arrangement([order.index(number) for number in range(3)], signs, [True] * 3, DRIVEN)
    assert found.is_identity == (order == [0, 1, 2] and signs == [1, 1, 1])


def test_a_number_that_never_changes_keeps_its_place() -> None:
    found = arrangement(episodes(0, [1, 0, 2], [1, -1, 1], moved=0.0), episodes(1, [0, 1, 2], [1, 1, 1]))
    assert found == Arrangement([1, 0, 2], [1, -1, 1], [True, True, False], DRIVEN)


@pytest.mark.parametrize("steps", [1, 2])
def test_episodes_too_short_for_an_effect_tell_nothing(steps: int) -> None:
    short = [Steps(one.numbers[: steps + 1], one.actions[:steps]) for one in episodes(0, [1, 0, 2], [1, 1, 1])]
    found = arrangement(short[:1], short[:1])
    assert found.order == [0, 1, 2] and (steps > 1 or found.known == [False] * 3)
