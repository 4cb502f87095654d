"""The commands with a frozen encoder: each frame is encoded once, and everything goes on as with learnt ones."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from softflow.algos import SoftFlow
from softflow.data import save_demonstrations
from softflow.policies.pixel_encoder import PixelEncoder
from softflow.policies.pretrained import import_timm
from softflow.training.checkpoint import load_policy
from softflow.training.run_folder import RunFolder
from tests.cli.training_runs import interrupted
from tests.pictures import Lamp, lamp_episodes

NAME = "test_efficientnet"
ENCODER = f"--encoder {NAME} --encoder-options.weights small.safetensors --encoder-options.size 64"
TRAIN = f"softflow-train --env tests/Lamp-v0 --demos lamp.npz --num-demos 12 --config small.yaml {ENCODER}"
DISTINCT = len({episode.observation.tobytes() for episode in lamp_episodes(12)})
"""Number of different demonstrations; equal ones share their features."""
LEARNING = (
    "--algo softflow --flow gaussian --warmup.updates 3 --offline.updates 3 --online.steps 40 --collect-steps 20 "
    "--critic-width 8 --replay-capacity 100"
)


@pytest.fixture(autouse=True)
def lamp(command: Any) -> Iterator[None]:
    gymnasium.register("tests/Lamp-v0", entry_point=Lamp)
    save_demonstrations("lamp.npz", lamp_episodes(12))
    torch.manual_seed(0)
    save_file(import_timm(NAME).create_model(NAME).state_dict(), "small.safetensors")
    Path("small.yaml").write_text(
        "{num_envs: 2, eval_episodes: 2, threads: 1, horizon: 4, n_action_steps: 2, batch_size: 8,"
        " imitation: {updates: 5}}"
    )
    yield
    gymnasium.registry.pop("tests/Lamp-v0")


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the batches of observations that were encoded."""
    sizes: list[int] = []
    encode = PixelEncoder.encode

    def counted(self: PixelEncoder, observation: torch.Tensor, with_copies: bool = False) -> torch.Tensor:
        sizes.append(len(observation))
        return encode(self, observation, with_copies)

    monkeypatch.setattr(PixelEncoder, "encode", counted)
    return sizes


def metrics(run: str) -> list[str]:
    return [line for line in Path(run, "metrics.csv").read_text().splitlines() if "time/" not in line]


@pytest.mark.parametrize(
    ("storage", "copies", "moments"),
    [
        ("memory", 1, [9]),
        ("disk", 1, [9]),
        # In imitation, when replays hold features; later, when they hold what the encoder returns; of own episodes too.
        ("memory", 0, [3, 9, 14]),
        ("disk", 0, [14]),
    ],
)
def test_a_resumed_run_is_the_same_and_needs_no_weights(
    command: Any, encoded: list[int], storage: str, copies: int, moments: list[int]
) -> None:
    flags = f"{LEARNING} --replay-storage {storage} --encoder-options.copies {copies}"
    whole = command(f"{TRAIN} {flags} --run-dir run")
    assert whole.status == 0, whole
    assert encoded[:DISTINCT] == [5] * DISTINCT and encoded[DISTINCT] == 2  # demonstrations first
    assert re.search(r"each of 60 demonstrated observations is encoded once", whole.out)
    later = "from the stage critic_warmup on, memory holds 0.3 kB of each, 0 MB" in whole.out
    assert later == (copies == 0)  # one of the copies is drawn
    for at in moments:
        parted = f"parted_at_{at}"
        with interrupted(SoftFlow, at=at):
            assert command(f"{TRAIN} {flags} --run-dir {parted}").status == 130
        Path("small.safetensors").rename("elsewhere")
        before = len(encoded)
        assert command(f"softflow-train --resume {parted}").status == 0
        Path("elsewhere").rename("small.safetensors")
        assert encoded[before] == 2  # nothing is encoded before the first decision
        assert metrics(parted) == metrics("run")
        replays = [np.load(RunFolder.open(name).last_checkpoint() / "replay.npz") for name in ("run", parted)]
        assert replays[0]["written"] >= 40
        for name in replays[0].files:
            np.testing.assert_array_equal(replays[0][name], replays[1][name], err_msg=name)
        policies = [load_policy(RunFolder.open(name).last_checkpoint()).state_dict() for name in ("run", parted)]
        assert all(torch.equal(tensor, policies[1][name]) for name, tensor in policies[0].items())


def test_other_runs_find_features_of_the_same_encoder_alone(command: Any, encoded: list[int]) -> None:
    cached = f"{TRAIN} --algo imitation --flow gaussian --frame-cache cache --eval-episodes 0"
    for number, (flags, demonstrations) in enumerate(
        {
            "": DISTINCT,
            "--encoder-options.pool spatial_softmax --encoder-options.features 9": 0,
            "--num-demos 5": 0,
            "--encoder-options.grid 1": DISTINCT,
            "--encoder-options.copies 1": DISTINCT,
        }.items()
    ):
        encoded.clear()
        result = command(f"{cached} {flags} --run-dir run{number}")
        assert result.status == 0, result
        assert len(encoded) == demonstrations, flags
    file = sorted(Path("cache").iterdir())[0]
    file.write_bytes(file.read_bytes()[:-40] + bytes(40))
    damaged = command(f"{cached} --encoder-options.grid 1 --run-dir damaged")
    again = command(f"{cached} --run-dir again")
    assert re.search(rf"{file.name}: .* delete it", damaged.err + again.err)


def test_evaluation_guard_export_and_steering_see(command: Any) -> None:
    assert command(f"{TRAIN} --algo imitation --flow gaussian --run-dir run").status == 0
    Path("small.safetensors").unlink()
    assert "success_rate" in json.loads(command("softflow-eval run --episodes 2 --json").out)
    save_demonstrations("held_out.npz", lamp_episodes(20, first_seed=12))
    calibrated = command("softflow-guard run --demos held_out.npz --out guard --rate-factor 1.5")
    assert "the 0.05 quantile of 20 held-out chunks" in calibrated.out, calibrated
    guarded = command("softflow-eval run --guard guard --episodes 2 --json")
    assert json.loads(guarded.out)["guard"].keys() == {"flagged", "replaced", "unlikely", "limited", "unfamiliar"}
    exported = command("softflow-export run --format onnx --out policy.onnx")
    assert exported.status == 0, exported
    Path("steer.yaml").write_text("{num_envs: 2, eval_episodes: 2, batch_size: 8, base_rollouts: {steps: 8}}")
    steer = "softflow-train --env tests/Lamp-v0 --demos lamp.npz --config steer.yaml --base run"
    steered = command(f"{steer} --algo rfs --critic-width 8 --run-dir rfs --online.steps 16 --replay-capacity 100")
    assert steered.status == 0, steered


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("", f"encoder '{NAME}' needs its weights"),
        ("--encoder-options.weights none.pt", f"encoder '{NAME}': weights none.pt: no such file"),
        ("--encoder-options.weights other.safetensors", "weights other.safetensors: "),
        ("--encoder-options.weights small.safetensors --encoder-options.grid 0", "grid at least 1, got 64 and 0"),
    ],
)
def test_an_encoder_is_refused_before_demonstrations_are_recorded(options: str, message: str, command: Any) -> None:
    """The error is the only line: a recording would have shown its progress."""
    save_file({"weight": torch.zeros(1)}, "other.safetensors")
    pixels = f"--env two_routes --env-options.observation pixels --encoder-options.size 64 --encoder {NAME}"
    assert message in command(f"softflow-train {pixels} {options}").error()
