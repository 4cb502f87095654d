"""Intervals against numbers computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from softflow.training.intervals import (
    Counts,
    difference_interval,
    interquartile_mean,
    probability_of_improvement,
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


# ------------------------------------------------------------------------------------------------ seeds and episodes


def test_one_seed_has_wilsons_interval() -> None:
    assert Counts([40], [50]).interval() == wilson_interval(40, 50)


def test_equal_seeds_are_as_good_as_their_episodes_pooled() -> None:
    low, high = Counts([80, 80, 80], [100, 100, 100]).interval()
    pooled = wilson_interval(240, 300)
    assert low == pytest.approx(pooled[0], abs=0.01) and high == pytest.approx(pooled[1], abs=0.01)


def test_seeds_that_differ_widen_the_interval() -> None:
    """Means of three draws of 0 or 1: the outermost 1/27 of the draws on each side are 0 and 1."""
    low, high = Counts([0, 0, 1000], [1000, 1000, 1000]).interval()
    assert low == pytest.approx(0.0, abs=0.001) and high == pytest.approx(1.0, abs=0.001)
    assert wilson_interval(1000, 3000) == pytest.approx((0.317, 0.350), abs=0.001)  # pooled without the seeds


def test_seeds_count_alike_however_many_episodes_they_have() -> None:
    assert Counts([10, 0], [10, 90]).rate == 0.5


@pytest.mark.parametrize(("successes", "outermost"), [([50, 50, 50], 1.0), ([0, 0, 0], 0.0)])
def test_the_interval_holds_an_estimate_at_the_end_without_collapsing(successes: list[int], outermost: float) -> None:
    interval = Counts(successes, [50, 50, 50]).interval()
    assert outermost in interval
    assert 0.01 < interval[1] - interval[0] < 0.05


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(20, 40)), min_size=2, max_size=4))
def test_the_interval_mirrors_and_widens_with_confidence(runs: list[tuple[int, int]]) -> None:
    counts = Counts(*map(list, zip(*runs, strict=True)))
    low, high = counts.interval()
    assert 0 <= low <= counts.rate <= high <= 1
    wider = counts.interval(0.99)
    assert wider[0] <= low and high <= wider[1]
    failures = Counts([n - k for k, n in runs], counts.episodes).interval()
    assert failures == pytest.approx((1 - high, 1 - low), abs=0.02)  # up to the resampling


def test_the_difference_of_single_seeds_is_newcombes() -> None:
    assert Counts([40], [50]).difference(Counts([30], [50]), paired=True) == difference_interval((40, 50), (30, 50))


def test_what_paired_seeds_share_cancels() -> None:
    first, second = Counts([100, 500, 900], [1000] * 3), Counts([200, 600, 1000], [1000] * 3)
    low, high = second.difference(first, paired=True)
    assert 0.08 < low < 0.1 < high < 0.12  # each seed gains 0.1
    apart_low, apart_high = second.difference(first)
    assert apart_low < -0.3 and apart_high > 0.5


def test_the_difference_of_a_method_to_itself_holds_zero_and_swaps_its_sign() -> None:
    first, second = Counts([40, 45], [50, 50]), Counts([10, 20, 30], [50] * 3)
    low, high = first.difference(second)
    assert second.difference(first) == pytest.approx((-high, -low), abs=0.02)
    assert 0 < low < high
    assert first.difference(first)[0] < 0 < first.difference(first)[1]


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        (Counts([], []), "at least one"),
        (Counts([1], [2, 2]), "as many successes"),
        (Counts([3, 1], [2, 2]), "got 3 of 2"),
        (Counts([0, 0], [0, 2]), "got 0 of 0"),
    ],
)
def test_counts_that_cannot_be_are_refused(counts: Counts, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        counts.interval()
    with pytest.raises(ValueError, match=message):
        Counts([1], [2]).difference(counts)


def test_pairs_need_the_same_seeds() -> None:
    with pytest.raises(ValueError, match="the same seeds: 2 and 1"):
        Counts([1, 1], [2, 2]).difference(Counts([1], [2]), paired=True)


def test_probability_of_improvement_by_hand() -> None:
    # Task 1: 1 and 3 against 2: 0 and 1, so 1/2. Task 2: 5 and 5 against 5: ties, 1/2. Task 3: both higher, 1.
    assert probability_of_improvement([[1, 5, 7], [3, 5, 8]], [[2, 5, 0]]) == pytest.approx((0.5 + 0.5 + 1) / 3)
    for wrong in ([[1.0, 2.0]], [1.0, 2.0, 3.0]):
        with pytest.raises(ValueError, match="shape"):
            probability_of_improvement([[1, 5, 7]], wrong)
