"""LeRobot datasets: what the original package reads is what is read here, and a task chooses its parts."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from softflow.data import Dataset, DemonstrationError, read_dataset
from softflow.data.readers import BUILT_IN
from softflow.errors import UserError
from softflow.task import ActionPart, ObservationPart, TaskMismatch, TaskSpec
from tests.formats.lerobot_datasets import (
    CAMERA,
    EPISODES,
    GENUINE,
    as_version_2,
    change_feature,
    change_table,
    copy_of,
    with_column,
    write_numbers,
)

# What lerobot 0.4.4 reads of files that 0.6.1 wrote (0.6.1 itself needs Python 3.12):
#   item = LeRobotDataset("toy", root="tests/data/formats/lerobot/v061_video")[index], for the index 0, 11, 24 and 38
#   "image": hashlib.sha256((item[CAMERA] * 255).round().byte().permute(1, 2, 0).numpy().tobytes()).hexdigest()[:16]
# torchvision and torchcodec were not at hand: its ToTensor was replaced by division by 255, and lerobot's
# decode_video_frames by PyAV's frame.to_rgb() of the frame nearest in time. So lerobot chose the frame of each step by
# its own timestamps, but the pixels of videos are PyAV's; torchcodec may round them differently.
FIRST = {
    "step": (0, 0),
    "state": [0.1257302165031433, -0.13210485875606537, 0.6404226422309875, 0.10490011423826218],
    "action": [0.62654048204422, 0.8255111575126648],
    "reward": 0,
    "image": "82408816a9b37bbe",
}
LAST_OF_FIRST = {
    "step": (0, 11),
    "state": [1.5834728479385376, 1.3203610181808472, 0.6333526372909546, -2.20350980758667],
    "action": [0.2582162916660309, 0.85430908203125],
    "reward": 1,
    "image": "0289a36cda8fba6c",
}
LAST_OF_SECOND = {
    "step": (1, 12),
    "state": [0.3194142282009125, -0.3589133024215698, -1.9016352891921997, -0.10891472548246384],
    "action": [-0.269907683134079, -0.8427399396896362],
    "reward": 1,
    "image": "1580e548a499e40b",
}
LAST = {
    "step": (2, 13),
    "state": [-0.4722159504890442, -1.0048010349273682, -0.699966549873352, -1.4731431007385254],
    "action": [0.6162735223770142, -0.022307928651571274],
    "reward": 1,
    "image": "955269b9b9ee1c81",
}
STEPS = [FIRST, LAST_OF_FIRST, LAST_OF_SECOND, LAST]
OF_VIDEO = ["82408816a9b37bbe", "d387b6b71a3e0d79", "93dc9f37c78c39c3", "7ec39410cce2b47d"]

LOW, HIGH = (-0.9189785718917847, -0.9945229887962341), (0.9529246687889099, 0.9638853669166565)
SPEC = TaskSpec(
    observation=(
        ObservationPart("observation.state", (4,), names=("a", "b", "c", "d")),
        ObservationPart(CAMERA, (64, 64, 3), "uint8", axes="HWC"),
    ),
    action=(ActionPart("x", LOW[:1], HIGH[:1]), ActionPart("y", LOW[1:], HIGH[1:])),
    rate=10.0,
    name="lift the toy",
)
WANTED = TaskSpec(
    observation=(ObservationPart("wrist", (3, 64, 64), "uint8", axes="CHW"), ObservationPart("robot/state", (4,))),
    action=(ActionPart("action", (-1, -2), (1, 2)),),
    rate=10.0,
    name="bench",
)


def require_steps(dataset: Dataset, steps: list[dict[str, Any]], state: str = "observation.state") -> None:
    task = dataset.task
    assert task is not None and task.layout is not None
    for step in steps:
        episode, index = step["step"]
        row = task.layout.unpack(dataset.episodes[episode].observation[index])
        [image] = [row[part.name] for part in task.layout.images]
        np.testing.assert_array_equal(row[state], np.array(step["state"], np.float32))
        np.testing.assert_allclose(
            task.native_actions(dataset.episodes[episode].action[index]), step["action"], atol=1e-6
        )
        assert dataset.episodes[episode].reward[index] == step["reward"]
        assert hashlib.sha256(image.tobytes()).hexdigest()[:16] == step["image"]


def camera(dataset: Dataset) -> list[np.ndarray]:
    """The images of each episode, (T + 1, 64, 64, 3)."""
    assert dataset.task is not None and dataset.task.layout is not None
    return [dataset.task.layout.unpack(episode.observation)[CAMERA] for episode in dataset.episodes]


@pytest.mark.parametrize(
    ("name", "images"), [("v061_image", [step["image"] for step in STEPS]), ("v061_video", OF_VIDEO)]
)
def test_what_the_original_reads(name: str, images: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    dataset = read_dataset(GENUINE / name)
    assert dataset.task == SPEC
    assert [len(episode) for episode in dataset.episodes] == [12, 13, 14]
    require_steps(dataset, [{**step, "image": image} for step, image in zip(STEPS, images, strict=True)])
    for episode in dataset.episodes:
        assert (episode.terminated, episode.truncated, episode.is_success) == (True, False, True)
        np.testing.assert_array_equal(episode.observation[-1], episode.observation[-2])  # the final one is not stored
    assert capsys.readouterr().err == (
        f"{GENUINE / name}: the bounds of actions are the extremes in its statistics, because no environment was "
        "given\n"
    )


def test_version_2_has_a_file_for_each_episode(tmp_path: Path) -> None:
    root = copy_of("v061_image", tmp_path)
    expected = read_dataset(root)
    as_version_2(root)
    dataset = read_dataset(root, format="lerobot")
    assert dataset.task == expected.task
    for episode, other in zip(dataset.episodes, expected.episodes, strict=True):
        np.testing.assert_array_equal(episode.observation, other.observation)
        np.testing.assert_array_equal(episode.action, other.action)


def test_frames_are_found_by_their_times(tmp_path: Path) -> None:
    """Frames are skipped, and the file is opened again for an episode that lies before the last one."""
    root = copy_of("v061_video", tmp_path)
    starts = f"videos/{CAMERA}/from_timestamp"
    change_table(root / EPISODES, lambda table: with_column(table, starts, [[2.5, 0.1, 1.2]]))
    recorded = np.concatenate([pixels[:-1] for pixels in camera(read_dataset(GENUINE / "v061_video"))])
    for pixels, first in zip(camera(read_dataset(root)), (25, 1, 12), strict=True):
        np.testing.assert_array_equal(pixels[:-1], recorded[first:][: len(pixels) - 1])


# ------------------------------------------------------------------------------------------------- a task that is given


def test_a_task_chooses_names_order_axes_and_bounds(capsys: pytest.CaptureFixture[str]) -> None:
    dataset = read_dataset(GENUINE / "v061_image", wanted=WANTED)
    assert dataset.task == WANTED
    require_steps(dataset, STEPS, state="robot/state")
    np.testing.assert_allclose(
        dataset.episodes[0].action[0], [0.62654048, 0.41275558], atol=1e-6
    )  # of -1 ... 1, -2 ... 2
    assert capsys.readouterr().err == (
        f"{GENUINE / 'v061_image'}: observation.state is taken for the observation 'robot/state'\n"
    )
    numbers_alone = replace(WANTED, observation=WANTED.observation[1:])
    assert read_dataset(GENUINE / "v061_video", wanted=numbers_alone).episodes[0].observation.shape == (13, 4)


def test_depth_maps_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = copy_of("v061_video", tmp_path)
    change_feature(root, CAMERA, info={"is_depth_map": True})
    [part] = read_dataset(root).task.observation  # type: ignore[union-attr]
    assert part.name == "observation.state"
    assert f"{root}: {CAMERA} is a depth map, which is not read\n" in capsys.readouterr().err


def test_numbers_of_an_action_are_matched_by_name() -> None:
    y_first = replace(WANTED, action=(ActionPart("y", (-1,), (1,)), ActionPart("x", (-1,), (1,))))
    dataset = read_dataset(GENUINE / "v061_image", wanted=y_first)
    np.testing.assert_allclose(dataset.episodes[0].action[0], FIRST["action"][::-1], atol=1e-6)
    other = replace(WANTED, action=(ActionPart("y", (-1,), (1,)), ActionPart("force", (-1,), (1,))))
    with pytest.raises(
        DemonstrationError, match=r"the number 'y' of action has the index 1 in the dataset and 0 in the"
    ):
        read_dataset(GENUINE / "v061_image", wanted=other)


def test_numbers_of_an_observation_in_another_order_are_refused(tmp_path: Path) -> None:
    """They have the same shape, so nothing but their names tells."""
    root = write_numbers(tmp_path / "one", [STEP], names={"observation.state": ["pan", "lift", "grip"]})
    task = TaskSpec(
        (ObservationPart("state", (3,), names=("lift", "pan", "grip")),), (ActionPart("action", (-1,), (1,)),)
    )
    with pytest.raises(TaskMismatch, match="'state' has the numbers pan, lift, grip, expected lift, pan, grip"):
        read_dataset(root, wanted=task)
    for names in (("pan", "lift", "grip"), ("pan.pos", "lift.pos", "grip.pos"), None):
        same = replace(task, observation=(ObservationPart("state", (3,), names=names),))
        assert read_dataset(root, wanted=same).task == replace(same, rate=10)
    numbers = {f"state[{i}]": f"observation.state[{stored}]" for i, stored in enumerate((1, 0, 2))}
    [episode] = read_dataset(root, wanted=task, names=numbers).episodes
    np.testing.assert_array_equal(episode.observation[:2], STEP["observation.state"][:, [1, 0, 2]])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(observation=(*WANTED.observation, ObservationPart("force", (1,)))), "observation 'force' is missing"),
        (
            dict(observation=(WANTED.observation[0], ObservationPart("state", (5,)))),
            r"observation 'state' has shape \(4,\), expected \(5,\)",
        ),
        (
            dict(observation=(ObservationPart("wrist", (32, 32, 3), "uint8", axes="HWC"),)),
            r"observation 'wrist' has shape \(64, 64, 3\), expected \(32, 32, 3\)",
        ),
        (dict(action=(ActionPart("action", (-1,), (1,)),)), "action has 2 numbers, the task has 1"),
        (dict(action=(ActionPart("action", (-1, -0.5), (1, 0.5)),)), r"action\[1\] = 0.825511 of action 0 is outside"),
    ],
)
def test_another_task_is_one_clear_line(change: dict[str, Any], message: str) -> None:
    with pytest.raises((TaskMismatch, DemonstrationError), match=message) as caught:
        read_dataset(GENUINE / "v061_image", wanted=replace(WANTED, **change))
    assert str(caught.value).startswith(str(GENUINE / "v061_image")) and "\n" not in str(caught.value)


# ----------------------------------------------------------------------------------------------------- ends of episodes

STEP = {
    "observation.state": np.arange(6, dtype=np.float32).reshape(2, 3),
    "action": np.array([[-1.0], [1.0]], np.float32),
}
NO, YES = np.array([False, False]), np.array([False, True])
EARLIER = np.array([True, False])


@pytest.mark.parametrize(
    ("columns", "terminated", "truncated", "is_success"),
    [
        ({}, False, True, False),
        ({"next.reward": np.array([0.0, 1.0], np.float32)}, False, True, False),
        ({"next.success": YES}, True, False, True),
        ({"next.success": EARLIER}, False, True, False),
        ({"next.done": YES}, True, False, False),
        ({"next.done": YES, "next.success": NO}, False, True, False),  # perhaps a time limit
        ({"next.done": YES, "next.success": YES}, True, False, True),
        ({"next.done": NO, "next.success": YES}, False, True, True),
        ({"next.done": YES, "next.truncated": YES}, False, True, False),
        ({"next.terminated": YES, "next.success": NO}, True, False, False),
        ({"next.terminated": NO, "next.truncated": YES, "next.success": YES}, False, True, True),
        ({"next.terminated": YES, "next.truncated": YES}, True, True, False),
    ],
)
def test_how_an_episode_ended(
    columns: dict[str, Any], terminated: bool, truncated: bool, is_success: bool, tmp_path: Path
) -> None:
    [episode] = read_dataset(write_numbers(tmp_path / "one", [STEP | columns])).episodes
    assert (episode.terminated, episode.truncated, episode.is_success) == (terminated, truncated, is_success)
    np.testing.assert_array_equal(episode.reward, columns.get("next.reward", [0, 0]))


def test_what_is_assumed_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_numbers(tmp_path / "one", [STEP])
    task = TaskSpec((ObservationPart("state", (3,)),), (ActionPart("action", (-1.0,), (1.0,)),))
    read_dataset(root, wanted=task)
    assert capsys.readouterr().err.splitlines() == [
        f"{root}: there is no next.reward, so all rewards are 0",
        f"{root}: there is no next.success, so no episode is known as a success",
    ]
    solved = write_numbers(tmp_path / "solved", [STEP | {"next.success": EARLIER}])
    assert read_dataset(solved, wanted=replace(task, success="any")).episodes[0].is_success


def test_a_success_is_true_or_false(tmp_path: Path) -> None:
    root = write_numbers(tmp_path / "one", [STEP | {"next.success": np.array([0, 0.25], np.float32)}])
    with pytest.raises(DemonstrationError, match=r"next.success has the value 0.25, expected 0 and 1 alone: write 1"):
        read_dataset(root)


@pytest.mark.parametrize("name", ["next.done", "next.terminated", "next.truncated"])
def test_an_end_is_true_or_false(name: str, tmp_path: Path) -> None:
    """NaN would count as True, so that no value is bootstrapped from an episode that was cut off."""
    root = write_numbers(tmp_path / "one", [STEP | {name: np.array([0, np.nan], np.float32)}])
    with pytest.raises(DemonstrationError, match=f"episode 0: {name} has the value nan, expected 0 and 1 alone"):
        read_dataset(root)


def test_a_missing_package_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (
        "softflow.formats.lerobot.episodes",
        "softflow.formats.lerobot.video",
        "softflow.formats.lerobot.repair",
    ):
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(
        UserError, match=r"v061_video: the format lerobot needs the package 'av': pip install \"softflow\[lero"
    ):
        read_dataset(GENUINE / "v061_video")
    assert "lerobot" in BUILT_IN


def test_without_pyarrow_a_dataset_is_recognised_and_names_the_extra() -> None:
    program = "import sys; sys.modules['pyarrow'] = None; import softflow.data as d; d.read_dataset(sys.argv[1])"
    failed = subprocess.run([sys.executable, "-c", program, GENUINE / "v061_image"], capture_output=True, text=True)
    assert "the format lerobot needs the package 'pyarrow': pip install \"softflow[lerobot]\"" in failed.stderr
