"""softflow-export: the file answers as the policy's greedy choice does, and what it refuses."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from flows.export import load_exported, read_metadata
from softflow.policies import Policy
from softflow.runs import exporting
from softflow.runs.assembly import load_run
from softflow.task import ActionPart, ObservationPart, TaskSpec
from softflow.training.checkpoint import load_policy, save_policy
from softflow.training.run_folder import RunFolder
from tests.cli.conftest import SAYS_BEST

PENDULUM = TaskSpec(
    (ObservationPart("angle", (2,), "float64"), ObservationPart("speed", ())), (ActionPart("torque", (-2.0,), (6.0,)),)
)


@pytest.mark.parametrize("format", ["onnx", "torchscript", "torch_export"])
def test_the_file_is_the_greedy_policy(format: str, small_run: Path, command: Any) -> None:
    known(None)
    result = command(f"softflow-export run --format {format} --out policy.file")
    assert result.status == 0 and result.err == SAYS_BEST
    first, second = result.out.splitlines()
    assert first == "policy.file: observation (B, 3) -> chunk (B, 4, 1), of which 2 actions are executed"
    text, _, difference = second.partition(": ")
    assert text == "largest difference from the policy on 64 observations" and float(difference) <= 1e-5
    policy = load_policy(RunFolder.open("run").best_checkpoint()).policy
    run = load_exported("policy.file", format, trusted=True)
    for rows, scale in ((1, 1.0), (7, 1.0), (7, 100.0)):  # beyond the normaliser's clip too
        observation = scale * torch.randn(rows, 3)
        torch.testing.assert_close(run(observation), policy.greedy(observation), rtol=0, atol=1e-5)


def test_names_and_units_are_those_of_the_task(small_run: Path, command: Any) -> None:
    known(PENDULUM)
    result = command("softflow-export run --format torchscript --out policy.pt")
    assert result.status == 0 and result.err == SAYS_BEST
    assert result.out.startswith(
        "policy.pt: angle (B, 2), speed (B) -> chunk (B, 4, 1), of which 2 actions are executed\n"
    )
    observation = {"angle": torch.randn(5, 2).double(), "speed": torch.randn(5)}
    expected = Policy(load_policy(RunFolder.open("run").best_checkpoint())).greedy(observation)
    exported = load_exported("policy.pt", "torchscript", trusted=True)(observation)
    torch.testing.assert_close(exported, expected, rtol=0, atol=1e-5)
    assert json.loads(read_metadata("policy.pt", "torchscript")["softflow"])["task"] == PENDULUM.describe()


def test_the_box_is_kept(small_run: Path, command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    known(PENDULUM)
    checkpoint = RunFolder.open("run").best_checkpoint()
    loaded, config = load_run(str(checkpoint))
    loaded.policy.policy.flow.base.mean.bias += 30.0
    monkeypatch.setattr(exporting, "load_run", lambda run: (loaded, config))
    assert command(f"softflow-export {checkpoint} --format torchscript --out policy.pt").status == 0
    observation = {"angle": torch.zeros(2, 2).double(), "speed": torch.zeros(2)}
    assert load_exported("policy.pt", "torchscript", trusted=True)(observation).eq(6).all()


def known(task: TaskSpec | None) -> None:
    """Give the run's policy this task."""
    checkpoint = RunFolder.open("run").best_checkpoint()
    deployed = load_policy(checkpoint)
    deployed.task = task
    save_policy(checkpoint, deployed)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("nowhere --format onnx --out policy.onnx", "nowhere: no such run folder"),
        ("run --format onnx --out small.yaml", "small.yaml exists; choose another --out"),
        ("run --format onnx --out nowhere/policy.onnx", "nowhere is no folder"),
        ("run --format caffe --out policy.file", "caffe"),
        ("run --out policy.file", "--format"),
        ("run --format onnx", "--out"),
    ],
)
def test_bad_input_is_refused(
    arguments: str, message: str, small_run: Path, command: Any, snapshot: Callable[[], dict]
) -> None:
    before = snapshot()
    assert message in command(f"softflow-export {arguments}").error()
    assert snapshot() == before


def test_onnx_needs_its_extra(small_run: Path, command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    error = command("softflow-export run --format onnx --out policy.onnx").error()
    assert "pip install 'softflow[onnx]'" in error
    assert not Path("policy.onnx").exists()


def test_help_says_what_is_not_exported(command: Any) -> None:
    assert "By default, softflow-eval runs another choice" in " ".join(command("softflow-export --help").out.split())
