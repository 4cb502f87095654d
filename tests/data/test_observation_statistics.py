from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from softflow.data import Episode, constant_dimensions, observation_statistics
from softflow.policies import ObservationNormalizer
from softflow.policies.normalizer import CLIP


def episode(observation):
    steps = len(observation) - 1
    return Episode(np.array(observation), np.zeros((steps, 1)), np.zeros(steps), True, False, False)


def test_leaves_out_final_observations_and_weighs_every_step_alike():
    # Column 0 acted on: 1, 3, 8 -> mean 4, variance (9 + 1 + 16) / 3. Column 1 is constant.
    episodes = [episode([[1, 0.5], [3, 0.5], [100, 5]]), episode([[8, 0.5], [-100, 5]])]
    mean, std = observation_statistics(episodes)
    np.testing.assert_allclose(mean, [4, 0.5])
    np.testing.assert_allclose(std, [np.sqrt(26 / 3), 1])
    np.testing.assert_array_equal(constant_dimensions(episodes), [False, True])


def test_a_large_mean_does_not_cancel_the_spread():
    values = np.float32(1e4) + np.float32([0, 1]).repeat(50_000)
    mean, std = observation_statistics([episode(np.append(values, 0)[:, None])])
    assert mean.dtype == std.dtype == np.float64
    np.testing.assert_allclose([mean[0], std[0]], [1e4 + 0.5, 0.5], rtol=1e-12)


def normalized(episodes, observation):
    normalizer = ObservationNormalizer(episodes[0].observation_dim)
    normalizer.fit(*(torch.as_tensor(value, dtype=torch.float32) for value in observation_statistics(episodes)))
    return normalizer(torch.as_tensor(observation, dtype=torch.float32)).numpy()


@settings(max_examples=100)
@given(
    exponent=st.floats(-8, 8),
    mean=st.floats(-100, 100),
    spread=st.sampled_from([0, 0.01, 0.1, 1.0, 10.0]),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_unit_of_a_dimension_does_not_matter(exponent, mean, spread, seed):
    values = mean + spread * np.random.default_rng(seed).normal(size=(50, 1))
    scaled = 10**exponent * values
    for numbers in (values, scaled):
        np.testing.assert_array_equal(constant_dimensions([episode(numbers)]), [spread == 0])
    expected = normalized([episode(values)], values)
    # A float32 has an error of 6e-8 of the mean, which is up to 1e4 times the spread.
    np.testing.assert_allclose(normalized([episode(scaled)], scaled), expected, atol=5e-3)
    assert expected[:-1].std() == pytest.approx(float(spread > 0), abs=5e-3)


@pytest.mark.parametrize("unit", [1e-8, 1e-5, 1.0, 1e5, 1e8])
def test_a_small_or_large_unit_is_normalised(unit):
    values = unit * np.array([[-3.0], [-1.0], [1.0], [3.0], [0.0]])
    assert not constant_dimensions([episode(values)]).any()
    np.testing.assert_allclose(normalized([episode(values)], values)[:4, 0], np.array([-3, -1, 1, 3]) / np.sqrt(5))


@pytest.mark.parametrize("magnitude", [0.0, 1e-9, 1.0, 1e4, 1e9])
@pytest.mark.parametrize("noise", ["none", "rounding", "simulator"])
def test_what_never_changes_is_constant_and_not_blown_up(magnitude, noise):
    rng = np.random.default_rng(0)
    values = np.full((100, 1), magnitude)
    if noise == "rounding":  # the last bit of a float32, as a quaternion of a body that hardly turns
        values = np.where(rng.random((100, 1)) < 0.5, values, np.nextafter(np.float32(values), np.float32(np.inf)))
    elif noise == "simulator":
        values = values + 1e-15 * rng.normal(size=(100, 1))
    episodes = [episode(values)]
    np.testing.assert_array_equal(constant_dimensions(episodes), [True])
    np.testing.assert_allclose(normalized(episodes, values), 0, atol=1e-6)
    # A later change counts as it is, or relative to the magnitude if that is larger; it does not reach the clip.
    moved = normalized(episodes, [[magnitude + 0.5 * max(magnitude, 1)]])
    np.testing.assert_allclose(moved, 0.5, rtol=1e-5)
    assert normalized(episodes, [[magnitude + 100 * max(magnitude, 1)]]) == CLIP


def test_bad_input():
    with pytest.raises(ValueError, match="no episodes"):
        observation_statistics([])
    with pytest.raises(ValueError, match=r"different observation sizes \[1, 2\]"):
        observation_statistics([episode([[1], [1]]), episode([[1, 2], [1, 2]])])
