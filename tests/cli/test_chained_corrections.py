"""Rounds of corrections, each on the corrected policy of the round before."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import softflow
from softflow.algos import Correction
from softflow.policies import SteeredPolicy
from softflow.settings.typed import load_file
from softflow.training.checkpoint import load_policy
from softflow.training.run_folder import RunFolder
from tests.cli.training_runs import assert_same_run, interrupted

SMALL = "--num-envs 2 --num-demos 4 --eval-episodes 2 --threads 1 --n-action-steps 2 --batch-size 16"
CORRECT = f"softflow-train --algo correction {SMALL} --correction.updates 4"


def last_policy(run: str) -> SteeredPolicy:
    policy = load_policy(RunFolder.open(run).last_checkpoint()).policy
    assert isinstance(policy, SteeredPolicy)
    return policy


@pytest.fixture
def first(small_run: Path, command: Any, takeovers: Path) -> Path:
    """The first round, whose head has learnt something."""
    assert command(f"{CORRECT} --base run --corrections t.npz --run-dir first").status == 0
    assert last_policy("first").head[-1].weight.abs().max() > 0
    return Path("first").resolve()


@pytest.mark.parametrize("algo", ["correction", "latent_correction"])
def test_a_second_round_corrects_the_policy_of_the_first(algo: str, first: Path, command: Any) -> None:
    """It is resumed to the bit without the first one, whose policy it does not change."""
    shutil.copy("t.npz", "second.npz")
    line = f"{CORRECT} --algo {algo} --base first --corrections t.npz second.npz --run-dir"
    base = load_policy(RunFolder.open("first").best_checkpoint()).policy.state_dict()
    assert command(f"{line} whole").status == 0
    with interrupted(Correction, at=3):
        assert command(f"{line} resumed").status == 130
    shutil.rmtree(first)
    Path("second.npz").unlink()
    assert command("softflow-train --resume resumed").status == 0
    assert_same_run("whole", "resumed")
    policy = last_policy("resumed")
    assert policy.head[-1].weight.abs().max() > 0
    assert all(torch.equal(policy.base.state_dict()[name], tensor) for name, tensor in base.items())
    assert command("softflow-eval resumed --episodes 2").status == 0
    assert softflow.load("resumed").greedy({"observation": np.zeros((1, 3), np.float32)}).shape == (1, 4, 1)


def test_a_third_round_keeps_the_heads_of_both(first: Path, command: Any) -> None:
    for base, run in (("first", "second"), ("second", "third")):
        line = f"{CORRECT} --base {base} --corrections t.npz --run-dir {run}"
        assert command(f"{line} --steering.residual-bound 0.{len(run)}").status == 0
    policy = last_policy("third")
    assert [head["residual_bound"] for head in policy.heads] == [0.3, 0.6, 0.5]
    assert load_file("third/config.yaml").values["base_heads"] == policy.heads[:-1]


@pytest.mark.parametrize(
    ("base", "heads", "message"),
    [
        ("first", "{latent: false, residual_bound: 0.1}", "base first: the base's residual_bound is 0.3, expected 0.1"),
        ("run", "{latent: false}", "base run: its policy is of kind 'flow', expected 'steered'"),
        ("run", "{bound: 1}", "unexpected keyword argument 'bound'"),
        ("module:Base", "{latent: false}", "base_heads are those of the run that base names: give none"),
    ],
)
def test_heads_that_are_not_those_of_the_base(
    base: str, heads: str, message: str, first: Path, command: Any, demonstrations: Path, snapshot: Callable
) -> None:
    before = snapshot()
    algo = "rfs" if ":" in base else "correction --corrections t.npz"
    line = f"softflow-train --base {base} --algo {algo} --run-dir new --demos pendulum.npz --env Pendulum-v1"
    assert message in command(line, "--base-heads", heads).error()
    assert snapshot() == before


def test_all_weights_are_not_trained_on_a_steered_base(first: Path, command: Any) -> None:
    message = "hg_dagger starts from a policy of kind 'flow', not 'steered': give a run of imitation"
    assert message in command("softflow-train --algo hg_dagger --base first --corrections t.npz").error()
