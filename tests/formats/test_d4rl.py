"""HDF5 files in the layout of D4RL, and damaged ones."""

from __future__ import annotations

import random
import resource
import sys
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from softflow.data import DemonstrationError, Episode, read_dataset
from softflow.envs import make_env
from softflow.errors import UserError
from softflow.formats.d4rl import D4RLReader
from softflow.runs.record_demonstrations import record_demonstrations
from softflow.task import ActionPart, ObservationPart, TaskMismatch, TaskSpec
from tests.damage import flip

OBSERVATIONS = np.arange(14, dtype=np.float32).reshape(7, 2)
# Episodes of 3, 2 and 2 steps: one falls, one is cut off by a time limit, and one by the end of the file.
COLUMNS: dict[str, Any] = {
    "observations": OBSERVATIONS,
    "actions": np.linspace(-1, 1, 7, dtype=np.float32)[:, None],
    "rewards": np.array([0.5, 1, -3, 2, 0.25, 1, 4], np.float32),
    "terminals": np.array([0, 0, 1, 0, 0, 0, 0], np.bool_),
    "timeouts": np.array([0, 0, 0, 0, 1, 0, 0], np.bool_),
    "infos/qpos": np.zeros((7, 3)),
    "metadata/algorithm": "SAC",
}
FOLLOWING = OBSERVATIONS + 2
FOLLOWING[[2, 4, 6]] += 50
SPEC = TaskSpec((ObservationPart("observation", (2,)),), (ActionPart("action", (-1.0,), (1.0,)),))


def write(path: Path, **changes: Any) -> Path:
    """Write the columns with changes; None leaves one out."""
    with h5py.File(path, "w") as file:
        for name, column in (COLUMNS | changes).items():
            if column is not None:
                is_array = isinstance(column, np.ndarray)
                file.create_dataset(name, data=column, compression="gzip" if is_array and column.ndim else None)
    return path


def ends(episodes: list[Episode]) -> list[tuple[int, bool, bool]]:
    return [(len(episode), episode.terminated, episode.truncated) for episode in episodes]


# By its source, `d4rl.sequence_dataset` cuts at the same steps, and leaves out the last episode.
def test_episodes_end_at_terminals_timeouts_and_the_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "d.hdf5")
    dataset = read_dataset(path)
    assert dataset.task == SPEC
    assert ends(dataset.episodes) == [(3, True, False), (2, False, True), (2, False, True)]
    assert [episode.reward.tolist() for episode in dataset.episodes] == [[0.5, 1, -3], [2, 0.25], [1, 4]]
    np.testing.assert_array_equal(np.concatenate([one.action for one in dataset.episodes]), COLUMNS["actions"])
    for episode, rows in zip(dataset.episodes, np.split(OBSERVATIONS, [3, 5]), strict=True):
        np.testing.assert_array_equal(episode.observation, [*rows, rows[-1]])  # the final one is not stored
        assert not episode.is_success and episode.task == SPEC
    assert capsys.readouterr().err.splitlines() == [
        f"{path}: the bounds of actions are -1 and 1, because no environment was given",
        f"{path}: there is no infos/is_success or infos/success, so no episode is known as a success",
    ]


def test_next_observations_give_the_final_ones(tmp_path: Path) -> None:
    path = write(tmp_path / "d.hdf5", next_observations=FOLLOWING)
    for episode, last in zip(read_dataset(path).episodes, (2, 4, 6), strict=True):
        np.testing.assert_array_equal(episode.observation[-1], FOLLOWING[last])
        np.testing.assert_array_equal(episode.observation[-2], OBSERVATIONS[last])


def test_next_observations_show_where_an_episode_was_cut_off(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "d.hdf5", next_observations=FOLLOWING.astype(np.float64), timeouts=None)
    assert ends(read_dataset(path, wanted=SPEC).episodes) == [(3, True, False), (2, False, True), (2, False, True)]
    [said] = [line for line in capsys.readouterr().err.splitlines() if "cut off" in line]
    assert said == (
        f"{path}: 1 of 3 episodes are cut off because next_observations is not the next row of observations, first at "
        "step 4"
    )


