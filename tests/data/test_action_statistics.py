"""Statistics of actions by hand: robust scales, constant dimensions, few values, quantised values, and the noise."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import ArrayLike

from softflow.data import ActionStatistics, Episode, action_statistics
from softflow.data.action_statistics import CONSTANT_SCALE, CONTINUOUS_NOISE, FARTHEST, FEW_VALUED_NOISE


def episode(action: ArrayLike) -> Episode:
    action = np.asarray(action, np.float64)
    steps = len(action)
    return Episode(np.zeros((steps + 1, 1)), action, np.zeros(steps), True, False, False)


def statistics(*columns: ArrayLike) -> ActionStatistics:
    """Return the statistics of columns of the same length, divided into two episodes."""
    actions = np.stack(columns, 1)
    return action_statistics([episode(part) for part in np.array_split(actions, 2)])


def test_a_gripper_of_two_values_beside_small_deltas() -> None:
    delta = 0.001 * np.random.default_rng(0).normal(size=400)
    gripper = np.repeat([-1.0, 1.0, 1.0, 1.0], 100)
    found = statistics(delta, gripper)
    low, high = np.quantile(delta.astype(np.float32), (0.01, 0.99))
    expected = delta.clip(low, high)
    np.testing.assert_allclose(found.center, [expected.mean(), 0.5], rtol=1e-4)
    np.testing.assert_allclose(found.scale, [expected.std(), np.sqrt(0.75)], rtol=1e-4)
    np.testing.assert_allclose(found.noise, [CONTINUOUS_NOISE, FEW_VALUED_NOISE] * found.scale)
    assert found.few_valued.tolist() == [False, True] and not found.constant.any()


def test_outliers_hardly_move_centre_and_scale() -> None:
    values = np.linspace(-0.1, 0.1, 1000)
    wild = values.copy()
    wild[-5:] = 1.0
    calm, moved = statistics(values), statistics(wild)
    np.testing.assert_allclose(moved.scale, calm.scale, rtol=0.02)
    assert calm.scale[0] == pytest.approx(0.2 / np.sqrt(12), rel=0.01)
    assert abs(moved.center[0]) < 0.001


def test_no_action_is_very_far_out() -> None:
    """All but 5 of 1,000 steps within 1e-5 and those at 1: their distance from the centre bounds the scale."""
    values = 1e-5 * np.linspace(-1, 1, 1000)
    values[-5:] = 1.0
    found = statistics(values)
    assert found.scale[0] == pytest.approx(1 / FARTHEST, rel=1e-4)


def test_a_rare_change_has_the_plain_spread() -> None:
    """5 of 1,000 steps differ, so the winsorised data are constant: mean 0.005, variance 0.005 * 0.995."""
    values = np.zeros(1000)
    values[:5] = 1.0
    found = statistics(values)
    assert found.center[0] == pytest.approx(0.005) and found.scale[0] == pytest.approx(np.sqrt(0.005 * 0.995))
    assert not found.constant[0] and not found.few_valued[0]  # five steps are not many


def test_a_constant_dimension() -> None:
    rounded = np.float32(0.3) + np.float32(1e-7) * np.arange(2).repeat(50)
    found = statistics(np.full(100, -1.0), rounded)
    np.testing.assert_allclose(found.center, [-1.0, 0.3], atol=1e-6)
    assert found.scale.tolist() == [CONSTANT_SCALE] * 2
    np.testing.assert_allclose(found.noise, CONTINUOUS_NOISE * CONSTANT_SCALE)
    assert found.constant.all() and not found.few_valued.any()


@pytest.mark.parametrize(
    ("values", "each", "few"), [(2, 10, True), (3, 50, True), (8, 10, True), (9, 10, False), (2, 9, False)]
)
def test_what_counts_as_few_values(values: int, each: int, few: bool) -> None:
    found = statistics(np.linspace(-1, 1, values).repeat(each))
    assert found.few_valued.tolist() == [few]


def test_rounding_makes_no_further_values() -> None:
    gripper = np.repeat([-0.7, 0.7], 50) + 3e-7 * np.tile(np.arange(2), 50)
    assert statistics(gripper).few_valued.tolist() == [True]


def test_the_noise_covers_the_gaps_of_quantised_actions() -> None:
    levels = np.linspace(-1, 1, 21)
    narrow = np.repeat(levels[5:16], 40)  # 11 levels with gaps of 0.1, of a spread of 0.316
    found = statistics(narrow, np.linspace(-0.5, 0.5, len(narrow)))
    np.testing.assert_allclose(found.noise, [0.05, CONTINUOUS_NOISE * found.scale[1]], rtol=1e-5)
    assert found.scale[0] == pytest.approx(np.sqrt(0.1), rel=1e-5)
    # Finer than the default noise: 201 levels.
    fine = statistics(np.repeat(np.linspace(-1, 1, 201), 10))
    np.testing.assert_allclose(fine.noise, CONTINUOUS_NOISE * fine.scale)


def test_the_gaps_of_a_small_sample_are_no_resolution() -> None:
    found = statistics(np.random.default_rng(0).uniform(-1, 1, 16))
    np.testing.assert_allclose(found.noise, CONTINUOUS_NOISE * found.scale)


def test_a_transform_comes_first() -> None:
    gripper = np.repeat([-1.0, 1.0], 50)
    found = action_statistics([episode(gripper[:, None])], lambda action: np.arctanh(0.9 * action))
    np.testing.assert_allclose([found.center[0], found.scale[0]], [0, np.arctanh(0.9)], atol=1e-12)


@settings(max_examples=50)
@given(
    exponent=st.floats(-3, 0),
    shift=st.floats(-0.4, 0.4),
    seed=st.integers(0, 2**32 - 1),
    steps=st.integers(2, 300),
    levels=st.sampled_from([None, 2, 3, 8, 15]),
)
def test_another_unit_scales_the_statistics(
    exponent: float, shift: float, seed: int, steps: int, levels: int | None
) -> None:
    rng = np.random.default_rng(seed)
    values = rng.uniform(-0.5, 0.5, steps) if levels is None else rng.integers(levels, size=steps) / levels - 0.5
    unit = 10**exponent
    one, other = statistics(values), statistics(unit * values + shift)
    assert np.array_equal(one.few_valued, other.few_valued) and np.array_equal(one.constant, other.constant)
    if not one.constant[0]:
        np.testing.assert_allclose(other.center, unit * one.center + shift, atol=1e-6)
        np.testing.assert_allclose(other.scale / unit, one.scale, rtol=1e-3)
        np.testing.assert_allclose(other.noise / unit, one.noise, rtol=5e-3)
        normal = (values - one.center) / one.scale
        assert (np.abs(normal) <= FARTHEST * (1 + 1e-5)).all() and one.scale[0] <= 0.5


def test_what_cannot_be_summarised_is_refused() -> None:
    with pytest.raises(ValueError, match="no episodes to take action statistics from"):
        action_statistics([])
    with pytest.raises(ValueError, match=r"different action sizes \[1, 2\]"):
        action_statistics([episode(np.zeros((3, 1))), episode(np.zeros((3, 2)))])
