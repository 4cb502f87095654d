"""robomimic's datasets: what the original package reads is what is read here, and a task chooses its parts."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from softflow.data import DemonstrationError, read_dataset
from softflow.errors import UserError
from softflow.formats.robomimic import RobomimicReader
from softflow.task import ActionPart, ObservationPart, TaskMismatch, TaskSpec

GENUINE = Path(__file__).resolve().parents[1] / "data" / "formats" / "robomimic" / "lift.hdf5"
"""Two scripted demonstrations of robosuite 1.5.2's Lift, converted by robomimic's convert_robosuite.py and by
`dataset_states_to_obs.py --done_mode 2 --n 2` of robomimic 0.3.0."""
SPEC = TaskSpec(
    (ObservationPart("object", (10,)), ObservationPart("robot0_eef_pos", (3,), "float64")),
    (ActionPart("action", (-1.0,) * 7, (1.0,) * 7),),
)
# What robomimic 0.3.0 reads:
#   dataset = SequenceDataset("tests/data/formats/robomimic/lift.hdf5", obs_keys=["object", "robot0_eef_pos"],
#                             dataset_keys=("actions", "rewards", "dones"), hdf5_cache_mode=None, hdf5_use_swmr=False)
#   dataset[index]["actions"], ["obs"]["object"][0, :3] and ["next_obs"]["robot0_eef_pos"], for index 0, 59, 60 and 119
FIRST_ACTIONS = [
    [1.0, -0.29578934720204253, -1.0, 0.0, 0.0, 0.0, -1.0],
    [1.0, -0.5022445002583409, -1.0, 0.0, 0.0, 0.0, -1.0],
]
LAST_ACTION = [0.0, 0.0, 0.8, 0.0, 0.0, 0.0, 1.0]
OBJECTS = [
    [
        [0.02587839194485588, -0.026836083419785287, 0.8309711638364659],
        [0.014191648795106747, -0.028201982666032088, 1.0448858408736077],
    ],
    [
        [0.017098741608551883, -0.02986892456864323, 0.8315717257589829],
        [0.006164629264292436, -0.030603799352162026, 1.0464185548725229],
    ],
]
FINAL_HANDS = [
    [0.004617278163822621, -0.026631745567915935, 1.0535760886890897],
    [-0.0027299997650408747, -0.030559783745221045, 1.0556744978412207],
]


def copy_to(folder: Path) -> Path:
    """Copy the genuine file, to be changed."""
    return Path(shutil.copy(GENUINE, folder / "d.hdf5"))


def change(path: Path, **columns: Any) -> Path:
    """Replace arrays of every demonstration by what a function makes of them; None removes one. `__` is a slash."""
    with h5py.File(path, "r+") as file:
        for demonstration in file["data"].values():
            for name, function in columns.items():
                place = name.replace("__", "/")
                values = demonstration[place][()] if function is not None and place in demonstration else None
                if place in demonstration:
                    del demonstration[place]
                if function is not None:
                    demonstration[place] = function(values)
    return path


def describe(path: Path, text: Any) -> Path:
    with h5py.File(path, "r+") as file:
        file["data"].attrs["env_args"] = text
    return path


def test_what_robomimic_reads_is_read(capsys: pytest.CaptureFixture[str]) -> None:
    dataset = read_dataset(GENUINE, wanted=SPEC)
    assert dataset.task == SPEC
    for index, episode in enumerate(dataset.episodes):
        assert (len(episode), episode.terminated, episode.truncated, episode.is_success) == (60, True, False, True)
        np.testing.assert_array_equal(
            episode.action[[0, -1]], np.array([FIRST_ACTIONS[index], LAST_ACTION], np.float32)
        )
        np.testing.assert_array_equal(episode.observation[[0, -2], :3], np.array(OBJECTS[index], np.float32))
        np.testing.assert_array_equal(episode.observation[-1, 10:], np.array(FINAL_HANDS[index], np.float32))
        assert episode.reward.tolist() == [0] * 38 + [1] * 22
    assert capsys.readouterr().err.splitlines() == [
        f"{GENUINE}: all demonstrations are read, the filter keys train, valid are not used",
        f"{GENUINE}: 2 of 2 demonstrations go on after dones is 1, and are read to their end",
        f"{GENUINE}: only rewards say what a success is, so a reward of 1, where others are 0, is a success",
    ]


def test_without_a_task_all_observations_are_read(capsys: pytest.CaptureFixture[str]) -> None:
    task = read_dataset(GENUINE).task
    assert task is not None and (task.name, task.rate, task.action) == ("Lift", None, SPEC.action)
    assert [part.name for part in task.observation] == [
        "object",
        "robot0_eef_pos",
        "robot0_eef_quat",
        "robot0_eef_quat_site",
        "robot0_gripper_qpos",
        "robot0_gripper_qvel",
        "robot0_joint_acc",
        "robot0_joint_pos",
        "robot0_joint_pos_cos",
        "robot0_joint_pos_sin",
        "robot0_joint_vel",
    ]
    assert (
        f"{GENUINE}: the bounds of actions are -1 and 1, because no environment was given"
        in capsys.readouterr().err.splitlines()
    )


def test_parts_are_found_by_the_names_that_are_given() -> None:
    tool = replace(SPEC, observation=(ObservationPart("tool", (3,), "float64"),))
    read = read_dataset(GENUINE, wanted=tool, names={"tool": "robot0_eef_pos"}).episodes
    whole, task = read_dataset(GENUINE)
    assert task is not None
    np.testing.assert_array_equal(read[0].observation, whole[0].observation[:, task.columns["robot0_eef_pos"]])
    with pytest.raises(DemonstrationError, match="has no observation 'eef': it has object, robot0_eef_pos, "):
        read_dataset(GENUINE, wanted=tool, names={"tool": "eef"})


def test_images_are_parts_with_axes(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (60, 8, 6, 3)).astype(np.uint8)
    path = change(copy_to(tmp_path), obs__view=lambda _: frames, next_obs__view=lambda _: frames + 1)
    wanted = replace(SPEC, observation=(ObservationPart("view", (3, 8, 6), "uint8", axes="CHW"),))
    dataset = read_dataset(path, wanted=wanted)
    assert dataset.task == wanted
    rows = dataset.episodes[0].observation.reshape(61, 8, 6, 3)
    np.testing.assert_array_equal(rows, [*frames, frames[-1] + 1])
    part = next(part for part in read_dataset(path).task.observation if part.name == "view")  # type: ignore[union-attr]
    assert part == ObservationPart("view", (8, 6, 3), "uint8", axes="HWC")


def test_bytes_of_unknown_axes_need_a_task(tmp_path: Path) -> None:
    frames = np.zeros((60, 3, 8, 8), np.uint8)
    path = change(copy_to(tmp_path), obs__view=lambda _: frames, next_obs__view=lambda _: frames)
    with pytest.raises(DemonstrationError, match=r"obs/view is uint8 of shape \(3, 8, 8\), .*: name the environment"):
        read_dataset(path)
    assert read_dataset(path, wanted=SPEC).task == SPEC


def test_texts_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = change(copy_to(tmp_path), obs__text=lambda _: ["lift the cube"] * 60, obs__none=lambda _: np.zeros((60, 0)))
    whole, task = read_dataset(GENUINE)
    capsys.readouterr()
    episodes, same = read_dataset(path)
    assert same == task and np.array_equal(episodes[1].observation, whole[1].observation)
    lines = capsys.readouterr().err
    assert all(f"{path}: obs/{name} is not made of numbers and is left out" in lines for name in ("text", "none"))
    assert read_dataset(path, wanted=SPEC).task == SPEC and "left out" not in capsys.readouterr().err


def test_without_next_observations_the_last_one_is_used_twice(tmp_path: Path) -> None:
    dataset = read_dataset(change(copy_to(tmp_path), next_obs=None), wanted=SPEC)
    np.testing.assert_array_equal(dataset.episodes[0].observation[-1], dataset.episodes[0].observation[-2])


DENSE = np.linspace(0, 2, 60)
END, NEVER = np.arange(60) == 59, np.zeros(60)
EARLY = np.arange(60) == 30


@pytest.mark.parametrize(
    ("columns", "rule", "ending"),
    [
        (dict(rewards=lambda _: EARLY), "last", (False, True, False)),  # done at its end, but not solved there
        (dict(rewards=lambda _: EARLY), "any", (False, True, True)),
        (dict(dones=lambda _: NEVER), "last", (False, True, True)),
        (dict(dones=None), "last", (True, False, True)),
        (dict(dones=None, rewards=lambda _: EARLY), "last", (False, True, False)),
        (dict(rewards=lambda _: DENSE), "last", (True, False, False)),
        (dict(rewards=lambda _: DENSE, dones=lambda _: NEVER), "last", (False, True, False)),
        (dict(rewards=lambda _: DENSE, dones=None), "last", (False, True, False)),
        (dict(rewards=None), "any", (True, False, False)),
        (dict(rewards=lambda _: END[:, None], dones=lambda _: END[:, None]), "last", (True, False, True)),
    ],
)
def test_ends_and_successes(
    columns: dict[str, Any], rule: str, ending: tuple[bool, bool, bool], tmp_path: Path
) -> None:
    for episode in read_dataset(change(copy_to(tmp_path), **columns), wanted=replace(SPEC, success=rule)).episodes:
        assert (episode.terminated, episode.truncated, episode.is_success) == ending


def test_demonstrations_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    path = copy_to(tmp_path)
    with h5py.File(path, "r+") as file:
        for index in (10, 9, 100):
            file["data"].copy("demo_1", f"demo_{index}")
            file[f"data/demo_{index}/rewards"][0] = index
    assert [one.reward[0] for one in read_dataset(path, wanted=SPEC).episodes] == [0, 0, 9, 10, 100]


def test_the_name_and_rate_of_the_environment(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = describe(copy_to(tmp_path), json.dumps({"env_name": "Can", "env_kwargs": {"control_freq": 20}}))
    task = read_dataset(path).task
    assert task is not None and (task.name, task.rate) == ("Can", 20)
    assert read_dataset(path, wanted=replace(SPEC, rate=10.0)).task == replace(SPEC, rate=20.0)  # compared by the run
    said = "recorded at 20 Hz, which is kept in place of the 10 Hz of the task\n"
    assert f"{path}: {said}" in capsys.readouterr().err
    with h5py.File(path, "r+") as file:
        del file["data"].attrs["env_args"]
    task = read_dataset(path).task
    assert task is not None and (task.name, task.rate) == ("", None)
    assert read_dataset(path, wanted=replace(SPEC, rate=10.0)).task == replace(SPEC, rate=10.0)


def test_another_task_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TaskMismatch, match=r"observation 'object' has shape \(10,\), expected \(9,\)"):
        read_dataset(GENUINE, wanted=replace(SPEC, observation=(ObservationPart("object", (9,)),)))
    with pytest.raises(TaskMismatch, match="observation 'force' is missing"):
        read_dataset(GENUINE, wanted=replace(SPEC, observation=(ObservationPart("force", (3,)),)))
    with pytest.raises(DemonstrationError, match="data/demo_1: actions has 7 numbers per step, the task has 1"):
        read_dataset(GENUINE, wanted=replace(SPEC, action=(ActionPart("action", (-1,), (1,)),)))


Damage = Callable[[Path], object]


def columns(**functions: Any) -> Damage:
    return lambda path: change(path, **functions)


def in_second(name: str, values: Any) -> Damage:
    """Replace an array of the second demonstration alone; None removes it."""

    def damage(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            del file[f"data/demo_2/{name}"]
            if values is not None:
                file[f"data/demo_2/{name}"] = values

    return damage


def rename(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file.move("data/demo_2", "data/second")


def link(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file["data/demo_2"]
        file["data/demo_2"] = h5py.ExternalLink("other.hdf5", "data/demo_2")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (columns(obs=None), "there is no data/demo_1/obs: let robomimic's dataset_states_to_obs.py extract"),
        (columns(actions=None), "data/demo_1: it has no actions"),
        (columns(actions=lambda a: a[:, 0]), r"data/demo_1: actions has the shape \(60,\), expected one row"),
        (columns(actions=lambda a: 2 * a), "data/demo_1: .* is outside its bounds"),
        (columns(actions=lambda _: 0.5), r"data/demo_1/actions is float64 of shape \(\), expected an array of numbers"),
        (columns(rewards=lambda a: a[1:]), "data/demo_1: the arrays hold different numbers of steps.*'rewards': 59"),
        (columns(dones=lambda a: a + 1), "data/demo_1: dones has the value 2, expected 0 and 1 alone"),
        (columns(obs__object=lambda a: a * np.nan), r"data/demo_1: observation object\[0\] is nan"),
        (columns(obs__object=lambda _: "text"), "data/demo_1/obs/object is object of shape .*, expected an array"),
        (columns(next_obs__object=lambda a: a[:, :3]), r"data/demo_1: object has the shape \(3,\) in each step"),
        (in_second("obs/object", None), "data/demo_2: it has no obs/object: extract the observations again"),
        (
            in_second("obs/object", np.zeros((60, 4))),
            r"data/demo_2: object has the shape \(4,\) in each step, expected",
        ),
        (in_second("rewards", None), "only one of data/demo_1 and data/demo_2 has rewards: extract both in the same"),
        (rename, "data/second is not a demonstration: name them data/demo_0"),
        (link, "data/demo_2 is a link, which is not followed"),
        (lambda path: describe(path, "["), "the attribute env_args of data does not describe it"),
        (lambda path: describe(path, "{}"), "the attribute env_args of data does not describe it .KeyError 'env_name'"),
        (lambda path: describe(path, '{"env_name": "x", "env_kwargs": {"control_freq": 0}}'), "'x' with 0 Hz"),
        (lambda path: describe(path, 3), "the attribute env_args of data is not a text"),
    ],
)
def test_damage_is_one_clear_line(damage: Damage, message: str, tmp_path: Path) -> None:
    path = copy_to(tmp_path)
    damage(path)
    with pytest.raises(DemonstrationError, match=message) as caught:
        read_dataset(path, wanted=SPEC)
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)
    assert "RobomimicReader fails" not in str(caught.value)


ALL = slice(None)


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        (
            [(1, 0, 1.0), (2, 57, 0.5), (2, 59, -1.0)],
            r": for that.* 2 of 120 are not; the first is 0\.5, at step 57 of data/demo_2",
        ),
        ([(1, ALL, 1.0), (2, ALL, 1.0)], ": all rewards are 1"),
        ([(1, ALL, 0.3), (2, ALL, 0.7), (2, 0, 1.0)], ""),
    ],
)
def test_the_reward_in_the_way_of_successes_is_named(
    changed: list[tuple[int, Any, float]], why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = copy_to(tmp_path)
    with h5py.File(path, "r+") as file:
        for number, steps, reward in changed:
            file[f"data/demo_{number}/rewards"][steps] = reward
    assert not any(episode.is_success for episode in read_dataset(path, wanted=SPEC).episodes)
    [line] = [line for line in capsys.readouterr().err.splitlines() if "no episode is known as a success" in line]
    assert re.search(f"so no episode is known as a success{why}", line) and line.endswith("success") == (not why)


def test_actions_beyond_the_assumed_bounds_are_refused(tmp_path: Path) -> None:
    path = change(copy_to(tmp_path), actions=lambda a: 2 * a)
    with pytest.raises(DemonstrationError, match=r"data/demo_1: actions reach 2, beyond the bounds -1 \.\.\. 1"):
        read_dataset(path)


def test_the_limit_holds_for_all_demonstrations_together(tmp_path: Path) -> None:
    path = copy_to(tmp_path)
    with h5py.File(path, "r+") as file:
        for index in (1, 2):
            del file[f"data/demo_{index}/rewards"]
            file.create_dataset(f"data/demo_{index}/rewards", (8 * 10**6,), "f8", chunks=(100,))
    with pytest.raises(DemonstrationError, match=r"its content takes 128 MB, more than the .* MB allowed"):
        read_dataset(path, wanted=SPEC)


def test_other_files_are_not_recognised(tmp_path: Path) -> None:
    assert RobomimicReader().recognizes(GENUINE)
    with h5py.File(tmp_path / "d.hdf5", "w") as file:
        file["observations"] = np.zeros(3)
    assert not RobomimicReader().recognizes(tmp_path / "d.hdf5")
    assert not RobomimicReader().recognizes(tmp_path)


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "softflow.formats.hdf5", raising=False)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(UserError, match=r"robomimic needs the package 'h5py': pip install \"softflow\[robomimic\]\""):
        read_dataset(GENUINE, format="robomimic")
