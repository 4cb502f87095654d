"""Trials in the loop: a run that is interrupted in or after one is resumed to the bit."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from softflow.algos import SoftFlow, trial
from softflow.algos.beliefs import Belief
from softflow.algos.trial import Trial, TrialConfig, Verdict
from softflow.data import Episode
from softflow.training.evaluated import Evaluated
from softflow.training.interruption import Interrupted
from tests.algos.softflow_toys import assert_same, weights
from tests.cli.training_runs import assert_same_run
from tests.training.test_loop import Run

STEPS = 400  # of the online stage
Whole = tuple[Path, list[Evaluated]]
Reached = Callable[[Trial[Any], Verdict | None], bool]

MOMENTS: dict[str, Reached] = {
    "within a trial": lambda trial, verdict: trial.version > 1 and trial.policies[1].episodes > 0 and not verdict,
    "a challenger given up": lambda trial, verdict: verdict is not None and not verdict.promoted,
    "a challenger promoted": lambda trial, verdict: verdict is not None and verdict.promoted,
    "the critic's choice deploys": lambda trial, verdict: trial.version > 1 and trial.best().choice > 0,
}


def make_run(restorable: Any, path: Path) -> Run:
    run = Run(restorable, path, online_steps=STEPS, eval_every=1_000)
    run.method.trials, run.method.online.updates_per_step = TrialConfig(fewest=2, most=3, window=8), 0.1
    return run


def toss(first: Belief, second: Belief) -> float:
    """Decide a trial by the last digits of what is believed, so that both verdicts come soon."""
    return float(round(1e6 * (first.mean + second.mean)) % 2)


@pytest.fixture(scope="module")
def verdicts_come_soon() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trial, "FEWEST_CHOICES", 3)
        patch.setattr(trial, "probability_better", toss)
        yield


@pytest.fixture(scope="module")
def whole(verdicts_come_soon: None, restorable: Any, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    path = tmp_path_factory.mktemp("trials") / "whole"
    return path, make_run(restorable, path).trainer().run()


@pytest.mark.parametrize("moment", MOMENTS)
def test_interrupted_in_trials_and_resumed_is_the_same_to_the_bit(
    moment: str, whole: Whole, restorable: Any, tmp_path: Path
) -> None:
    run, (uninterrupted, evaluations) = make_run(restorable, tmp_path / "parted"), whole
    parted = run.trainer()
    interrupt_when(parted.algorithm, MOMENTS[moment])
    with pytest.raises(Interrupted):
        parted.run()
    assert 0 < parted.progress.done < STEPS

    resumed = make_run(restorable, run.path).trainer(resume=True, weights_seed=9)
    for algorithm in (parted.algorithm, resumed.algorithm):
        best = algorithm.trial.best()
        kept = algorithm.trial.challenger if best.challenger else algorithm.trial.champion
        assert (
            algorithm.deployed.policy is kept
            and algorithm.deployed.candidates == algorithm.trial.candidates[best.choice]
        )
    assert_same(weights(resumed.algorithm.deployed), weights(parted.algorithm.deployed))
    assert resumed.algorithm.deployed.describe() == parted.algorithm.deployed.describe()
    assert resumed.run() == evaluations
    for path in (run.path, uninterrupted):
        (path / "config.yaml").touch()  # the command writes it
    assert_same_run(run.path, uninterrupted)


def interrupt_when(algorithm: SoftFlow, reached: Reached) -> None:
    """Press ^C in the first round after whose episodes it is so."""
    receive_, judge = algorithm.receive, algorithm.trial.judge
    verdicts, pressed = list[Verdict | None](), list[bool]()

    def judging() -> Verdict | None:
        verdicts.append(judge())
        return verdicts[-1]

    def receiving(episodes: list[Episode]) -> None:
        verdicts.append(None)
        receive_(episodes)
        if not pressed and reached(algorithm.trial, verdicts[-1]):
            pressed.append(True)
            signal.raise_signal(signal.SIGINT)

    algorithm.trial.judge = judging  # type: ignore[method-assign]
    algorithm.receive = receiving  # type: ignore[method-assign]