def test_rounding_cuts_no_episode(tmp_path: Path) -> None:
    rows = 1000 / (3 + OBSERVATIONS.astype(np.float64))
    following = np.concatenate([rows[1:], rows[:1]])
    path = write(tmp_path / "d.hdf5", observations=rows.astype(np.float32), next_observations=following, timeouts=None)
    assert ends(read_dataset(path).episodes) == [(3, True, False), (4, False, True)]


def test_breaks_are_found_in_every_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("softflow.formats.d4rl.BATCH", 4)
    path = write(tmp_path / "d.hdf5", next_observations=FOLLOWING, timeouts=None, terminals=np.zeros(7))
    assert ends(read_dataset(path).episodes) == [(3, False, True), (2, False, True), (2, False, True)]


def test_without_timeouts_terminals_alone_end_episodes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "d.hdf5", timeouts=None)
    assert ends(read_dataset(path).episodes) == [(3, True, False), (4, False, True)]
    assert f"{path}: there are no timeouts, so an episode ends only where terminals is 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "rule", "successes"),
    [
        ({"infos/success": np.array([0, 0, 1, 1, 0, 0, 1])}, "last", [True, False, True]),
        ({"infos/success": np.array([0, 0, 1, 1, 0, 0, 1])}, "any", [True, True, True]),
        ({"infos/is_success": np.zeros(7), "infos/success": np.ones(7)}, "last", [False, False, False]),
        ({"rewards": np.array([0, 0, 1, 1, 0, 0, 0])}, "last", [True, False, False]),  # as in AntMaze
        ({"rewards": np.array([[0], [0], [1], [1], [0], [0], [0]])}, "any", [True, True, False]),
        ({"rewards": np.ones(7)}, "any", [False, False, False]),  # for staying alive
        ({}, "return>=1", [False, False, False]),
    ],
)
def test_what_a_success_is(changes: dict[str, Any], rule: str, successes: list[bool], tmp_path: Path) -> None:
    dataset = read_dataset(write(tmp_path / "d.hdf5", **changes), wanted=replace(SPEC, success=rule))
    assert [episode.is_success for episode in dataset.episodes] == successes


def test_names_and_bounds_are_those_of_the_task(tmp_path: Path) -> None:
    path = write(tmp_path / "d.hdf5")
    wanted = TaskSpec((ObservationPart("state", (2,)),), (ActionPart("torque", (-2,), (4,)),), rate=20.0, name="arm")
    dataset = read_dataset(path, wanted=wanted)
    assert dataset.task == wanted  # with its rate, which the file does not say
    assert dataset.episodes[0].task == wanted
    np.testing.assert_allclose(dataset.episodes[0].action[0], [(-1 + 2) / 3 - 1], rtol=1e-6)
    two = replace(wanted, observation=(ObservationPart("a", (1,)), ObservationPart("b", (1,))))
    with pytest.raises(TaskMismatch, match=r"observation 'a' is missing; .*observation 'observation' is not expected"):
        read_dataset(path, wanted=two)
    narrow = replace(wanted, action=(ActionPart("torque", (-0.5,), (0.5,)),))
    with pytest.raises(
        DemonstrationError,
        match=r"episode 0, which starts at step 0: torque\[0\] = -1 of action 0 is outside its bounds",
    ):
        read_dataset(path, wanted=narrow)


