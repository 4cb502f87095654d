"""softflow-train --base with a policy of another project."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from softflow.algos import Steering
from softflow.policies import ForeignPolicy, SteeredPolicy
from softflow.task.spec import TaskMismatch
from softflow.training.checkpoint import load_policy
from softflow.training.run_folder import RunFolder
from tests.cli import foreign_policies
from tests.cli.test_steer import SMALL
from tests.cli.training_runs import interrupted, stages_of

TRAIN = "softflow-train --env Pendulum-v1 --config steer.yaml --horizon 4 --run-dir steered"
MODULE = "foreign_policies_copy"
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def small(tmp_path: Path) -> None:
    (tmp_path / "steer.yaml").write_text(SMALL)


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of `foreign_policies` that a test may change."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, MODULE, raising=False)
    return Path(shutil.copy(foreign_policies.__file__, tmp_path / f"{MODULE}.py"))


class WithNames(nn.Module):
    """A policy with the names of an ONNX file."""

    def __init__(self, policy: nn.Module) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, observation: Tensor, noise: Tensor | None = None) -> Tensor:
        named = {"observation": observation}
        return self.policy(named) if noise is None else self.policy(named, noise)


def write_onnx(policy: nn.Module, path: Path, noise: Tensor | None = None) -> None:
    inputs = {"observation": torch.zeros(2, 3)} | ({} if noise is None else {"noise": noise})
    batch = {0: torch.export.Dim("batch")}
    torch.onnx.export(
        WithNames(policy).eval(),
        (),
        path,
        kwargs=inputs,
        input_names=list(inputs),
        output_names=["chunk"],
        dynamic_shapes={**dict.fromkeys(inputs, batch), **({"noise": None} if noise is None else {})},
        dynamo=True,
        external_data=False,
        verbose=False,
    )


def last_policy() -> tuple[SteeredPolicy, ForeignPolicy]:
    policy = load_policy(RunFolder.open("steered").last_checkpoint()).policy
    assert isinstance(policy, SteeredPolicy) and isinstance(policy.base, ForeignPolicy)
    return policy, policy.base


@pytest.mark.parametrize(
    ("algo", "base"),
    [
        ("residual", "Plain"),
        ("residual", "still"),
        ("residual", "Detached"),
        ("rfs", "Noisy"),
        ("latent_steering", "Noisy"),
    ],
)
def test_a_policy_of_another_project_is_steered(algo: str, base: str, command: Any, demonstrations: Path) -> None:
    result = command(f"{TRAIN} --algo {algo} --base {MODULE}:{base} --demos {demonstrations} --trials.no-enabled")
    assert result.status == 0, result
    assert stages_of("steered") == ["base_rollouts", "online"]
    steered, foreign = last_policy()
    assert steered.head[-1].weight.abs().max() > 0
    assert foreign.action_scale.isfinite().all() and not [*foreign.parameters()]
    evaluated = command("softflow-eval steered --episodes 2 --json")
    assert evaluated.status == 0 and json.loads(evaluated.out)["episodes"] == 2


def test_an_unsteered_head_acts_as_the_base_in_its_own_units(command: Any, demonstrations: Path) -> None:
    """The base returns 2 * 0.5 of a torque in -2 ... 2, which is 0.5 in -1 ... 1."""
    short = "--base-rollouts.steps 0 --online.steps 0 --base-options.weight 1.0"
    line = f"{TRAIN} --algo residual --base {MODULE}:Plain --demos {demonstrations} {short}"
    assert command(line.replace("online.steps 0", "online.steps 100")).status == 0
    steered, foreign = last_policy()
    nn.init.zeros_(steered.head[-1].weight)
    nn.init.zeros_(steered.head[-1].bias)
    observation = torch.tensor([[0.25, 0.25, 0.5], [3.0, 3.0, 3.0]])
    expected = torch.tensor([0.5, 1.0])[:, None, None].expand(2, 4, 1)  # the second is clipped
    assert torch.equal(foreign.greedy(observation), expected)
    assert torch.equal(steered.greedy(observation), expected)
    assert torch.equal(steered.propose(observation, n=3), expected[:, None].expand(2, 3, 4, 1))


@pytest.mark.parametrize("algo", ["residual", "rfs_ppo"])
def test_an_onnx_file_is_steered(algo: str, command: Any, demonstrations: Path) -> None:
    write_onnx(foreign_policies.Noisy(), Path("base.onnx"), torch.zeros(2, 5))
    unwanted = ("base_rollouts", "critic_width") if algo == "rfs_ppo" else ()
    text = SMALL.replace(", updates_per_step: 0.01}", "}") if algo == "rfs_ppo" else SMALL
    Path("steer.yaml").write_text("".join(line for line in text.splitlines(True) if not line.startswith(unwanted)))
    shape = "--steering.latent-shape step"
    result = command(f"{TRAIN} --algo {algo} --base base.onnx --demos {demonstrations} {shape}")
    assert result.status == 0, result
    _, foreign = last_policy()
    observation, noise = torch.randn(3, 3), torch.randn(3, 5)
    expected = foreign_policies.Noisy()({"observation": observation}, noise) / 2
    torch.testing.assert_close(foreign.decode(observation, noise), expected.clamp(-1, 1), atol=1e-6, rtol=0)
    Path("base.onnx").unlink()
    assert "base base.onnx: no such file" in command("softflow-eval steered --episodes 2").error()


def test_an_exported_run_is_steered(small_run: Path, command: Any, demonstrations: Path) -> None:
    assert command("softflow-export run --format onnx --out base.onnx").status == 0
    result = command(f"{TRAIN} --algo residual --base base.onnx --demos {demonstrations}")
    assert result.status == 0, result
    _, foreign = last_policy()
    assert foreign.task is not None
    other = replace(foreign.task, observation=(replace(foreign.task.observation[0], name="state"),))
    with pytest.raises(TaskMismatch, match="'state' is missing; observation 'observation' is not expected"):
        foreign.require_task(other)


def test_an_interrupted_run_goes_on_only_with_the_same_base(
    module: Path, command: Any, demonstrations: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with interrupted(Steering, at=6):
        assert command(f"{TRAIN} --algo residual --base {MODULE}:Plain --demos {demonstrations}").status == 130
    text = module.read_text()
    module.write_text(text.replace("weight: float = 0.5", "weight: float = 0.6"))
    monkeypatch.delitem(sys.modules, MODULE)
    for refused in ("softflow-train --resume steered", "softflow-eval steered --episodes 2"):
        assert f"base {MODULE}:Plain has changed: its SHA-256 is" in command(refused).error()
    module.write_text(text)
    monkeypatch.delitem(sys.modules, MODULE)
    assert command("softflow-train --resume steered").status == 0


def test_a_base_that_changes_while_it_acts_ends_the_run(command: Any, demonstrations: Path) -> None:
    result = command(f"{TRAIN} --algo residual --base {MODULE}:Counting --demos {demonstrations}")
    assert result.status == 2 and f"error: base {MODULE}:Counting has changed" in result.err.splitlines()[-1]


def test_the_example_of_the_documentation(command: Any, tmp_path: Path) -> None:
    section = (ROOT / "docs/how-to/steering.md").read_text().split("## Any other base\n")[1].split("\n## ")[0]
    program = re.search(r"```python\n(.*?)```", section, re.S)
    assert program is not None
    (tmp_path / "controller.py").write_text(program[1])
    train, evaluate = re.findall(r"^\$ (softflow-.*)$", section, re.M)
    short = (
        "--num-demos 4 --eval-episodes 2 --base-rollouts.steps 200 --online.steps 200 --online.updates-per-step 0.02"
    )
    result = command(f"{train} {short}")
    assert result.status == 0 and "base controller:drive: frozen" in result.out, result
    assert command(evaluate.replace("50", "2")).status == 0


def test_an_export_is_refused(command: Any, demonstrations: Path) -> None:
    line = f"{TRAIN} --algo residual --base {MODULE}:Plain --demos {demonstrations} --online.steps 100"
    assert command(f"{line} --base-rollouts.steps 0").status == 0
    refused = command("softflow-export steered --format torchscript --out policy.pt").error()
    assert f"base {MODULE}:Plain is the policy of another project, which cannot be exported" in refused
    assert not Path("policy.pt").exists()
    assert "a guard needs the density" in command(f"softflow-guard steered --demos {demonstrations} --out g").error()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("residual --base nowhere_to_be_found:Plain", "cannot import 'nowhere_to_be_found'"),
        (f"residual --base {MODULE}:Plan", "its module has no 'Plan': did you mean 'Plain'?"),
        (f"residual --base {MODULE}:CONSTANT", "is int: name a class or a function"),
        (f"residual --base {MODULE}:Plain --base-options.wait 1", "unexpected keyword argument 'wait'"),
        (f"residual --base {MODULE}:still --base-options.weight 1", "is a function, which takes no base_options"),
        (f"residual --base {MODULE}:Undeclared", "has no noise_shape, so it must take an observation alone"),
        (
            f"residual --base {MODULE}:Failing",
            f"error: base {MODULE}:Failing failed (foreign_policies_copy.py:",
        ),
        (f"residual --base {MODULE}:NotANumber", "returned chunks with numbers that are not finite"),
        (f"residual --base {MODULE}:Random", "returned two chunks for one observation and one noise"),
        (
            f"residual --base {MODULE}:Plain --base-options.horizon 6",
            "returned chunks (2, 6, 1), expected (2, 4, 1): set horizon to 6",
        ),
        (f"rfs --base {MODULE}:Plain", "the base has no latent, so that only a residual can steer it"),
        (f"rfs --base {MODULE}:Detached", "has no gradient from the noise to the chunk"),
        (f"rfs --base {MODULE}:Noisy --steering.latent-shape chunk", "has no steps to share: give 'step'"),
        (f"rfs --base {MODULE}:Noisy --flow coupling", "is no flow: give no flow"),
        (f"softflow --base {MODULE}:Noisy", "cannot start from the policy of another project"),
        (f"imitation --base {MODULE}:Noisy", f"base {MODULE}:Noisy: imitation cannot start from the policy of another"),
        ("residual --base missing.onnx", "base missing.onnx: no such file"),
        ("residual --base steer.onnx", "cannot be read as ONNX"),
        ("residual --base-options.weight 1", "base_options are the arguments of a base"),
    ],
)
def test_bad_input_is_refused(
    flags: str, message: str, command: Any, demonstrations: Path, snapshot: Callable[[], dict]
) -> None:
    Path("steer.onnx").write_text(SMALL)
    before = snapshot()
    assert message in command(f"{TRAIN} --demos {demonstrations} --algo {flags}").error()
    after = {name: content for name, content in snapshot().items() if "__pycache__" not in name}
    assert after == before


def test_what_steers_it_is_not_steered_again(command: Any, demonstrations: Path) -> None:
    short = f"--demos {demonstrations} --base-rollouts.steps 0 --online.steps 100"
    assert command(f"{TRAIN} --algo residual --base {MODULE}:Plain {short}").status == 0
    again = f"{TRAIN} --algo residual --base steered {short}".replace("run-dir steered", "run-dir again")
    message = "base steered: it steers the policy of another project, and cannot be steered again: give --base"
    assert f"{message} {MODULE}:Plain" in command(again).error()


def test_a_base_that_is_not_there_is_refused_before_demonstrations_are_recorded(command: Any) -> None:
    result = command("softflow-train --env peg_insertion --num-demos 2 --algo residual --base nowhere:Plain")
    assert "cannot import 'nowhere'" in result.error() and "demonstrations" not in result.out
