"""The commands on a task that is seen: from demonstrations in a file to success."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from softflow.algos import SoftFlow
from softflow.data import load_demonstrations, save_demonstrations
from softflow.task import TaskSpec
from softflow.training.checkpoint import load_policy
from softflow.training.run_folder import RunFolder
from tests.cli.training_runs import interrupted
from tests.pictures import LAYOUT, Lamp, lamp_episodes
from tests.policies.guards import calibrated

TRAIN = "softflow-train --env tests/Lamp-v0 --demos lamp.npz --num-demos 24 --config small.yaml --run-dir run"


@pytest.fixture(autouse=True)
def lamp(command: Any) -> Iterator[None]:
    gymnasium.register("tests/Lamp-v0", entry_point=Lamp)
    save_demonstrations("lamp.npz", lamp_episodes(24))
    yield
    gymnasium.registry.pop("tests/Lamp-v0")


def test_imitation_sees(command: Any, measured: Any) -> None:
    with open("small.yaml", "w") as file:
        file.write("{num_envs: 2, eval_episodes: 2, threads: 1, horizon: 4, n_action_steps: 2, batch_size: 32}")
    sizes = "--flow-options.width 16 --encoder-options.width 8 --encoder-options.features 16"
    learning = "--imitation.updates 300 --ema-rate 0.05"
    result = command(f"{TRAIN} --algo imitation --flow gaussian {sizes} {learning}")
    assert result.status == 0, result
    evaluation = command("softflow-eval run --episodes 20 --json")
    assert measured(json.loads(evaluation.out)["success_rate"]) > 0.7
    policy = load_policy(RunFolder.open("run").last_checkpoint()).policy
    assert policy.encoder.layout == LAYOUT
    (image,) = LAYOUT.images
    demonstrated = np.concatenate([one.observation[:-1] for one in load_demonstrations("run/demonstrations.npz")])
    mean = demonstrated[:, LAYOUT.slices[image.name]].mean(0).reshape(image.shape) / 255
    np.testing.assert_allclose(policy.encoder.mean_picture.mean_0, mean, atol=1e-5)
    assert policy.describe()["encoder_options"] == {"features": 16, "width": 8}
    assert load_demonstrations("run/demonstrations.npz")[0].layout == LAYOUT
    calibrated().save("numbers")
    assert "use a guard of the same environment" in command("softflow-eval run --guard numbers").error()


def test_softflow_runs_and_steers_and_resumes(command: Any) -> None:
    small = "--encoder-options.width 4 --online.steps 40 --collect-steps 20 --replay-capacity 100"
    whole = command(f"{TRAIN} --algo softflow {small}")
    assert whole.status == 0, whole
    for stage in ("imitation", "critic_warmup", "offline", "online"):
        assert f"after {stage}" in whole.out
    with interrupted(SoftFlow, at=7):
        assert command(f"{TRAIN}2 --algo softflow {small}").status == 130
    assert command("softflow-train --resume run2").status == 0
    assert metrics("run2") == metrics("run")
    with open("steer.yaml", "w") as file:
        file.write("{num_envs: 2, eval_episodes: 2, batch_size: 8, critic_width: 8, base_rollouts: {steps: 8}}")
    steer = (
        "softflow-train --env tests/Lamp-v0 --demos lamp.npz --config steer.yaml --algo rfs --base run --run-dir rfs"
    )
    steered = command(f"{steer} --online.steps 16 --replay-capacity 100")
    assert steered.status == 0, steered


def metrics(run: str) -> list[str]:
    return [line for line in Path(run, "metrics.csv").read_text().splitlines() if "time/" not in line]


def test_what_does_not_fit_is_refused(command: Any, snapshot: Any) -> None:
    before = snapshot()
    refusals = {
        "--env Pendulum-v1": r"hold camera uint8\[16, 16, 3\], joint float32\[2\], expected numbers alone",
        "--encoder con": "unknown encoder 'con': did you mean 'conv'",
        "--encoder resnet18": "encoder 'resnet18' needs its weights: give --encoder-options.weights FILE",
        "--encoder resnet18 --encoder-options.weights ''": "weights is empty: give --encoder-options.weights FILE",
        "--encoder-options.wide 3": "encoder 'conv' has no option 'wide'",
    }
    for flags, message in refusals.items():
        assert re.search(message, command(f"{TRAIN} {flags}").error()), flags
    assert snapshot() == before
    own_episodes = "--replay-capacity 100000000000 --online.steps 100000000000"
    assert re.search(
        r"replay_capacity 100,000,000,000: 100,000,000,000 steps of own episodes take [\d,.]+ GB, and there are "
        r"[\d,.]+ GB of memory: set replay_capacity lower, or --replay-storage disk",
        command(f"{TRAIN} {own_episodes}").error(),
    )
    assert "set replay_capacity lower" in command(f"{TRAIN} --replay-capacity 1000000000000").error()


def test_a_method_that_does_not_act_needs_no_room_for_own_episodes(command: Any) -> None:
    """Neither does one that acts for fewer steps than the replay could hold."""
    with open("small.yaml", "w") as file:
        file.write("{num_envs: 2, eval_episodes: 0, threads: 1, horizon: 4, n_action_steps: 2, batch_size: 8}")
    few = "--imitation.updates 2 --warmup.updates 1 --offline.updates 0 --online.steps 4 --encoder-options.width 4"
    capacity = "--replay-capacity 100000000"  # 78 GB
    assert command(f"{TRAIN} --algo softflow {few} {capacity}").status == 0
    save_demonstrations("lamp.npz", lamp_episodes(24), TaskSpec.from_env(gymnasium.make("tests/Lamp-v0")))
    nothing_acts = f"{TRAIN}2 --env none --algo imitation --flow gaussian --imitation.updates 2 {capacity}"
    result = command(nothing_acts)
    assert result.status == 0, result
