"""softflow-train with the presets that steer a frozen policy, and --base."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from softflow.algos import RfsPpo, Steering
from softflow.data import load_demonstrations, save_demonstrations
from softflow.policies import FlowPolicy, SteeredPolicy
from softflow.settings.typed import load_file
from softflow.training.checkpoint import load_policy
from softflow.training.run_folder import RunFolder
from tests.cli.training_runs import interrupted, stages_of

STEER = "softflow-train --env Pendulum-v1 --config steer.yaml --run-dir steered"
STAGES = ["imitation", "base_rollouts", "online"]
SMALL = """\
num_envs: 2
num_demos: 4
eval_episodes: 2
eval_every: 200
collect_steps: 100
threads: 1
n_action_steps: 2
batch_size: 16
critic_width: 8
imitation: {updates: 4}
base_rollouts: {steps: 420, updates_per_step: 0.01}
online: {steps: 420, updates_per_step: 0.01}
"""
UNTRIED = "--trials.no-enabled"  # the head deploys, however little own episodes have shown
SIZES = "--horizon 4 --flow-options.width 8 --flow-options.depth 1 --flow-options.steps 2"


@pytest.fixture(autouse=True)
def small(tmp_path: Path) -> None:
    (tmp_path / "steer.yaml").write_text(SMALL)


def last_policy(run: str) -> SteeredPolicy | FlowPolicy:
    policy = load_policy(RunFolder.open(run).last_checkpoint()).policy
    assert isinstance(policy, SteeredPolicy | FlowPolicy)
    return policy


@pytest.mark.parametrize(
    ("algo", "latent", "residual"),
    [("rfs", True, True), ("latent_steering", True, False), ("residual", False, True)],
)
def test_each_preset_trains(algo: str, latent: bool, residual: bool, command: Any, demonstrations: Path) -> None:
    result = command(f"{STEER} --algo {algo} --demos {demonstrations} {SIZES} {UNTRIED}")
    assert result.status == 0, result
    assert stages_of("steered") == STAGES
    policy = last_policy("steered")
    assert isinstance(policy, SteeredPolicy) and policy.flow_name == "flow_matching"
    assert (policy.options["latent"], policy.options["residual"]) == (latent, residual)
    assert policy.head[-1].weight.abs().max() > 0
    evaluated = command("softflow-eval steered --episodes 2 --json")
    assert evaluated.status == 0 and json.loads(evaluated.out)["episodes"] == 2
    assert command("softflow-export steered --format torchscript --out policy.pt").status == 0


@pytest.mark.parametrize("algo", ["rfs", "latent_steering", "residual"])
def test_the_base_deploys_until_own_episodes_prefer_a_head(algo: str, command: Any, demonstrations: Path) -> None:
    assert command(f"{STEER} --algo {algo} --demos {demonstrations} {SIZES}").status == 0
    policy = last_policy("steered")
    assert isinstance(policy, SteeredPolicy) and not policy.head[-1].weight.any() and not policy.head[-1].bias.any()
    with open("steered/metrics.csv", newline="") as file:
        names = {row["name"] for row in csv.DictReader(file)}
    assert {"trial/champion", "trial/challenger", "trial/deploys_best_of"} <= names


def test_the_on_policy_preset_trains_and_is_resumed(small_run: Path, command: Any, demonstrations: Path) -> None:
    line = f"{STEER} --algo rfs_ppo --demos {demonstrations} --base run".replace("steer.yaml", "ppo.yaml")
    steps = "online: {steps: 820}\ncollect_steps: 400\n"  # each environment ends an episode, of 200 steps, in a bout
    unwanted = ("base_rollouts", "online", "critic_width", "collect_steps")
    Path("ppo.yaml").write_text("".join(s for s in SMALL.splitlines(True) if not s.startswith(unwanted)) + steps)
    with interrupted(RfsPpo, at=60):
        assert command(line).status == 130
    base = last_policy("run").state_dict()
    shutil.rmtree("run")
    assert command("softflow-train --resume steered").status == 0
    assert stages_of("steered") == ["online"]
    with open("steered/metrics.csv", newline="") as file:
        names = {row["name"] for row in csv.DictReader(file)}
    assert {"train/value_loss", "ppo/ratio_clipped", "ppo/approx_kl", "steering/residual_rms"} <= names
    steered = last_policy("steered")
    assert isinstance(steered, SteeredPolicy) and steered.head[-1].weight.abs().max() > 0
    assert all(torch.equal(tensor, steered.base.state_dict()[name]) for name, tensor in base.items())
    assert command("softflow-eval steered --episodes 2").status == 0


def test_a_normalizing_flow_is_steered_as_well(command: Any, demonstrations: Path) -> None:
    sizes = "--horizon 4 --flow coupling --flow-options.width 8 --flow-options.layers 2 --flow-options.components 2"
    head = "--steering.latent-shape chunk --steering.residual-shape chunk --steering.deterministic"
    result = command(f"{STEER} --algo rfs --demos {demonstrations} {sizes} {head}")
    assert result.status == 0, result
    policy = last_policy("steered")
    assert policy.flow_name == "coupling" and policy.head[-1].out_features == 2


def test_a_trained_run_is_steered_and_needed_no_more(small_run: Path, command: Any, demonstrations: Path) -> None:
    base = last_policy("run")
    result = command(f"{STEER} --algo rfs --demos {demonstrations} --base run")
    assert result.status == 0, result
    settings = load_file("steered/config.yaml").values
    assert (settings["base"], settings["flow"], settings["horizon"]) == ("run", "coupling", 4)
    assert settings["flow_options"] == {"layers": 2, "width": 8, "components": 2}
    assert stages_of("steered") == STAGES[1:]
    shutil.rmtree("run")
    steered = last_policy("steered")
    assert isinstance(steered, SteeredPolicy)
    for name, tensor in base.state_dict().items():
        assert torch.equal(steered.base.state_dict()[name], tensor), name
    assert command("softflow-train --resume steered").status == 0
    assert command("softflow-eval steered --episodes 2").status == 0


def test_an_interrupted_run_goes_on_without_the_base(small_run: Path, command: Any, demonstrations: Path) -> None:
    with interrupted(Steering, at=6):
        assert command(f"{STEER} --algo rfs --demos {demonstrations} --base run").status == 130
    base = last_policy("run").state_dict()
    shutil.rmtree("run")
    assert command("softflow-train --resume steered").status == 0
    steered = last_policy("steered")
    assert isinstance(steered, SteeredPolicy) and stages_of("steered") == STAGES[1:]
    assert all(torch.equal(tensor, steered.base.state_dict()[name]) for name, tensor in base.items())


def test_an_interrupted_imitation_is_resumed_to_the_bit(command: Any, demonstrations: Path) -> None:
    line = f"{STEER} --algo rfs --demos {demonstrations} {SIZES} --base-rollouts.steps 0 --online.steps 0"
    assert command(line.replace("run-dir steered", "run-dir whole")).status == 0
    with interrupted(Steering, at=3):
        assert command(line).status == 130
    assert command("softflow-train --resume steered").status == 0
    assert Path("steered/metrics.csv").read_bytes() == Path("whole/metrics.csv").read_bytes()
    assert all(
        torch.equal(first, second)
        for first, second in zip(
            last_policy("steered").state_dict().values(), last_policy("whole").state_dict().values(), strict=True
        )
    )


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--algo rfs --base nowhere", "nowhere: no such run folder"),
        (
            "--algo rfs --base run --flow flow_matching",
            "base run: its flow is 'coupling', not 'flow_matching': give no flow",
        ),
        ("--algo rfs --base run --horizon 8", "base run: the base's horizon is 4, expected 8"),
        ("--algo rfs --base run --flow-options.width 16", "base run: the base's flow_options is"),
        ("--algo rfs --base run --n-action-steps 5", "n_action_steps must be in 1 ... horizon = 4, got 5"),
        ("--algo rfs --steering.no-latent --steering.no-residual", "nothing to steer with"),
        ("--algo rfs --steering.latent-shape steps", "latent-shape"),
        ("--algo rfs --steering.residual-bound 0", "residual_bound: expected a number > 0, got 0.0"),
    ],
)
def test_bad_input_is_refused(
    flags: str, message: str, small_run: Path, command: Any, demonstrations: Path, snapshot: Callable[[], dict]
) -> None:
    before = snapshot()
    assert message in command(f"{STEER} --demos {demonstrations} {flags}").error()
    assert snapshot() == before


def test_a_base_of_other_dimensions_is_refused(small_run: Path, command: Any, demonstrations: Path) -> None:
    """The base was trained on Pendulum, with three numbers in an observation; here there are two."""
    command_line = f"{STEER} --algo rfs --demos narrow.npz --base run".replace(
        "Pendulum-v1", "MountainCarContinuous-v0"
    )
    narrow = [
        type(e)(e.observation[:, :2], e.action, e.reward, e.terminated, e.truncated, e.is_success)
        for e in load_demonstrations(demonstrations)
    ]
    save_demonstrations("narrow.npz", narrow)
    assert "base run: the base's observation_dim is 3, expected 2" in command(command_line).error()


def test_a_steered_run_is_steered_again(command: Any, demonstrations: Path) -> None:
    """By every method that steers; one that trains all weights refuses it."""
    line = f"{STEER} --algo rfs --demos {demonstrations} --online.steps 0 --base-rollouts.steps 0"
    assert command(f"{line} {SIZES}").status == 0
    base = last_policy("steered").state_dict()
    for algo in ("residual", "latent_steering"):
        again = f"{line} --algo {algo} --base steered".replace("run-dir steered", f"run-dir {algo}")
        assert command(again).status == 0
        steered = last_policy(algo)
        assert isinstance(steered, SteeredPolicy)
        assert all(torch.equal(steered.base.state_dict()[name], tensor) for name, tensor in base.items())
    again = f"softflow-train --env Pendulum-v1 --algo softflow --demos {demonstrations} --base steered"
    message = "softflow starts from a policy of kind 'flow', not 'steered': give a run of imitation,"
    assert message in command(again).error()
