"""Training on a dataset of another format is training on the same demonstrations in a file of ours."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from softflow.data import load_dataset
from tests.cli.conftest import Command
from tests.formats.hdf5_datasets import columns, write_minari, write_robomimic

TRAIN = "softflow-train --env two_routes --config small.yaml --eval-episodes 0 --demos"


@pytest.fixture
def datasets(command: Command) -> list[str]:
    """Four demonstrations of two_routes in all of these formats."""
    assert command("softflow-demo --env two_routes --episodes 4 --out d.npz").status == 0
    episodes = load_dataset("d.npz").episodes
    arrays = columns(episodes)
    with h5py.File("d4rl.hdf5", "w") as file:
        file.update(arrays)
    masks = ~arrays["terminals"]
    np.savez("ogbench.npz", **{**arrays, "masks": masks, "terminals": arrays["terminals"] | arrays["timeouts"]})
    write_minari(Path("minari"), episodes)
    write_robomimic(Path("robomimic.hdf5"), episodes)
    return ["d.npz", "d4rl.hdf5", "ogbench.npz", "minari", "robomimic.hdf5"]


def test_single_numbers_are_named_alike_in_all_formats(datasets: list[str], command: Command) -> None:
    """The numbers of observation and action change places."""
    names = "observation[0]=observation[1] observation[1]=observation[0] action[0]=action[1] action[1]=action[0]"
    expected = load_dataset("d.npz").episodes
    for name in datasets:
        assert command(f"softflow-data convert {name} {name}.npz --env two_routes --map {names}").status == 0
        for episode, original in zip(load_dataset(f"{name}.npz").episodes, expected, strict=True):
            np.testing.assert_array_equal(episode.observation, original.observation[:, ::-1])
            np.testing.assert_array_equal(episode.action, original.action[:, ::-1])
        assert command(f"softflow-data convert {name} x_{name}.npz --map x=observation[0]").status == 0
        [part] = load_dataset(f"x_{name}.npz").task.observation  # type: ignore[union-attr]
        assert (part.name, part.shape) == ("x", (1,))
        np.testing.assert_array_equal(
            load_dataset(f"x_{name}.npz").episodes[0].observation, expected[0].observation[:, :1]
        )


def test_the_weights_are_the_same_to_the_bit(datasets: list[str], command: Command, tmp_path: Path) -> None:
    weights = []
    for name in datasets:
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
