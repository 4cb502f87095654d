"""Written LeRobot datasets come back as they were, and what cannot be stored is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from softflow.data import Dataset, DemonstrationError, Episode, read_dataset
from softflow.errors import UserError
from softflow.formats.lerobot import step_tables
from softflow.formats.lerobot.files import data_file
from softflow.formats.lerobot.writer import write_lerobot
from softflow.task import ActionPart, ObservationPart, TaskSpec
from tests.formats.lerobot_datasets import CAMERA, DATA, EPISODES, GENUINE, SMALL, episode_of, require_same
from tests.pictures import lamp_episodes
from tests.task.specs import NUMBERS

EVERYTHING = replace(
    NUMBERS,
    observation=(
        *NUMBERS.observation,
        ObservationPart("wrist", (4, 5, 6), "uint8", axes="CHW"),
        ObservationPart("depth", (5, 6), "float32", axes="HW", value_range=(0.5, 2.5)),
        ObservationPart("table", (3, 4), "float64"),
        ObservationPart("top/grey", (5, 6, 1), "uint8", axes="HWC"),
    ),
    rate=1 / 0.03,
    success="return>=3",
    name="every kind of part",
)


# ------------------------------------------------------------------------------------------------------- there and back


def test_it_is_said_that_who_acted_is_lost(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All steps of what is read again may be imitated, also those of the policy."""
    episode = replace(episode_of(EVERYTHING, 3, np.random.default_rng(0)), human=np.array([False, True, True]))
    write_lerobot(tmp_path / "takeovers", Dataset([episode], EVERYTHING))
    expected = "an episode, nor at which steps a person acted, so every step may be imitated\n"
    assert capsys.readouterr().err.endswith(expected)


def test_every_kind_of_part_comes_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng, root = np.random.default_rng(0), tmp_path / "new" / "everything"
    endings = [(True, False, True), (False, True, True), (True, True, False), (False, True, False)]
    names = ("terminated", "truncated", "is_success")
    episodes = [
        episode_of(EVERYTHING, steps, rng, **dict(zip(names, ending, strict=True)))
        for steps, ending in zip((1, 7, 3, 2), endings, strict=True)
    ]
    write_lerobot(root, Dataset(episodes, EVERYTHING))
    line = f"{root}: LeRobot does not store the observation after the last action of an episode"
    assert capsys.readouterr().err == f"{line}\n"
    read = read_dataset(root)
    assert read.task == EVERYTHING and capsys.readouterr().err == ""
    require_same(read, Dataset(episodes, EVERYTHING))
    write_lerobot(tmp_path / "modes", Dataset([replace(episodes[0], mode=2, seed=7)], EVERYTHING))
    assert capsys.readouterr().err.endswith("of an episode, nor its mode, nor the seed of its reset\n")


@st.composite
def tasks(draw: st.DrawFn) -> TaskSpec:
    names = draw(st.lists(st.sampled_from(["a", "b/c", "b/d", "observation.e", "state"]), min_size=1, unique=True))
    kinds = st.sampled_from(["float32", "float64", "float16", "int64", "int8", "uint8", "bool", "image"])
    sizes = st.integers(1, 3)
    parts = []
    for name in names:
        kind = draw(kinds)
        if kind == "image":
            axes, channels = draw(st.permutations("HWC")), draw(st.sampled_from([1, 3, 4]))
            shape = tuple(channels if axis == "C" else draw(sizes) for axis in axes)
            parts.append(ObservationPart(name, shape, "uint8", axes="".join(axes)))
        else:
            parts.append(ObservationPart(name, tuple(draw(st.lists(sizes, max_size=3))), kind))
    bounds = draw(st.lists(st.sampled_from([(-1.0, 1.0), (0.0, 0.5), (-3.0, 4.0), (2.0, 2.0)]), max_size=2))
    action = [ActionPart("first", (-2.0,), (2.0,)), *(ActionPart(f"n{i}", *zip(one)) for i, one in enumerate(bounds))]
    return TaskSpec(tuple(parts), tuple(action), rate=draw(st.sampled_from([10.0, 12.5, 100 / 3])))


