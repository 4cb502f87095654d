"""Intervals against numbers computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from softflow.training.intervals import (
    difference_interval,
    interquartile_mean,
    stratified_bootstrap_interval,
    wilson_interval,
)


def test_wilson_by_hand() -> None:
    # z = 1.959964, z^2 = 3.841459. 5 of 10: centre 0.5, half width
    # z sqrt(0.25/10 + z^2/400) / (1 + z^2/10) = 1.959964 * 0.186012 / 1.384146 = 0.263407
    assert wilson_interval(5, 10) == pytest.approx((0.236593, 0.763407), abs=1e-6)
    # 0 of 10: low 0, high (z^2/10) / (1 + z^2/10) = 0.3841459 / 1.3841459
    assert wilson_interval(0, 10) == pytest.approx((0.0, 0.277533), abs=1e-6)
    assert wilson_interval(10, 10) == pytest.approx((0.722467, 1.0), abs=1e-6)
    # 40 of 50: centre (0.8 + 0.038415) / 1.076829, half width 1.959964 sqrt(0.16/50 + 3.841459/10000) / 1.076829
    assert wilson_interval(40, 50) == pytest.approx((0.669629, 0.887562), abs=1e-6)
    # one sigma: z = 1, 1 of 2: 0.5 -+ sqrt(0.125 + 0.0625) / 1.5 = 0.5 -+ 0.288675
    assert wilson_interval(1, 2, confidence=math.erf(1 / math.sqrt(2))) == pytest.approx((0.211325, 0.788675), abs=1e-6)


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_holds_the_rate_and_mirrors(counts: tuple[int, int]) -> None:
    successes, trials = counts
    low, high = wilson_interval(successes, trials)
    assert 0 <= low <= successes / trials <= high <= 1 and low < high
    mirrored = wilson_interval(trials - successes, trials)
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=1e-12)
    wider = wilson_interval(successes, trials, confidence=0.99)
    assert wider[0] <= low and high <= wider[1]


def test_differences_are_those_of_newcombe() -> None:
    """The examples of his table II, method 10."""
    assert difference_interval((56, 70), (48, 80)) == pytest.approx((0.0524, 0.3339), abs=5e-5)
    assert difference_interval((9, 10), (3, 10)) == pytest.approx((0.1705, 0.8090), abs=5e-5)
    assert difference_interval((10, 10), (0, 20)) == pytest.approx((0.6791, 1.0), abs=5e-5)
    low, high = difference_interval((48, 80), (56, 70))
    assert (-high, -low) == pytest.approx((0.0524, 0.3339), abs=5e-5)


@pytest.mark.parametrize("arguments", [(0, 0, 0.95), (3, 2, 0.95), (-1, 2, 0.95), (1, 2, 95.0)])
def test_wilson_refuses(arguments: tuple[int, int, float]) -> None:
    with pytest.raises(ValueError, match="got"):
        wilson_interval(*arguments)


def test_interquartile_mean_by_hand() -> None:
    assert interquartile_mean([[100.0, 3, 1, 5], [2, 4, -50, 6]]) == 3.5  # -50 1 | 2 3 4 5 | 6 100
    assert interquartile_mean(np.arange(10) ** 2) == pytest.approx((4 + 9 + 16 + 25 + 36 + 49) / 6)
    assert interquartile_mean([1.0, 2.0, 6.0]) == 3.0
    for bad in ([], [1.0, math.nan]):
        with pytest.raises(ValueError, match="finite"):
            interquartile_mean(bad)


def test_bootstrap_draws_runs_within_each_task() -> None:
    # constant tasks: however runs are drawn within a task, each resample is the same
    constant = np.tile([0.0, 0.2, 0.4, 1.0], (5, 1))
    assert stratified_bootstrap_interval(constant, np.random.default_rng(0)) == pytest.approx((0.3, 0.3))
    # two runs, one task: the mean is 0, 0.5 or 1 with probability 1/4, 1/2, 1/4
    runs = np.array([[0.0], [1.0]])
    assert stratified_bootstrap_interval(runs, np.random.default_rng(0), np.mean) == (0.0, 1.0)
    assert stratified_bootstrap_interval(runs, np.random.default_rng(0), np.mean, confidence=0.4) == (0.5, 0.5)


def test_bootstrap_agrees_with_the_normal_interval() -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(400, 1))
    low, high = stratified_bootstrap_interval(scores, rng, np.mean)
    half = 1.96 * scores.std() / 20
    assert (low, high) == pytest.approx((scores.mean() - half, scores.mean() + half), abs=0.1 * half)


def test_bootstrap_is_seeded_and_refuses_other_shapes() -> None:
    scores = np.random.default_rng(0).random((3, 4))
    draws = [stratified_bootstrap_interval(scores, np.random.default_rng(1), resamples=50) for _ in range(2)]
    assert draws[0] == draws[1]
    assert draws[0][0] <= interquartile_mean(scores) <= draws[0][1]
    for bad, message in ((scores[0], "shape"), (scores * np.nan, "finite"), (np.zeros((0, 2)), "finite")):
        with pytest.raises(ValueError, match=message):
            stratified_bootstrap_interval(bad, np.random.default_rng(0))
    with pytest.raises(ValueError, match="resamples"):
        stratified_bootstrap_interval(scores, np.random.default_rng(0), resamples=0)
