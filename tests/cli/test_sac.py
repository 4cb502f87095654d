"""softflow-train --algo sac_prior_data."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from softflow.algos import SAC
from softflow.data import load_demonstrations, save_demonstrations
from softflow.settings.typed import load_file
from softflow.training.checkpoint import load_policy
from softflow.training.run_folder import RunFolder
from tests.cli.training_runs import interrupted, stages_of

SMALL = """\
num_envs: 2
num_demos: 4
eval_episodes: 2
eval_every: 400
collect_steps: 400
threads: 1
batch_size: 16
critic_width: 8
critic_members: 3
flow_options: {width: 8}
online: {steps: 800, updates_per_step: 0.01, critic_updates: 2}
"""
TRAIN = "softflow-train --algo sac_prior_data --env Pendulum-v1 --demos pendulum.npz --config sac.yaml --run-dir"


@pytest.fixture(autouse=True)
def bounded(tmp_path: Path, demonstrations: Path) -> None:
    """Demonstrations with an action at its bound, where a tanh-Gaussian has no density."""
    (tmp_path / "sac.yaml").write_text(SMALL)
    first, *others = load_demonstrations(demonstrations)
    action = first.action.copy()
    action[7, 0] = 1.0
    save_demonstrations(demonstrations, [replace(first, action=action), *others])


def test_the_preset_trains_without_imitation(command: Any) -> None:
    result = command(f"{TRAIN} run")
    assert result.status == 0, result
    assert stages_of("run") == ["online"]
    settings = load_file("run/config.yaml").values
    assert (settings["flow"], settings["horizon"], settings["n_action_steps"]) == ("tanh_gaussian", 1, 1)
    assert command("softflow-eval run --episodes 2").status == 0
    assert command("softflow-export run --format torchscript --out policy.pt").status == 0


def test_chunks_are_another_flag(command: Any) -> None:
    assert command(f"{TRAIN} run --horizon 4 --n-action-steps 4").status == 0
    policy = load_policy(RunFolder.open("run").last_checkpoint())
    assert policy.critic is not None and (policy.n_action_steps, policy.critic.horizon) == (4, 4)
    assert "n_action_steps (1) and critic_horizon must be horizon = 4" in command(f"{TRAIN} other --horizon 4").error()


def test_imitation_needs_a_density(command: Any) -> None:
    error = command(f"{TRAIN} run --imitation.updates 3").error()
    assert "flow 'tanh_gaussian' cannot imitate these demonstrations" in error
    options = "--flow gaussian --flow-options.bounds atanh --imitation.updates 3"
    assert command(f"{TRAIN} run {options}").status == 0
    assert stages_of("run") == ["imitation", "online"]


def test_the_quick_preset_imitates_nothing(command: Any) -> None:
    result = command(f"{TRAIN} run --preset quick")
    assert result.status == 0, result
    assert stages_of("run") == ["online"]


def test_a_crashed_run_is_resumed_to_the_bit(command: Any) -> None:
    """Pendulum's episodes have 200 steps: at the checkpoint, after 400, none is unfinished."""
    assert command(f"{TRAIN} whole").status == 0
    with interrupted(SAC, at=7, by=RuntimeError("power cut")):  # four updates after 400 steps
        with pytest.raises(RuntimeError, match="power cut"):
            command(f"{TRAIN} run")
    assert RunFolder.open("run").last_checkpoint().name == "4"
    assert command("softflow-train --resume run").status == 0
    whole, resumed = (RunFolder.open(name).last_checkpoint() / "policy.safetensors" for name in ("whole", "run"))
    assert whole.parent.name == resumed.parent.name == "8"
    assert whole.read_bytes() == resumed.read_bytes()