@given(tasks(), st.lists(st.integers(1, 4), min_size=1, max_size=3), st.integers(0, 9))
@settings(max_examples=15)
def test_any_shapes_come_back(task: TaskSpec, lengths: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    expected = Dataset([episode_of(task, steps, rng) for steps in lengths], task)
    with TemporaryDirectory() as folder:
        write_lerobot(f"{folder}/d", expected)
        read = read_dataset(f"{folder}/d")
        by_task = read_dataset(f"{folder}/d", wanted=replace(task, rate=None))
    assert read.task == task == by_task.task
    require_same(read, expected)
    require_same(by_task, expected)


def test_episodes_without_a_task_get_a_plain_one(tmp_path: Path) -> None:
    episodes = lamp_episodes(2)
    write_lerobot(tmp_path / "lamp", Dataset(episodes, None), rate=4)
    read = read_dataset(tmp_path / "lamp")
    require_same(read, Dataset(episodes, None))
    assert read.task is not None and read.task.rate == 4 and read.task.layout == episodes[0].layout
    numbers = Episode(np.arange(6).reshape(3, 2), [[0.5], [1e-30]], [0, 1], True, False, True)
    write_lerobot(tmp_path / "numbers", Dataset([numbers], None), rate=4)
    read = read_dataset(tmp_path / "numbers")
    require_same(read, Dataset([numbers], None))
    assert read.task == TaskSpec(
        (ObservationPart("observation", (2,)),), (ActionPart("action", (-1.0,), (1.0,)),), rate=4.0
    )


def test_a_large_dataset_has_several_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_tables, "FILE_SIZE", 0)
    monkeypatch.setattr(step_tables, "FILES_PER_FOLDER", 2)
    rng = np.random.default_rng(0)
    expected = Dataset([episode_of(SMALL, steps, rng) for steps in (2, 3, 4)], SMALL)
    write_lerobot(tmp_path / "d", expected)
    files = {file.relative_to(tmp_path / "d") for file in (tmp_path / "d/data").rglob("*.parquet")}
    assert files == {data_file(0, 0), data_file(0, 1), data_file(1, 0)}
    require_same(read_dataset(tmp_path / "d"), expected)


# ----------------------------------------------------------------------------------------------------- names and bounds


def test_features_are_called_as_lerobots_policies_look_for_them(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)

    def features(task: TaskSpec) -> dict[str, Any]:
        root = tmp_path / str(len(list(tmp_path.iterdir())))
        write_lerobot(root, Dataset([episode_of(task, 2, rng)], task))
        return dict(json.loads((root / "meta/info.json").read_text())["features"])

    everything = features(EVERYTHING)
    assert [name for name in everything if name.startswith("observation")] == [
        *(f"observation.{name}" for name in ("robot.joints", "gear", "buttons", "grid", "force")),
        *("observation.images.wrist", "observation.images.depth", "observation.table"),
        "observation.images.top.grey",
    ]
    assert everything["observation.gear"] == {"dtype": "int64", "shape": [1], "names": None}
    assert everything["observation.images.wrist"] == {
        "dtype": "image",
        "shape": [5, 6, 4],
        "names": ["height", "width", "channels"],
    }
    assert everything["action"] == {
        "dtype": "float64",
        "shape": [4],
        "names": ["arm[0]", "arm[1]", "lock", "gripper"],
    }
    small = features(SMALL)
    assert small["observation.state"] == {"dtype": "float32", "shape": [2], "names": None}
    assert small["action"] == {"dtype": "float32", "shape": [1], "names": None}


def test_native_actions_are_stored(tmp_path: Path) -> None:
    episode = episode_of(NUMBERS, 5, np.random.default_rng(0))
    write_lerobot(tmp_path / "d", Dataset([episode], NUMBERS))
    stored = np.array(pq.read_table(tmp_path / "d" / DATA)["action"].to_pylist())
    np.testing.assert_array_equal(stored, NUMBERS.native_actions(episode.action, np.float64))
    assert (stored[:, 2] == 0.25).all()  # the lock


def test_the_text_says_what_the_robot_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert read_dataset(GENUINE / "v061_image").task.name == "lift the toy"  # type: ignore[union-attr]
    dataset = Dataset([episode_of(SMALL, 2, np.random.default_rng(0))], SMALL)
    write_lerobot(tmp_path / "d", dataset, text="turn the cube")
    assert pq.read_table(tmp_path / "d/meta/tasks.parquet")["task"].to_pylist() == ["turn the cube"]
    assert pq.read_table(tmp_path / "d" / EPISODES)["tasks"].to_pylist() == [["turn the cube"]]
    assert read_dataset(tmp_path / "d").task == SMALL
    (tmp_path / "d/meta/softflow_task.json").unlink()
    assert read_dataset(tmp_path / "d").task.name == "turn the cube"  # type: ignore[union-attr]
    pq.write_table(pa.table({"task_index": [0, 1], "task": ["turn it", "drop it"]}), tmp_path / "d/meta/tasks.parquet")
    assert read_dataset(tmp_path / "d").task.name == ""  # type: ignore[union-attr]
    assert f"{tmp_path / 'd'}: the texts of its 2 tasks are not read\n" in capsys.readouterr().err


def test_a_task_that_is_given_goes_before_the_one_that_was_kept(tmp_path: Path) -> None:
    judged = replace(SMALL, success="return>=3")
    episode = Episode(np.zeros((3, 2)), [[0.5], [-0.25]], [0, 5], True, False, True)
    write_lerobot(tmp_path / "d", Dataset([episode], judged))
    wider = replace(SMALL, action=(ActionPart("action", (-2.0,), (2.0,)),))
    read = read_dataset(tmp_path / "d", wanted=wider)
    assert read.task == replace(wider, success="return>=3")  # by which the recorded successes were judged
    np.testing.assert_array_equal(read.episodes[0].action, [[0.25], [-0.125]])
    (tmp_path / "d/meta/softflow_task.json").write_text("{}")
    with pytest.raises(
        DemonstrationError, match=r"meta/softflow_task\.json is not the description of a task .* remove"
    ):
        read_dataset(tmp_path / "d")


