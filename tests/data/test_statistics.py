from __future__ import annotations

import numpy as np
import pytest

from softflow.data import Episode, observation_statistics


def episode(observation):
    steps = len(observation) - 1
    return Episode(np.array(observation), np.zeros((steps, 1)), np.zeros(steps), True, False, False)


def test_leaves_out_final_observations_and_weighs_every_step_alike():
    # Column 0 acted on: 1, 3, 8 -> mean 4, variance (9 + 1 + 16) / 3. Column 1 is constant.
    mean, std = observation_statistics([episode([[1, 5], [3, 5], [100, 5]]), episode([[8, 5], [-100, 5]])])
    np.testing.assert_allclose(mean, [4, 5])
    np.testing.assert_allclose(std, [np.sqrt(26 / 3), 1])


def test_a_large_mean_does_not_cancel_the_spread():
    values = np.float32(1e4) + np.float32([0, 1]).repeat(50_000)
    mean, std = observation_statistics([episode(np.append(values, 0)[:, None])])
    assert mean.dtype == std.dtype == np.float64
    np.testing.assert_allclose([mean[0], std[0]], [1e4 + 0.5, 0.5], rtol=1e-12)


def test_bad_input():
    with pytest.raises(ValueError, match="no episodes"):
        observation_statistics([])
    with pytest.raises(ValueError, match=r"different observation sizes \[1, 2\]"):
        observation_statistics([episode([[1], [1]]), episode([[1, 2], [1, 2]])])
