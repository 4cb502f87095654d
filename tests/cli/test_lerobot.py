"""Training on a LeRobot dataset is training on the same demonstrations in a file of ours."""

from __future__ import annotations

from pathlib import Path

from tests.cli.conftest import Command
from tests.formats.lerobot_datasets import GENUINE

TRAIN = "softflow-train --env two_routes --config small.yaml --eval-episodes 0 --demos"


def test_the_weights_are_the_same_to_the_bit(command: Command, tmp_path: Path) -> None:
    """On a file of ours, on the dataset that lerobot itself wrote of it, and on the one that we write of it."""
    ours, genuine = GENUINE / "two_routes.npz", GENUINE / "v044_two_routes"
    assert command(f"softflow-data convert {ours} written --to lerobot --rate 10").status == 0
    weights = []
    for number, path in enumerate((ours, genuine, "written")):
        result = command(f"{TRAIN} {path} --run-dir run_{number}")
        assert result.status == 0, result
        checkpoints = tmp_path / f"run_{number}" / "checkpoints"
        weights.append((checkpoints / (checkpoints / "last").read_text().strip() / "policy.safetensors").read_bytes())
    assert weights[0] == weights[1] == weights[2]
    assert "observation.state is taken for the observation 'observation'" in result.err


def test_a_dataset_of_another_robot_is_refused(command: Command) -> None:
    error = command(f"{TRAIN} {GENUINE / 'v061_video'} --run-dir run").error()
    assert error.endswith("v061_video: observation 'observation' has shape (4,), expected (2,)\n")
    assert not Path("run").exists()


def test_a_folder_inside_a_dataset_is_refused_with_the_name_of_the_dataset(command: Command) -> None:
    dataset = GENUINE / "v044_two_routes"
    [table] = (dataset / "data").glob("*/*.parquet")
    for part in (dataset / "data", table):
        error = command(f"softflow-data info {part}").error()
        assert error == f"error: {part}: this is a part of a dataset: name its folder, {dataset}\n"