def test_images_are_read_in_the_range_of_the_wanted_task(tmp_path: Path) -> None:
    wanted = replace(
        SMALL,
        observation=(ObservationPart("wrist", (3, 64, 64), "float32", axes="CHW", value_range=(0.0, 1.0)),),
        action=(ActionPart("action", (-1.0, -1.0), (1.0, 1.0)),),
    )
    stored = read_dataset(GENUINE / "v061_image")
    read = read_dataset(GENUINE / "v061_image", wanted=wanted)
    assert read.task.observation == wanted.observation  # type: ignore[union-attr]
    for one, other in zip(read.episodes, stored.episodes, strict=True):
        np.testing.assert_array_equal(
            one.layout.unpack(one.observation)["wrist"],  # type: ignore[union-attr]
            other.layout.unpack(other.observation)[CAMERA],  # type: ignore[union-attr]
        )


# ----------------------------------------------------------------------------------------------------- what is refused


def alike(*parts: ObservationPart) -> TaskSpec:
    return replace(SMALL, observation=parts)


PIXELS = dict(shape=(2, 2, 3), dtype="uint8", axes="HWC")
REFUSED = [
    (replace(SMALL, rate=None), {}, "the control rate is not known: LeRobot needs it, so give it in hertz, as --rate"),
    (replace(SMALL, rate=None), {"rate": float("nan")}, "the control rate must be a positive number of hertz, got nan"),
    (
        replace(SMALL, rate=None),
        {"rate": 1e300},
        "the control rate is 1e+300 Hz, LeRobot's times allow 0.001 to",
    ),
    (
        alike(ObservationPart("long", (1,), "float128")),
        {},
        "the observation 'long' is float128, LeRobot's numbers have 64 bits at most",
    ),
    (SMALL, {"rate": 20}, "the control rate of the dataset is 10 Hz, so 20 Hz cannot be given"),
    (
        alike(ObservationPart("camera", (2, 2, 9), "uint8", axes="HWC")),
        {},
        "the observation 'camera' has 9 channels, LeRobot's images have 1, 3, 4",
    ),
    (
        alike(ObservationPart("deep", (1,) * 6)),
        {},
        "the observation 'deep' has 6 axes, LeRobot's numbers have 5 at most",
    ),
    (
        alike(ObservationPart("a/b", (1,)), ObservationPart("a.b", (1,))),
        {},
        "the observation 'a/b' cannot be told from others as the feature observation.a.b: rename it",
    ),
    (
        alike(ObservationPart("x", **PIXELS), ObservationPart("images/x", **PIXELS)),  # type: ignore[arg-type]
        {},
        "the observation 'images/x' cannot be told from others as the feature observation.images.images.x: rename it",
    ),
]


def test_pictures_that_could_not_be_read_again_are_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A black picture takes less than a hundredth of its pixels as PNG."""
    monkeypatch.setattr("softflow.formats.lerobot.tables.FREE_MEMORY", 0)
    task = alike(ObservationPart("camera", (256, 256, 3), "uint8", axes="HWC"))
    episode = episode_of(task, 4, np.random.default_rng(0))
    black = replace(episode, observation=np.zeros_like(episode.observation))
    with pytest.raises(UserError, match=r"takes .* more than .* set the environment variable SOFTFLOW_SIZE_LIMITS"):
        write_lerobot(tmp_path / "black", Dataset([black], task))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("task", "options", "message"), REFUSED)
def test_what_cannot_be_stored_is_one_clear_line(
    task: TaskSpec, options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    dataset = Dataset([episode_of(task, 2, np.random.default_rng(0))], task)
    with pytest.raises(UserError) as caught:
        write_lerobot(tmp_path / "new" / "d", dataset, **options)
    assert str(caught.value).startswith(f"{tmp_path / 'new' / 'd'}: {message}")
    assert not list(tmp_path.iterdir())


def test_an_error_on_the_way_leaves_nothing_behind(tmp_path: Path) -> None:
    task = replace(SMALL, observation=(ObservationPart("gear", (), "int64", categories=(3,)),))
    good = episode_of(task, 2, np.random.default_rng(0))
    between = Episode([[0.5, 0.5, 0]] * 3, good.action, good.reward, True, False, True, task=task)
    with pytest.raises(
        UserError, match=r"episode 1: observation 'gear' of step 0 holds values that are not int64 with"
    ):
        write_lerobot(tmp_path / "d", Dataset([good, between], task))
    with pytest.raises(UserError, match="no episodes to write"):
        write_lerobot(tmp_path / "d", Dataset([], task))
    assert not list(tmp_path.iterdir())
    (tmp_path / "d").mkdir()
    with pytest.raises(UserError, match="d already exists: give the name of a folder that does not"):
        write_lerobot(tmp_path / "d", Dataset([good], task))
    assert not list((tmp_path / "d").iterdir())
