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


def test_damaged_episodes_are_left_out_and_listed(datasets: list[str], command: Command) -> None:
    with h5py.File("robomimic.hdf5", "r+") as file:
        file["data/demo_1/obs/observation"][3, 1] = np.nan
        del file["data/demo_2/rewards"]
        file["data/demo_2/rewards"] = np.zeros(2)
        del file["data/demo_3/actions"]
    with h5py.File("minari/data/main_data.hdf5", "r+") as file:
        file["episode_1/observations"][3, 1] = np.inf
    wrong = "observation observation[1] is {}, not a finite float32, at step 3"
    advice = "repair the episode, or leave it out: softflow-data filter --drop-damaged"
    refused = command("softflow-data filter minari x.npz").error().rstrip()
    assert refused == f"error: minari: episode_1: {wrong.format('inf')}: {advice}"
    assert not Path("x.npz").exists()

    expected = load_dataset("d.npz").episodes
    for name, places, kept in (
        ("minari", [f"episode_1: {wrong.format('inf')}"], [0, 2, 3]),
        (
            "robomimic.hdf5",
            ["data/demo_3: it has no actions", "data/demo_2: the arrays hold", f"data/demo_1: {wrong.format('nan')}"],
            [0],
        ),
    ):
        result = command(f"softflow-data filter {name} {name}.npz --drop-damaged")
        number = "1 damaged episode" if len(places) == 1 else "3 damaged episodes"
        assert result.status == 0 and result.out.endswith(f" steps; {number} left out\n")
        lines = [line for line in result.err.splitlines() if "left out: " in line]
        assert all(map(str.startswith, lines, [f"{name}: left out: {place}" for place in places]))
        assert not any(advice in line for line in lines) and len(lines) == len(places)
        for episode, index in zip(load_dataset(f"{name}.npz").episodes, kept, strict=True):
            np.testing.assert_array_equal(episode.observation, expected[index].observation)


def test_rewards_of_an_episode_that_is_left_out_do_not_decide_what_a_success_is(
    datasets: list[str], command: Command
) -> None:
    """One NaN would turn all other episodes into failures."""
    with h5py.File("robomimic.hdf5", "r+") as robomimic, h5py.File("minari/data/main_data.hdf5", "r+") as minari:
        robomimic["data/demo_1/rewards"][2] = np.nan
        minari["episode_1/rewards"][2] = np.nan
        del minari["episode_3/truncations"]
        minari["episode_3/truncations"] = [False]
    expected = load_dataset("d.npz").episodes
    assert all(episode.is_success for episode in expected)
    places = {"robomimic.hdf5": {1: "data/demo_1: rewards[2] is nan"}, "minari": {1: "episode_1: rewards[2] is nan"}}
    places["minari"][3] = "episode_3: there are "
    for name, left_out in places.items():
        result = command(f"softflow-data filter {name} {name}.npz --drop-damaged")
        assert result.status == 0 and all(f"left out: {place}" in result.err for place in left_out.values())
        kept = load_dataset(f"{name}.npz").episodes
        assert len(kept) == len(expected) - len(left_out) and all(episode.is_success for episode in kept)


def test_nothing_is_written_if_every_episode_is_damaged(datasets: list[str], command: Command) -> None:
    with h5py.File("robomimic.hdf5", "r+") as file:
        for episode in file["data"].values():
            episode["obs/observation"][0] = np.nan
    result = command("softflow-data filter robomimic.hdf5 f.npz --drop-damaged")
    assert result.status == 2 and result.err.count("left out: ") == 4
    assert result.err.splitlines()[-1] == "error: robomimic.hdf5: no episodes" and not Path("f.npz").exists()


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
