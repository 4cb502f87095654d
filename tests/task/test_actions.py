"""Native actions and those in [-1, 1]: exact numbers, there and back, and errors that name the number."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from softflow.task import ActionPart, ObservationPart, TaskSpec
from tests.task.specs import NUMBERS

SEEN = (ObservationPart("a", (1,)),)


def test_native_actions_are_scaled_by_their_own_bounds() -> None:
    # arm in -1 ... 3 and 0 ... 0.5, a lock that is always 0.25, a gripper in -1 ... 1
    assert NUMBERS.action_dim == 3
    for native, unit in (
        ([-1, 0, 0.25, -1], [-1, -1, -1]),
        ([3, 0.5, 0.25, 1], [1, 1, 1]),
        ([1, 0.125, 0.25, 0.3], [0, -0.5, 0.3]),
    ):
        found = NUMBERS.unit_actions(native)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, np.float32(unit))
        np.testing.assert_array_equal(NUMBERS.unit_actions(np.array([[native] * 2])), np.float32([[unit] * 2]))
        back = NUMBERS.native_actions(np.float32(unit))
        assert back.dtype == np.float32
        np.testing.assert_array_equal(back, np.float32(native))


def test_bounds_of_one_scale_nothing() -> None:
    task = TaskSpec(SEEN, (ActionPart("a", (-1.0, 0.0), (1.0, 1.0)),))
    unit = np.float32([1e-30, -1.0])
    np.testing.assert_array_equal(task.native_actions(unit), np.float32([1e-30, 0.0]))


def test_actions_by_name_in_any_order() -> None:
    named: dict[str, Any] = {"gripper": [0.5], "lock": torch.tensor([0.25]), "arm": np.array([1, 0.25])}
    np.testing.assert_array_equal(NUMBERS.unit_actions(named), [0, 0, 0.5])
    batch = {name: np.stack([np.asarray(value)] * 2) for name, value in named.items()}
    np.testing.assert_array_equal(NUMBERS.unit_actions(batch), [[0, 0, 0.5]] * 2)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f8"])
def test_a_bound_that_the_dtype_rounds_is_not_outside(dtype: Any) -> None:
    task = TaskSpec(SEEN, (ActionPart("arm", (-0.3,), (0.7,)),))  # float16 rounds 0.7 up
    unit = task.unit_actions(np.array([[-0.3], [0.7]], dtype))
    assert np.abs(unit).max() <= 1
    np.testing.assert_allclose(unit, [[-1], [1]], atol=1e-3 if dtype == np.float16 else 1e-6)


def test_integers_are_actions_too() -> None:
    task = TaskSpec(SEEN, (ActionPart("a", (0,), (4,)),))
    np.testing.assert_array_equal(task.unit_actions([[1], [4]]), [[-0.5], [1]])


bounds = st.integers(-(10**9), 10**9).map(lambda number: number / 1000)


@given(st.lists(st.tuples(bounds, bounds), min_size=1, max_size=4), st.lists(st.floats(0, 1), min_size=4, max_size=4))
def test_there_and_back_and_never_past_a_bound(pairs: list[tuple[float, float]], shares: list[float]) -> None:
    low, high = tuple(map(min, pairs)), tuple(map(max, pairs))
    assume(low != high)
    task = TaskSpec(SEEN, (ActionPart("a", low, high),))
    native = np.array([[a + share * (b - a) for a, b, share in zip(low, high, shares, strict=False)]]).clip(low, high)
    unit = task.unit_actions(native)
    assert (np.abs(unit) <= 1).all()
    span = np.array(high) - low
    back = task.native_actions(unit)
    tolerance = 1e-6 * np.maximum(span, np.maximum(np.abs(low), np.abs(high)))
    assert (np.abs(back - native) <= tolerance).all()
    free = span > 0
    for extreme in (-1, 1, -1.5, 1.5):
        reached = task.native_actions(np.full(task.action_dim, extreme))
        assert ((reached >= low) & (reached <= high))[free].all()
    exact = task.native_actions(unit, np.float64)
    assert exact.dtype == np.float64 and (exact >= low).all() and (exact <= high).all()


def test_a_float32_action_stays_within_bounds_that_float32_does_not_know() -> None:
    task = TaskSpec(SEEN, (ActionPart("a", (-0.3,), (0.1,)),))
    assert float(np.float32(0.1)) > 0.1 and float(np.float32(-0.3)) < -0.3
    reached = task.native_actions(np.array([[-1.0], [1.0]])).astype(np.float64)
    assert reached[0] >= -0.3 and reached[1] <= 0.1
    np.testing.assert_allclose(reached, [[-0.3], [0.1]], rtol=1e-6)


@pytest.mark.parametrize(
    ("action", "message"),
    [
        ([0, 0.6, 0.25, 0], "arm[1] = 0.6 is outside its bounds 0 ... 0.5"),
        ([0, 0, 0.3, 0], "lock[0] = 0.3 is outside its bounds 0.25 ... 0.25"),
        ([0, 0, 0.25, np.nan], "gripper[0] = nan is outside its bounds -1 ... 1"),
        ([[0, 0, 0.25, 0], [4, 0, 0.25, 0]], "arm[0] = 4 of action 1 is outside its bounds -1 ... 3"),
        ([0, 0, 0.25], "an action (arm (2), lock (1), gripper (1)) is float64 of shape (3,), expected 4 numbers"),
        (0.5, "expected 4 numbers along the last axis"),
        (["a"] * 4, "is <U1 of shape (4,), expected numbers"),
        ({"arm": [0, 0], "lock": [0.25]}, "action 'gripper' is missing, got arm, lock"),
        ({"arm": [0, 0], "lock": [0.25], "griper": [0]}, "the action has no part 'griper': did you mean 'gripper'?"),
        ({"arm": [0], "lock": [0.25], "gripper": [0]}, "action 'arm' is int64 of shape (1,), expected 2 numbers"),
        (
            {"arm": [0, 0], "lock": [[0.25]], "gripper": [0]},
            "the parts of the action have different batch axes (arm: (2,), lock: (1, 1), gripper: (1,))",
        ),
    ],
)
def test_what_does_not_fit_is_named(action: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        NUMBERS.unit_actions(action)


def test_unit_actions_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match=r"float64 of shape \(4,\), expected 3 numbers"):
        NUMBERS.native_actions(np.zeros(4))


@pytest.mark.parametrize(
    ("low", "high", "message"),
    [
        ((), (), "give its lowest and highest values"),
        ((0,), (1, 2), "give its lowest and highest values"),
        ((0, 1), (1, 0), r"a\[1\] has bounds 1 \.\.\. 0"),
        ((-np.inf,), (1,), r"a\[0\] has bounds -inf \.\.\. 1"),
        ((np.nan,), (1,), r"a\[0\] has bounds nan \.\.\. 1"),
    ],
)
def test_impossible_bounds_are_refused(low: tuple[float, ...], high: tuple[float, ...], message: str) -> None:
    with pytest.raises(ValueError, match=f"action 'a': {message}"):
        ActionPart("a", low, high)
