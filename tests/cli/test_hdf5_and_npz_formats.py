"""Training on a dataset of another format is training on the same demonstrations in a file of ours."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from softflow.data import load_dataset
from tests.cli.conftest import Command
from tests.formats.hdf5_datasets import columns, write_minari, write_robomimic

TRAIN = "softflow-train --env two_routes --config small.yaml --demos"


def test_the_weights_are_the_same_to_the_bit(command: Command, tmp_path: Path) -> None:
    assert command("softflow-demo --env two_routes --episodes 4 --out d.npz").status == 0
    arrays = columns(load_dataset("d.npz").episodes)
    with h5py.File("d4rl.hdf5", "w") as file:
        file.update(arrays)
    masks = ~arrays["terminals"]
    np.savez("ogbench.npz", **{**arrays, "masks": masks, "terminals": arrays["terminals"] | arrays["timeouts"]})
    write_minari(Path("minari"), load_dataset("d.npz").episodes)
    write_robomimic(Path("robomimic.hdf5"), load_dataset("d.npz").episodes)
    weights = []
    for name in ("d.npz", "d4rl.hdf5", "ogbench.npz", "minari", "robomimic.hdf5"):
        result = command(f"{TRAIN} {name} --run-dir run_{name}")
        assert result.status == 0, result
        checkpoints = tmp_path / f"run_{name}" / "checkpoints"
        weights.append((checkpoints / (checkpoints / "last").read_text().strip() / "policy.safetensors").read_bytes())
    assert len(set(weights)) == 1


def test_another_shape_is_refused_before_a_run_starts(command: Command) -> None:
    with h5py.File("d.hdf5", "w") as file:
        file.update(observations=np.zeros((3, 4)), actions=np.zeros((3, 2)), rewards=np.ones(3), terminals=[0, 0, 1])
    assert (
        command(f"{TRAIN} d.hdf5 --run-dir run")
        .error()
        .endswith("d.hdf5: observation 'observation' has shape (4,), expected (2,)\n")
    )
    assert not Path("run").exists()
