"""What may cross the boundary to an environment, and what is refused by name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Box
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from softflow.boundary import MalformedStep, as_array, as_flag, as_reward

FLOATS, BYTES = Box(-np.inf, np.inf, (3,), np.float32), Box(0, 255, (3,), np.uint8)


@given(arrays(np.float64, 3, elements=st.floats(-1e30, 1e30)))
def test_an_array_is_copied_in_the_dtype_of_its_space(value: np.ndarray) -> None:
    copy = as_array("observation", value, FLOATS)
    assert copy.dtype == np.float32 and not np.shares_memory(copy, value)
    np.testing.assert_array_equal(copy, value.astype(np.float32))


@pytest.mark.parametrize("value", [np.array([0, 7, 255]), np.array([1.0, 2.0, 3.0]), [True, False, True]])
def test_an_integer_space_takes_what_it_represents(value: Any) -> None:
    np.testing.assert_array_equal(as_array("observation", value, BYTES), np.asarray(value).astype(int))


@pytest.mark.parametrize(
    ("value", "space", "message"),
    [
        ([0.0, 0.5, 1.0], BYTES, r"observation\[1\] is 0.5, not a number of its space, uint8"),
        ([0, 256, 0], BYTES, r"observation\[1\] is 256, not a number of its space, uint8"),
        ([0, -1, 0], BYTES, r"observation\[1\] is -1, not a number"),
        ([0.0, np.nan, 0.0], BYTES, r"observation\[1\] is nan, not a number"),
        ([0.0, 0.0, np.inf], FLOATS, r"observation\[2\] is inf, not a finite float32"),
        ([1e39, 0.0, 0.0], FLOATS, r"observation\[0\] is 1e\+39, not a finite float32"),
        ([70_000.0, 0.0, 0.0], Box(-1, 1, (3,), np.float16), r"observation\[0\] is 70000, not a finite"),
        ([0.0], FLOATS, r"observation is float64 of shape \(1,\), its space has shape \(3,\)"),
        (np.float32(0), FLOATS, r"observation is float32 of shape \(\), its space has"),
        (["a", "b", "c"], FLOATS, "observation is <U1 of shape"),
        (None, FLOATS, r"observation is object of shape \(\)"),
    ],
)
def test_other_arrays_are_refused(value: Any, space: Box, message: str) -> None:
    with pytest.raises(MalformedStep, match=f"^{message}"):
        as_array("observation", value, space)


@pytest.mark.parametrize("kind", [bool, int, float, np.bool_, np.float32, np.array, lambda value: np.array([value])])
def test_a_flag_is_true_or_false(kind: Any) -> None:
    assert as_flag("is_success", kind(1)) is True
    assert as_flag("is_success", kind(0)) is False


@pytest.mark.parametrize("value", [0.25, np.nan, -1, 2, "False", "", None, [], [True, True], {}, 1j])
def test_other_flags_are_refused(value: Any) -> None:
    with pytest.raises(
        MalformedStep, match=r"^is_success is .*, expected true or false, or 1 or 0: return a decision, such as bool"
    ):
        as_flag("is_success", value)


@pytest.mark.parametrize("value", [3, 3.0, np.float32(3), np.array([3]), [[3.0]]])
def test_a_reward_is_one_number(value: Any) -> None:
    reward = as_reward(value)
    assert type(reward) is float and reward == 3
