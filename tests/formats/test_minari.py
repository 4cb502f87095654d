"""Minari datasets: what the original package reads is what is read here, and a task chooses its parts."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from softflow.data import Dataset, DemonstrationError, read_dataset
from softflow.errors import UserError
from softflow.formats.minari.reader import MinariReader
from softflow.task import ActionPart, ObservationPart, TaskMismatch, TaskSpec

GENUINE = Path(__file__).resolve().parents[1] / "data" / "formats" / "minari"
"""Written by `create_dataset_from_buffers` of minari 0.5.4: `toy-hdf5-v0` with JPEG, `nested-v0` with
`jpeg_encoding=False`, a Discrete, a Tuple, a MultiBinary and a Text among its observations, and without infos."""
SPEC = TaskSpec(
    (ObservationPart("camera", (32, 32, 3), "uint8", axes="HWC"), ObservationPart("state", (4,))),
    (ActionPart("action", (-1.0, -1.0), (1.0, 1.0)),),
)


def copy_of(name: str, folder: Path) -> Path:
    """Copy a genuine dataset, to be changed."""
    return Path(shutil.copytree(GENUINE / name, folder / name))


def change_json(root: Path, **values: Any) -> None:
    path = root / "data" / "metadata.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def change_columns(root: Path, **columns: Any) -> None:
    """Replace arrays of every episode; None removes one. `__` in a name stands for a slash."""
    with h5py.File(root / "data" / "main_data.hdf5", "r+") as file:
        for episode in file.values():
            steps = len(episode["actions"])
            for name, values in columns.items():
                place = name.replace("__", "/")
                if place in episode:
                    del episode[place]
                if values is not None:
                    episode[place] = values(steps)


def pixels(dataset: Dataset, episode: int) -> np.ndarray:
    """The images of an episode, (T + 1, 32, 32, 3)."""
    assert dataset.task is not None and dataset.task.layout is not None
    rows = dataset.episodes[episode].observation
    return np.asarray(rows[:, dataset.task.columns["camera"]].reshape(-1, 32, 32, 3))


def numbers(dataset: Dataset, episode: int, name: str) -> np.ndarray:
    assert dataset.task is not None
    return np.ascontiguousarray(dataset.episodes[episode].observation[:, dataset.task.columns[name]]).view(np.float32)


# What minari 0.5.4 reads:
#   for e in MinariDataset("tests/data/formats/minari/toy-hdf5-v0/data").iterate_episodes():
#       print(len(e), e.actions[0], e.actions[-1], e.observations["state"][-1], e.observations["camera"][-1, 0, :2])
#       print(e.observations["camera"].mean())
STATES = [
    [1.8016349077224731, 1.3151037693023682, 0.3573804199695587, -1.2083185911178589],
    [-1.049070954322815, -1.2966432571411133, -1.917280673980713, 0.25339940190315247],
    [0.03232116252183914, 1.1113415956497192, -1.1744385957717896, -0.30679285526275635],
]
ACTIONS = [
    [[-0.00427627470344305, -0.021394938230514526], [-0.15868210792541504, 0.525693953037262]],
    [[-0.47587868571281433, -0.5166839361190796], [0.3176613748073578, 0.6148726940155029]],
    [[-0.20034046471118927, -0.33248332142829895], [0.7237456440925598, 0.6315886378288269]],
]
CORNERS = [[[193, 181, 219], [128, 131, 172]], [[126, 69, 78], [61, 11, 14]], [[60, 76, 110], [75, 79, 106]]]
MEANS = [126.97015224358974, 126.43045479910714, 126.83170572916667]


@pytest.mark.parametrize("folder", ["toy-hdf5-v0", "toy-hdf5-v0/data"])
def test_what_minari_reads_is_read(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = read_dataset(GENUINE / folder)
    assert dataset.task == SPEC
    assert [len(episode) for episode in dataset.episodes] == [12, 13, 14]
    for index, episode in enumerate(dataset.episodes):
        np.testing.assert_array_equal(episode.action[[0, -1]], np.array(ACTIONS[index], np.float32))
        assert episode.reward.tolist() == [0] * (len(episode) - 1) + [1]
        assert (episode.terminated, episode.truncated, episode.is_success) == (True, False, True)
        np.testing.assert_array_equal(numbers(dataset, index, "state")[-1], np.array(STATES[index], np.float32))
        images = pixels(dataset, index)
        np.testing.assert_allclose(images[-1, 0, :2].astype(int), CORNERS[index], atol=2)  # JPEG may be rounded
        assert images.mean() == pytest.approx(MEANS[index], abs=0.5)
    assert capsys.readouterr().err == ""


def test_nested_spaces_and_plain_images(capsys: pytest.CaptureFixture[str]) -> None:
    path = GENUINE / "nested-v0"
    dataset = read_dataset(path)
    assert dataset.task == TaskSpec(
        (
            ObservationPart("camera", (32, 32), "uint8", axes="HW"),
            ObservationPart("observation", (2,), "float64"),
            ObservationPart("pair/_index_0", (1,)),
            ObservationPart("pair/_index_1", (2,), "int8"),
            ObservationPart("robot/gear", (), "int64", categories=(3,), starts=(1,)),
        ),
        (ActionPart("action", (-2.0, 0.0), (2.0, float(np.float32(0.08)))),),
    )
    # Printed by minari 0.5.4, as above.
    first, second = dataset.episodes
    np.testing.assert_allclose(
        dataset.task.native_actions(first.action)[0], [-1.3484179973602295, 0.05081700533628464], rtol=1e-6
    )
    np.testing.assert_allclose(
        numbers(dataset, 0, "observation")[-1], [1.3040000451301372, 0.9470809631292422], rtol=1e-7
    )
    assert numbers(dataset, 0, "robot/gear").argmax(1).tolist() == [1, 1, 1, 2]  # 2, 2, 2, 3
    np.testing.assert_allclose(numbers(dataset, 0, "pair/_index_0")[1], [-0.32355607], rtol=1e-6)
    assert numbers(dataset, 0, "pair/_index_1").tolist() == [[1, 0], [0, 1], [0, 0], [0, 1]]
    assert first.observation[:, dataset.task.columns["camera"]].sum() == 525972
    assert (first.terminated, first.is_success, second.terminated, second.is_success) == (True, True, False, False)
    assert (first.reward.tolist(), second.reward.tolist()) == ([0, 0, 1], [0, 0])
    assert capsys.readouterr().err.splitlines() == [
        f"{path}: the observation 'mission' is not made of numbers and is left out",
        f"{path}: there is no infos/is_success or infos/success, so a reward of 1, where others are 0, is a success",
    ]


def test_pictures_of_one_length_are_stored_without_references(tmp_path: Path) -> None:
    root = copy_of("toy-hdf5-v0", tmp_path)
    before = pixels(read_dataset(root), 0)
    with h5py.File(root / "data/main_data.hdf5", "r+") as file:
        for episode in file.values():
            pictures = list(episode["observations/camera"][()])
            longest = max(map(len, pictures))
            del episode["observations/camera"]
            padded = [np.append(one, np.zeros(longest - len(one), np.uint8)) for one in pictures]
            episode["observations/camera"] = np.stack(padded)
    np.testing.assert_array_equal(pixels(read_dataset(root), 0), before)


def test_a_task_chooses_parts_names_and_axes(capsys: pytest.CaptureFixture[str]) -> None:
    wanted = TaskSpec(
        (ObservationPart("wrist", (3, 32, 32), "uint8", axes="CHW"), ObservationPart("joints", (4,), "float64")),
        (ActionPart("left", (-1,), (1,)), ActionPart("right", (-1,), (1,))),
        rate=20.0,
        success="return>=1",
        name="arm",
    )
    path = GENUINE / "toy-hdf5-v0"
    dataset = read_dataset(path, wanted=wanted)
    assert dataset.task == replace(wanted, success="last")  # with its rate, which the dataset does not say
    chw = dataset.episodes[0].observation[:, dataset.task.columns["wrist"]]
    np.testing.assert_array_equal(chw.reshape(13, 32, 32, 3), pixels(read_dataset(path), 0))
    assert capsys.readouterr().err.splitlines() == [
        f"{path}: camera is taken for the observation 'wrist'",
        f"{path}: state is taken for the observation 'joints'",
    ]
    named = read_dataset(path, wanted=wanted, names={"wrist": "camera", "joints": "state"})
    np.testing.assert_array_equal(named.episodes[0].observation, dataset.episodes[0].observation)
    assert not capsys.readouterr().err
    only = replace(SPEC, observation=SPEC.observation[1:])
    assert read_dataset(path, wanted=only).task == only


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(observation=(ObservationPart("state", (5,)),)), r"observation 'state' has shape \(4,\), expected \(5,\)"),
        (
            dict(observation=(*SPEC.observation, ObservationPart("force", (1,)))),
            "observation 'force' is missing",
        ),
        (dict(action=(ActionPart("action", (-1, -2), (1, 2)),)), r"has \[1\] in -1 ... 1, expected -2 ... 2"),
        (dict(action=(ActionPart("action", (-1,), (1,)),)), "actions has 2 numbers per step, the task has 1"),
    ],
)
def test_another_task_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises((TaskMismatch, DemonstrationError), match=message):
        read_dataset(GENUINE / "toy-hdf5-v0", wanted=replace(SPEC, **change))


@pytest.mark.parametrize(
    ("columns", "rule", "ending"),
    [
        (dict(infos__success=lambda n: np.arange(n + 1) == 2), "last", (True, False, False)),
        (dict(infos__success=lambda n: np.arange(n + 1) == 2), "any", (True, False, True)),
        (dict(infos__success=lambda n: np.arange(n + 1) == 0), "any", (True, False, False)),  # that of the reset
        (dict(infos__success=lambda n: np.arange(n) == n - 1), "last", (True, False, True)),
        (dict(infos__is_success=lambda n: np.zeros(n)), "last", (True, False, False)),  # before infos/success
        (dict(infos=None), "last", (True, False, True)),  # by its reward
        (dict(infos=None, rewards=lambda n: np.full(n, 0.5)), "last", (True, False, False)),
        (dict(terminations=lambda n: np.zeros(n)), "last", (False, True, True)),
        (
            dict(terminations=lambda n: np.zeros(n), truncations=lambda n: np.arange(n) == n - 1),
            "last",
            (False, True, True),
        ),
        (dict(truncations=lambda n: np.arange(n) == n - 1), "last", (True, True, True)),
    ],
)
def test_ends_and_successes(
    columns: dict[str, Any], rule: str, ending: tuple[bool, bool, bool], tmp_path: Path
) -> None:
    root = copy_of("toy-hdf5-v0", tmp_path)
    change_columns(root, **columns)
    for episode in read_dataset(root, wanted=replace(SPEC, success=rule)).episodes:
        assert (episode.terminated, episode.truncated, episode.is_success) == ending


def test_an_episode_that_goes_on_is_read_to_its_last_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = copy_of("toy-hdf5-v0", tmp_path)
    change_columns(root, terminations=lambda n: np.arange(n) == 3)
    assert [len(one) for one in read_dataset(root).episodes] == [12, 13, 14]
    assert f"{root}: 3 of 3 episodes go on after an end, and are read to the last step" in capsys.readouterr().err


def test_episodes_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    root = copy_of("toy-hdf5-v0", tmp_path)
    with h5py.File(root / "data/main_data.hdf5", "r+") as file:
        for index in range(3, 12):
            file.copy("episode_0", f"episode_{index}")
        file["episode_11/rewards"][:] = 5
    change_json(root, total_episodes=12)
    assert [one.reward[0] for one in read_dataset(root).episodes] == [0] * 11 + [5]


UNCLEAR = dict(shape=[40, 3, 40], low=np.zeros((40, 3, 40), int).tolist(), high=np.full((40, 3, 40), 255).tolist())
BOX = {"type": "Box", "dtype": "float32", "shape": [2], "low": [-1, -1], "high": [1, 1]}


def space(**changes: Any) -> str:
    return json.dumps(BOX | changes)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (dict(data_format="arrow"), "has the data_format 'arrow', expected 'hdf5'"),
        (dict(total_episodes=4), "claims 4 episodes, main_data.hdf5 has 3: copy or record the dataset again"),
        (dict(total_episodes="3"), "has total_episodes '3', expected an integer of at least 1"),
        (dict(jpeg_encoding=1), "has jpeg_encoding 1, expected true or false"),
        (dict(jpeg_encoding=False), "observations/camera is object of shape .*, expected an array of numbers"),
        (dict(observation_space=None), "has no observation_space"),
        (dict(observation_space="["), "metadata.json is not JSON"),
        (dict(observation_space="[" * 100_000), r"metadata.json is not JSON \(nested too deeply\)"),
        (dict(observation_space="[]"), "has list as observation_space, expected an object"),
        (dict(observation_space='{"type": "Dict"}'), "has a damaged observation_space"),
        (dict(observation_space='{"type": "Text"}'), "describes no observation of numbers"),
        (dict(observation_space=space(shape=[3])), "the space of the observation 'observation' is damaged .*expected"),
        (dict(observation_space=space(dtype="O")), "is damaged .object is no dtype of numbers"),
        (
            dict(observation_space=space(dtype="uint8", **UNCLEAR)),
            r"not known whether .*, uint8 of shape \(40, 3, 40\), is",
        ),
        (dict(action_space=space(low=[[1], 2])), "the space of the actions is damaged"),
        (dict(action_space=space(low=[-np.inf, -1])), "has no finite bounds of actions: name the environment"),
        (dict(action_space='{"type": "Discrete", "n": 3, "start": 0}'), "the actions are a Discrete, .*expected a Box"),
        (dict(action_space='{"type": "Dict", "subspaces": {}}'), "the actions are a Dict, .*expected a Box of real"),
    ],
)
def test_damaged_metadata_is_one_clear_line(values: dict[str, Any], message: str, tmp_path: Path) -> None:
    refuse(copy_of("toy-hdf5-v0", tmp_path), lambda root: change_json(root, **values), message)


def refuse(root: Path, damage: Callable[[Path], object], message: str) -> None:
    damage(root)
    with pytest.raises(DemonstrationError, match=message) as caught:
        read_dataset(root)
    assert str(caught.value).startswith(f"{root}: ") and "\n" not in str(caught.value)
    assert "MinariReader fails" not in str(caught.value)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (dict(actions=None), "episode_0 of main_data.hdf5 has no actions"),
        (dict(observations__state=None), "episode_0 of main_data.hdf5 has no observations/state"),
        (dict(actions=lambda _: 0.5), r"episode_0/actions is float64 of shape \(\), expected an array of numbers"),
        (dict(rewards=lambda n: np.zeros(n - 1)), "episode_0: there are 12 actions, but {'rewards': 11"),
        (dict(rewards=lambda n: np.full(n, np.nan)), "episode_0: reward.*nan"),
        (dict(terminations=lambda n: np.full(n, 2)), "episode_0: terminations has the value 2, expected 0 and 1"),
        (dict(actions=lambda n: np.full((n, 2), 3.0)), r"episode_0: action\[0\] = 3 .* is outside its bounds"),
        (
            dict(observations__state=lambda n: np.zeros((n, 4))),
            "episode_0: the parts of the observation have different",
        ),
        (
            dict(observations__state=lambda n: np.zeros((n + 1, 5))),
            r"state has the shape \(5,\) in each step, expected",
        ),
        (dict(observations__camera=lambda n: np.zeros((n + 1, 9), np.uint8)), "picture 0 of observations/camera: its"),
        (dict(observations__camera=lambda n: np.zeros((n + 1, 9))), "camera is float64 of shape .*, expected rows of"),
        (dict(infos__success=lambda n: np.zeros(n + 2)), "there are 12 actions, but .*'infos/success': 14"),
    ],
)
def test_damaged_arrays_are_one_clear_line(columns: dict[str, Any], message: str, tmp_path: Path) -> None:
    refuse(copy_of("toy-hdf5-v0", tmp_path), lambda root: change_columns(root, **columns), message)


def test_a_missing_file_is_one_clear_line(tmp_path: Path) -> None:
    root = copy_of("toy-hdf5-v0", tmp_path)
    refuse(root, lambda root: (root / "data/main_data.hdf5").unlink(), "main_data.hdf5 is missing: copy the dataset")


def test_success_in_some_episodes_alone_is_refused(tmp_path: Path) -> None:
    def damage(root: Path) -> None:
        with h5py.File(root / "data/main_data.hdf5", "r+") as file:
            del file["episode_1/infos/success"]

    refuse(copy_of("toy-hdf5-v0", tmp_path), damage, "only one of episode_0 and episode_1 has infos/success")


def test_unbounded_actions_take_the_bounds_of_the_task(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = copy_of("toy-hdf5-v0", tmp_path)
    change_json(root, action_space=space(low=[-np.inf, -np.inf], high=[np.inf, np.inf]))
    wanted = replace(SPEC, action=(ActionPart("torque", (-2, -2), (2, 2)),))
    assert read_dataset(root, wanted=wanted).task == wanted
    assert "the bounds of actions are those of the task" in capsys.readouterr().err


def test_what_claims_beyond_measure_is_refused(tmp_path: Path) -> None:
    def damage(root: Path) -> None:
        with h5py.File(root / "data/main_data.hdf5", "r+") as file:
            del file["episode_0/observations/camera"]
            file["episode_0/observations"].create_dataset(
                "camera", (10**9,), h5py.vlen_dtype(np.uint8), chunks=(13,), maxshape=(None,)
            )

    refuse(copy_of("toy-hdf5-v0", tmp_path), damage, r"its content takes .* MB, more than the .* MB allowed")


def test_other_folders_are_not_recognised(tmp_path: Path) -> None:
    assert MinariReader().recognizes(GENUINE / "toy-hdf5-v0") and MinariReader().recognizes(GENUINE / "nested-v0/data")
    assert not MinariReader().recognizes(tmp_path)
    (tmp_path / "metadata.json").write_text("{}")
    assert not MinariReader().recognizes(tmp_path)


@pytest.mark.parametrize("package", ["h5py", "PIL"])
def test_a_missing_package_names_the_extra(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("minari.episodes", "hdf5", "pictures"):
        monkeypatch.delitem(sys.modules, f"softflow.formats.{module}", raising=False)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf"the format minari needs the package '{package}': pip install \"softflow\[m"):
        read_dataset(GENUINE / "toy-hdf5-v0")