@pytest.mark.parametrize("success", ["infos/success", None])
def test_demonstrations_of_an_environment_come_back_to_the_bit(success: str | None, tmp_path: Path) -> None:
    recorded = record_demonstrations(lambda: make_env("two_routes"), 60, 0).episodes
    last = [np.arange(len(episode)) == len(episode) - 1 for episode in recorded]
    columns = {
        "observations": np.concatenate([episode.observation[:-1] for episode in recorded]),
        "actions": np.concatenate([episode.action for episode in recorded]),
        "next_observations": np.concatenate([episode.observation[1:] for episode in recorded]),
        "rewards": np.concatenate([episode.reward for episode in recorded]),
        "terminals": np.concatenate([one & episode.terminated for one, episode in zip(last, recorded, strict=True)]),
        "timeouts": np.concatenate([one & episode.truncated for one, episode in zip(last, recorded, strict=True)]),
    }
    if success is not None:
        columns[success] = np.concatenate(
            [one & episode.is_success for one, episode in zip(last, recorded, strict=True)]
        )
    task = TaskSpec.from_env(make_env("two_routes"))
    dataset = read_dataset(write(tmp_path / "two_routes.hdf5", **columns, **{"infos/qpos": None}), wanted=task)
    assert dataset.task == task
    for got, expected in zip(dataset.episodes, recorded, strict=True):
        for name in ("observation", "action", "reward", "terminated", "truncated", "is_success"):
            np.testing.assert_array_equal(getattr(got, name), getattr(expected, name))


# --------------------------------------------------------------------------------------------------------------- damage

NAN = OBSERVATIONS.copy()
NAN[3, 1] = np.nan


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(terminals=None), "there is no terminals: D4RL's datasets have observations, actions, rewards, terminals"),
        (dict(terminals=np.zeros(7), timeouts=None), "nothing says where an episode ends: add timeouts"),
        (dict(terminals=np.full(7, 3)), "terminals has the value 3, expected 0 and 1 alone"),
        (dict(rewards=np.zeros((7, 2))), r"rewards has the shape \(7, 2\), expected one number per step"),
        (dict(rewards=np.zeros(6)), "different numbers of steps: .*'rewards': 6"),
        (dict(rewards=np.full(7, np.inf)), r"rewards\[0\] is inf: repair or drop the episode"),
        (dict(observations=NAN), r"observations\[3, 1\] is nan: repair or drop the episode"),
        (dict(observations="text"), "observations is object of shape .*, expected an array of numbers"),
        (dict(actions=np.zeros(7)), r"actions has the shape \(7,\), expected one row of numbers per step"),
        (dict(actions=np.full((7, 1), 2.0)), "actions reach 2, beyond the bounds -1 ... 1 that are assumed without"),
        (dict(next_observations=FOLLOWING[:, :1]), r"next_observations has the shape \(7, 1\), observations has"),
        ({"timeouts": None, "timeouts/x": np.zeros(7)}, "timeouts is not an array"),
        ({"infos/qpos": None, "infos": np.zeros(7)}, "infos is not a group of arrays"),
        (dict(observations=h5py.Empty("f4")), "observations is float32 of shape None, expected an array of numbers"),
        ({name: array[:0] for name, array in COLUMNS.items() if name != "metadata/algorithm"}, "the arrays are empty"),
    ],
)
def test_damage_is_one_clear_line(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = write(tmp_path / "d.hdf5", **changes)
    with pytest.raises(DemonstrationError, match=message) as caught:
        read_dataset(path)
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)
    assert "D4RLReader fails" not in str(caught.value)


def test_no_other_file_is_opened(tmp_path: Path) -> None:
    other = write(tmp_path / "other.hdf5")
    (tmp_path / "raw").write_bytes(COLUMNS["rewards"].tobytes())
    layout = h5py.VirtualLayout((7,), np.float32)
    layout[:] = h5py.VirtualSource(str(other), "rewards", (7,))
    path = write(tmp_path / "d.hdf5", rewards=None)
    for put, message in (
        (lambda file: file.update(rewards=h5py.ExternalLink(str(other), "rewards")), "is a link, which is not"),
        (lambda file: file.update(rewards=h5py.SoftLink("/actions")), "is a link, which is not followed"),
        (lambda file: file.create_virtual_dataset("rewards", layout), "is stored in other files, which are not"),
        (
            lambda file: file.create_dataset("rewards", (7,), "f4", external=[(str(tmp_path / "raw"), 0, 28)]),
            "is stored in other files, which are not opened",
        ),
    ):
        with h5py.File(path, "r+") as file:
            put(file)
        with pytest.raises(DemonstrationError, match=f"rewards {message}"):
            read_dataset(path)
        with h5py.File(path, "r+") as file:
            del file["rewards"]


