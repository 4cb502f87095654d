"""A run that is interrupted anywhere and resumed is the same as one that was not, to the bit."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from softflow.training.evaluated import Evaluated
from softflow.training.interruption import Interrupted
from tests.training.test_loop import (
    IMITATION,
    LENGTH,
    OFFLINE,
    WARMUP,
    Run,
    assert_the_same_run,
    interrupt_at,
)

Whole = tuple[Run, list[Evaluated]]


@pytest.fixture(scope="module")
def whole(restorable: Any, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """An uninterrupted run and its evaluations, to be read alone."""
    run = Run(restorable, tmp_path_factory.mktemp("loop") / "whole")
    return run, run.trainer().run()


@pytest.mark.parametrize(
    "update",
    [0, IMITATION - 1, IMITATION, IMITATION + WARMUP + 3, *(IMITATION + WARMUP + OFFLINE + i for i in range(10, 15))],
)
def test_interrupted_and_resumed_is_the_same_to_the_bit(
    update: int, whole: Whole, restorable: Any, tmp_path: Path
) -> None:
    uninterrupted, evaluations = whole
    trainer = Run(restorable, tmp_path / "parted").trainer()
    interrupt_at(trainer.algorithm, update)
    with pytest.raises(Interrupted):
        trainer.run()
    assert trainer.progress.updates == update + 1  # it was finished, and none was begun
    parted = Run(restorable, tmp_path / "parted")
    assert parted.trainer(resume=True, weights_seed=9).run() == evaluations
    assert_the_same_run(parted, uninterrupted)


@pytest.mark.parametrize("step", [7, 150, 170])  # after imitation; in the middle of the online stage and at its end
def test_an_abandoned_evaluation_is_made_when_the_run_is_resumed(
    step: int, whole: Whole, restorable: Any, tmp_path: Path
) -> None:
    def interrupt(result: Any) -> Any:
        if sum(env.total_steps for env in parted.held_out) == step:
            signal.raise_signal(signal.SIGTERM)
        return result

    uninterrupted, evaluations = whole
    parted = Run(restorable, tmp_path / "parted")
    for env in parted.held_out:
        env.step = lambda action, env=env: interrupt(restorable.step(env, action))
    trainer = parted.trainer()
    with pytest.raises(Interrupted, match="SIGTERM"):
        trainer.run()
    assert len(trainer.held_out.evaluations) == (step - 1) // (4 * LENGTH)
    assert parted.trainer(resume=True).run() == evaluations
    assert_the_same_run(parted, uninterrupted)
