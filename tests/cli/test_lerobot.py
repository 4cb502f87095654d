"""Training on a LeRobot dataset is training on the same demonstrations in a file of ours."""

from __future__ import annotations

from pathlib import Path

from softflow.data import load_dataset
from tests.cli.conftest import Command
from tests.formats.lerobot_datasets import GENUINE, as_columns, write_numbers

TRAIN = "softflow-train --env two_routes --config small.yaml --demos"


def test_the_weights_are_the_same_to_the_bit(command: Command, tmp_path: Path) -> None:
    assert command("softflow-demo --env two_routes --episodes 4 --out d.npz").status == 0
    write_numbers(tmp_path / "lerobot", [as_columns(episode) for episode in load_dataset("d.npz").episodes])
    weights = []
    for name in ("d.npz", "lerobot"):
        result = command(f"{TRAIN} {name} --run-dir run_{name}")
        assert result.status == 0, result
        checkpoints = tmp_path / f"run_{name}" / "checkpoints"
        weights.append((checkpoints / (checkpoints / "last").read_text().strip() / "policy.safetensors").read_bytes())
    assert weights[0] == weights[1]
    assert "observation.state is taken for the observation 'observation'" in result.err


def test_a_dataset_of_another_robot_is_refused(command: Command) -> None:
    error = command(f"{TRAIN} {GENUINE / 'v061_video'} --run-dir run").error()
    assert error.endswith("v061_video: observation 'observation' has shape (4,), expected (2,)\n")
    assert not Path("run").exists()