def test_what_claims_beyond_measure_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "d.hdf5", observations=None)
    with h5py.File(path, "r+") as file:
        file.create_dataset("observations", (10**12, 2), np.float32, chunks=(1000, 2))
    with pytest.raises(DemonstrationError, match=r"its content takes 8,000,000 MB, more than the .* allowed"):
        read_dataset(path)
    with h5py.File(path, "r+") as file:
        del file["observations"]
        file.create_dataset("observations", (7, 2), np.float32, chunks=(10**8, 2), maxshape=(None, 2))
    with pytest.raises(DemonstrationError, match=r"its content takes 800 MB, more than the .* allowed"):
        read_dataset(path)


@pytest.mark.parametrize("steps", [7, 10**5])
def test_a_chunk_that_unpacks_to_more_than_its_size_is_refused(steps: int, tmp_path: Path) -> None:
    path = write(tmp_path / "d.hdf5", rewards=None)
    with h5py.File(path, "r+") as file:
        rewards = file.create_dataset("rewards", (7,), "f4", chunks=(steps,), maxshape=(None,), compression="gzip")
        rewards.id.write_direct_chunk((0,), zlib.compress(bytes(2 * 10**8)))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DemonstrationError, match=r"rewards cannot be read \(a chunk is larger than it says\)"):
        read_dataset(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 10**5  # kilobytes; HDF5 would unpack 200 MB


def test_large_chunks_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks so large that they are checked, with everything that may stand beside the compression."""
    monkeypatch.setattr("softflow.formats.hdf5.DEFLATE_RATIO", 10**9)
    path = write(tmp_path / "d.hdf5", rewards=None)
    with h5py.File(path, "r+") as file:
        file.create_dataset("rewards", data=COLUMNS["rewards"], compression="gzip", shuffle=True, fletcher32=True)
    assert read_dataset(path).episodes[0].reward.tolist() == [0.5, 1, -3]


def test_a_flipped_bit_or_a_missing_end_never_crashes(tmp_path: Path) -> None:
    path = write(tmp_path / "d.hdf5")
    content, rng = path.read_bytes(), random.Random(0)
    refused = 0
    for one in [
        *(flip(content, rng) for _ in range(60)),
        *(content[: rng.randrange(len(content))] for _ in range(10)),
    ]:
        path.write_bytes(one)
        try:
            read_dataset(path, format="d4rl")
        except DemonstrationError as error:
            assert "\n" not in str(error) and "D4RLReader fails" not in str(error), error
            refused += 1
    assert refused >= 10  # the missing ends


def test_other_hdf5_files_are_not_recognised(tmp_path: Path) -> None:
    for name in ("data/demo_0/actions", "episode_0/observations"):  # as robomimic and Minari have it
        with h5py.File(tmp_path / "d.hdf5", "w") as file:
            file[name] = np.zeros(3)
        assert not D4RLReader().recognizes(tmp_path / "d.hdf5")
    assert D4RLReader().recognizes(write(tmp_path / "d.hdf5", rewards=None))
    assert not D4RLReader().recognizes(tmp_path)


def test_a_truncated_file_says_so(tmp_path: Path) -> None:
    path = write(tmp_path / "d.hdf5")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DemonstrationError, match=r"d4rl.* could not be tried: the HDF5 file is truncated") as it:
        read_dataset(path)
    assert "\n" not in str(it.value)


def test_a_missing_package_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "d.hdf5")
    monkeypatch.delitem(sys.modules, "softflow.formats.hdf5", raising=False)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(UserError, match=r"the format d4rl needs the package 'h5py': pip install \"softflow\[d4rl\]\""):
        read_dataset(path, format="d4rl")
    with pytest.raises(
        UserError, match=r"in no known format; d4rl could not be tried: needs the package 'h5py': pip install \""
    ):
        read_dataset(path)
