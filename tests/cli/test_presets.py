"""Every preset of an algorithm goes through all its stages, and the small ones are small for each of them."""

from __future__ import annotations

from dataclasses import MISSING
from pathlib import Path
from typing import Any

import pytest

from softflow.cli.command_line import parse_command_line
from softflow.policies import FlowPolicy, OneStepPolicy
from softflow.runs.assembly import make_algorithm
from softflow.runs.config import config_class, read_config
from softflow.settings.fields import dotted_fields, keys_of
from softflow.settings.presets import Selection, available_presets
from softflow.settings.typed import load_file
from softflow.training.checkpoint import load_policy
from softflow.training.run_folder import RunFolder
from tests.cli.training_runs import stages_of

ROOT = Path(__file__).parents[2]
every_preset = pytest.mark.parametrize("algo", available_presets("algos"))

SMALL = {"updates": 2, "steps": 120, "updates_per_step": 0.02, "batch_size": 8, "critic_width": 8}
"""Values of a setting, wherever an algorithm has one of this name."""
REQUIRED = {"base": "run", "corrections": "t.npz"}
"""Values of what an algorithm does not go without, the fixtures of these names."""
RUN = (
    "--num-envs 2 --num-demos 4 --eval-episodes 2 --collect-steps 60 --threads 1 --flow-options.width 8 "
    "--env-options.max_episode_steps 50"
)
"""Episodes end within the online stages, so that these make updates."""


def required_flags(algo: str) -> str:
    missing = [name for name, key in keys_of(config_class(Selection(algo=algo))).items() if key.default is MISSING]
    return " ".join(f"--{name} {REQUIRED[name]}" for name in missing)


def small_flags(algo: str) -> str:
    keys = [key for key, _ in dotted_fields(config_class(Selection(algo=algo)))]
    if algo == "takeover_rl":
        keys.remove("online.steps")  # it must be 0
    return " ".join(f"--{key} {SMALL[name]}" for key in keys if (name := key.rpartition(".")[2]) in SMALL)


def train(command: Any, algo: str, demonstrations: Path) -> Any:
    line = f"softflow-train --algo {algo} --env Pendulum-v1 --run-dir trained --demos {demonstrations}"
    result = command(f"{line} {RUN} {small_flags(algo)} {required_flags(algo)}")
    assert result.status == 0, result
    return load_policy(RunFolder.open("trained").last_checkpoint())


@every_preset
def test_it_trains(algo: str, command: Any, demonstrations: Path, small_run: Path, takeovers: Path) -> None:
    train(command, algo, demonstrations)
    stages = make_algorithm(read_config("trained/config.yaml"), 3, 1).schedule()
    assert stages and stages_of("trained") == [stage.name for stage in stages]
    assert command("softflow-eval trained --episodes 2").status == 0
    assert command("softflow-export trained --format torchscript --out policy.pt").status == 0


@every_preset
@pytest.mark.parametrize(
    ("preset", "env", "updates"), [("quick", "tape_cut", 1_000), ("diagnostic", "two_routes", 5_000)]
)
def test_the_small_presets_are_small(preset: str, env: str, updates: int, algo: str) -> None:
    selection = Selection(algo=algo, env=env, preset=preset)
    argv = ["--algo", algo, "--env", env, "--preset", preset, *required_flags(algo).split()]
    config = parse_command_line(config_class(selection), argv, prog="train", description="")
    stages = make_algorithm(config, 3, 2).schedule()
    assert sum(stage.updates + stage.environment_steps * stage.updates_per_step for stage in stages) <= updates
    assert sum(stage.environment_steps for stage in stages) <= 10_000


@every_preset
def test_the_documentation_has_it(algo: str) -> None:
    text = (ROOT / "docs" / "explanation" / "baselines.md").read_text(encoding="utf-8")
    assert f"| `{algo}` |" in text


def test_imitation_is_one_stage(command: Any, demonstrations: Path) -> None:
    deployed = train(command, "imitation", demonstrations)
    assert isinstance(deployed.policy, FlowPolicy) and deployed.critic is None
    schedule = make_algorithm(read_config("trained/config.yaml"), 3, 1).schedule()
    assert [stage.name for stage in schedule] == ["imitation"]


def test_q_chunking_chooses_in_its_target_as_it_acts(command: Any, demonstrations: Path) -> None:
    deployed, settings = train(command, "q_chunking", demonstrations), load_file("trained/config.yaml").values
    assert deployed.policy.flow_name == "flow_matching"
    assert deployed.candidates == settings["candidates"] == settings["target_candidates"] > 1
    for stage in ("offline", "online"):  # imitation, the critic only chooses
        weights = [settings[stage][name] for name in ("q_weight", "kl_weight", "nll_weight", "advantage_scale")]
        assert weights == [0, 0, 1, None]


def test_flow_q_learning_leaves_a_one_step_policy(command: Any, demonstrations: Path) -> None:
    deployed = train(command, "flow_q_learning", demonstrations)
    assert isinstance(deployed.policy, OneStepPolicy) and deployed.policy.flow_name == "flow_matching"


def test_flow_q_learning_refuses_a_network_of_no_width(command: Any, demonstrations: Path) -> None:
    line = f"softflow-train --algo flow_q_learning --env Pendulum-v1 --demos {demonstrations} --one-step.width 0"
    assert "algorithm 'flow_q_learning': width: expected an integer >= 1, got 0" in command(line).error()
