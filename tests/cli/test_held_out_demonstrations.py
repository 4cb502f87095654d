"""Demonstrations beyond `num_demos` are held out: they are measured, and nothing is learnt from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from softflow.algos import SoftFlow
from softflow.data import load_dataset, save_demonstrations
from softflow.runs.given_demonstrations import first_demonstrations, identity, with_more_demonstrations
from softflow.training.config import RunConfig
from tests.cli.training_runs import assert_same_run, interrupted

TRAIN = "softflow-train --env Pendulum-v1 --config small.yaml --num-demos 3"
NLL = "eval/nll_held_out"


def without(name: str, run: str) -> list[str]:
    return [line for line in Path(run, "metrics.csv").read_text().splitlines() if f",{name}," not in line]


def test_they_are_measured_and_change_nothing(demonstrations: Path, command: Any) -> None:
    result = command(f"{TRAIN} --demos {demonstrations} --run-dir run")
    assert result.status == 0 and f" others are held out: {NLL}" in result.out + result.err
    episodes, task = load_dataset(demonstrations)
    save_demonstrations("three.npz", episodes[:3], task)
    assert command(f"{TRAIN} --demos three.npz --run-dir three").status == 0
    assert without(NLL, "run") == without("", "three") and not Path("three/held_out_demonstrations.npz").exists()
    measured = [line for line in Path("run/metrics.csv").read_text().splitlines() if f",{NLL}," in line]
    evaluated = [line for line in Path("run/metrics.csv").read_text().splitlines() if ",eval/success_rate," in line]
    assert [line.split(",")[:2] for line in measured] == [line.split(",")[:2] for line in evaluated]
    assert np.isfinite([float(line.split(",")[3]) for line in measured]).all()


def test_a_resumed_run_measures_the_same(demonstrations: Path, command: Any) -> None:
    line = f"{TRAIN} --demos {demonstrations}"
    assert command(f"{line} --run-dir whole").status == 0
    with interrupted(SoftFlow, 3):
        assert command(f"{line} --run-dir parted").status == 130
    assert command("softflow-train --resume parted").status == 0
    assert_same_run("whole", "parted")


def test_those_that_are_added_are_not_held_out_any_more(demonstrations: Path, command: Any) -> None:
    line = f"{TRAIN} --demos {demonstrations} --run-dir run"
    with interrupted(SoftFlow, 3):
        assert command(line).status == 130
    assert Path("run/held_out_demonstrations.npz").is_file()
    assert command(f"softflow-train --resume run --demos {demonstrations}").status == 0
    assert not Path("run/held_out_demonstrations.npz").exists()
    assert len(load_dataset("run/demonstrations.npz").episodes) == 4


@pytest.mark.parametrize(("num_demos", "held_out"), [(4, 0), (5, 0), (3, 1), (1, 1)])
def test_one_of_ten_and_at_least_one(demonstrations: Path, num_demos: int, held_out: int) -> None:
    config = RunConfig(env="Pendulum-v1", num_demos=num_demos, demos=str(demonstrations))
    learnt, beyond = first_demonstrations(config, None)
    assert (len(learnt.episodes), len(beyond)) == (min(num_demos, 4), held_out)
    assert not {*map(identity, learnt.episodes)} & {*map(identity, beyond)}
    again = with_more_demonstrations(config, learnt, load_dataset(demonstrations))
    assert len(again.episodes) == 4
