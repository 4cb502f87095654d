"""The simulation of trials: runs whose policies do not differ, or differ beyond doubt."""

from __future__ import annotations

from benchmarks.studies.simulated_trials import simulate
from softflow.algos.trial import TrialConfig

CONFIG = TrialConfig(fewest=5, most=10, window=20)


def test_a_policy_that_never_changes_is_deployed_and_acts() -> None:
    run = simulate(0.5, 0.5, 60, num_envs=3, config=CONFIG, seed=0)
    assert run.deployed == 0.5 and abs(run.own - 0.5) < 1e-6


def test_a_policy_that_learns_is_deployed_and_one_that_forgets_is_not() -> None:
    better, worse = (simulate(0.5, last, 300, num_envs=3, config=CONFIG, seed=1) for last in (1.0, 0.0))
    assert better.deployed > 0.8 and better.own > 0.6
    assert worse.deployed > 0.2 and worse.own > 0.3
    assert better.compared == 1.0 and worse.compared == worse.deployed


def test_the_same_seed_gives_the_same_run() -> None:
    assert simulate(0.5, 0.9, 50, 4, CONFIG, seed=2) == simulate(0.5, 0.9, 50, 4, CONFIG, seed=2)
