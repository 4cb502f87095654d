"""Training on a dataset of another format is training on the same demonstrations in a file of ours."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from softflow.data import Episode, load_dataset
from tests.cli.conftest import Command

TRAIN = "softflow-train --env two_routes --config small.yaml --demos"


def columns(episodes: list[Episode]) -> dict[str, np.ndarray]:
    """The arrays that both formats have."""
    last = [np.arange(len(episode)) == len(episode) - 1 for episode in episodes]
    ended = np.concatenate([one & episode.terminated for one, episode in zip(last, episodes, strict=True)])
    return {
        "observations": np.concatenate([episode.observation[:-1] for episode in episodes]),
        "actions": np.concatenate([episode.action for episode in episodes]),
        "next_observations": np.concatenate([episode.observation[1:] for episode in episodes]),
        "rewards": np.concatenate([episode.reward for episode in episodes]),
        "terminals": ended,
        "timeouts": np.concatenate(last) & ~ended,
    }


def write_minari(root: Path, episodes: list[Episode]) -> None:
    """Write episodes with observations of one array and actions in [-1, 1] as minari does."""
    (root / "data").mkdir(parents=True)
    bounds = {"observation_space": (episodes[0].observation_dim, np.inf), "action_space": (episodes[0].action_dim, 1.0)}
    spaces = {
        name: json.dumps({"type": "Box", "dtype": "float32", "shape": [n], "low": [-limit] * n, "high": [limit] * n})
        for name, (n, limit) in bounds.items()
    }
    (root / "data/metadata.json").write_text(json.dumps({"total_episodes": len(episodes), **spaces}))
    with h5py.File(root / "data/main_data.hdf5", "w") as file:
        for index, episode in enumerate(episodes):
            arrays = columns([episode])
            file[f"episode_{index}/observations"] = episode.observation
            for name, column in dict(terminations="terminals", truncations="timeouts").items():
                file[f"episode_{index}/{name}"] = arrays[column]
            for name in ("actions", "rewards"):
                file[f"episode_{index}/{name}"] = arrays[name]


def write_robomimic(path: Path, episodes: list[Episode]) -> None:
    """Write episodes with observations of one array as robomimic does with `--done_mode 0`."""
    with h5py.File(path, "w") as file:
        for index, episode in enumerate(episodes):
            arrays = columns([episode])
            names = {"obs/observation": "observations", "next_obs/observation": "next_observations"}
            for name, column in (names | dict(actions="actions", rewards="rewards", dones="terminals")).items():
                file[f"data/demo_{index}/{name}"] = arrays[column]


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
