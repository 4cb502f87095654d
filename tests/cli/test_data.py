"""softflow-data: what it says and writes, that files of ours stay the same, and what it refuses."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from softflow.cli import data, demonstrate
from softflow.data import Episode, load_dataset, read_dataset, save_demonstrations
from softflow.envs import make_env
from softflow.files import WriteError
from softflow.task import TaskSpec
from tests.cli.conftest import Command
from tests.formats.lerobot_datasets import GENUINE, as_columns, write_numbers


def require_same(episodes: list[Episode], expected: list[Episode]) -> None:
    assert len(episodes) == len(expected)
    for one, other in zip(episodes, expected, strict=True):
        for name in ("observation", "action", "reward", "terminated", "truncated", "is_success", "mode"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recorded") / "d.npz"
    assert demonstrate.main(["--env", "two_routes", "--episodes", "5", "--out", str(path)]) == 0
    return path


@pytest.fixture
def demos(recorded: Path, tmp_path: Path) -> list[Episode]:
    """`d.npz`, five demonstrations of two_routes, and its episodes."""
    (tmp_path / "d.npz").write_bytes(recorded.read_bytes())
    return load_dataset(recorded).episodes


def test_info_as_text_and_as_json(demos: list[Episode], command: Command) -> None:
    lines = command("softflow-data info d.npz").out.splitlines()
    steps = sum(map(len, demos))
    assert lines[:2] == ["d.npz:", f"5 episodes, {steps} steps, 5 successes"]
    assert "task: softflow/TwoRoutes-v0, control rate not known, success rule last" in lines
    assert lines[-1].startswith("imitate reward_to_come (auto: ")
    result = json.loads(command("softflow-data info d.npz --json").out)
    assert (result["file"], result["episodes"], result["steps"]) == ("d.npz", 5, steps)
    action = np.concatenate([episode.action for episode in demos])
    assert [one["min"] for one in result["actions"]] == pytest.approx(action.min(0).tolist())


def test_info_of_a_lerobot_dataset(command: Command) -> None:
    result = command(f"softflow-data info {GENUINE / 'v061_video'} --json")
    summary = json.loads(result.out)
    assert (summary["episodes"], summary["steps"], summary["repeated_final_observations"]) == (3, 39, 3)
    assert [part["name"] for part in summary["task"]["observation"]] == [
        "observation.state",
        "observation.images.wrist",
    ]
    assert "the bounds of actions are the extremes in its statistics" in result.err


def test_a_lerobot_dataset_becomes_a_file_of_ours(command: Command) -> None:
    source = GENUINE / "v061_image"
    assert (
        command(f"softflow-data convert {source} new/c.npz --format lerobot").out == "new/c.npz: 3 episodes, 39 steps\n"
    )
    converted, expected = load_dataset("new/c.npz"), read_dataset(source)
    assert converted.task == expected.task
    require_same(converted.episodes, expected.episodes)


def test_a_file_of_ours_becomes_a_lerobot_dataset_and_back(demos: list[Episode], command: Command) -> None:
    steps = sum(map(len, demos))
    result = command("softflow-data convert d.npz new/lerobot --to lerobot --rate 20 --text", "reach the goal")
    assert result.out == f"new/lerobot: 5 episodes, {steps} steps\n"
    assert "new/lerobot: LeRobot does not store the observation after the last action" in result.err
    assert json.loads(Path("new/lerobot/meta/info.json").read_text())["fps"] == 20
    assert pq.read_table("new/lerobot/meta/tasks.parquet")["task"].to_pylist() == ["reach the goal"]
    assert command("softflow-data convert new/lerobot back.npz").status == 0
    back, before = load_dataset("back.npz"), load_dataset("d.npz")
    assert before.task is not None and back.task == replace(before.task, rate=20.0)
    without_final = [replace(one, observation=[*one.observation[:-1], one.observation[-2]], mode=-1) for one in demos]
    require_same(back.episodes, without_final)


def test_info_with_a_contact_sheet(command: Command) -> None:
    result = command(f"softflow-data info {GENUINE / 'v061_image'} --images new/sheet.png --json")
    assert json.loads(result.out)["episodes"] == 3
    with Image.open("new/sheet.png") as sheet:
        assert sheet.format == "PNG"


def test_an_interrupted_recording_is_repaired_as_its_error_says(command: Command, tmp_path: Path) -> None:
    source = GENUINE / "v061_video_interrupted"
    advice = command(f"softflow-data info {source}").error().split("by: ")[1]
    result = command(advice.replace("TARGET", "whole").strip())
    assert (result.status, result.out) == (
        0,
        "whole: 2 whole episodes with 25 steps recovered; left behind: 13 images of episode 2\n",
    )
    assert "2 episodes, 25 steps" in command("softflow-data info whole").out


def test_files_split_merged_and_filtered_hold_the_same_episodes(demos: list[Episode], command: Command) -> None:
    result = command("softflow-data split d.npz a.npz b.npz --share 0.6 --seed 1")
    first, second = load_dataset("a.npz"), load_dataset("b.npz")
    sizes = [f"{len(part.episodes)} episodes, {sum(map(len, part.episodes))} steps" for part in (first, second)]
    assert result.out == f"a.npz: {sizes[0]}\nb.npz: {sizes[1]}\n"
    assert (len(first.episodes), len(second.episodes)) == (3, 2)

    steps = sum(map(len, demos))
    assert command("softflow-data merge m.npz a.npz b.npz").out == f"m.npz: 5 episodes, {steps} steps of 2 datasets\n"
    merged = load_dataset("m.npz")
    assert merged.task == load_dataset("d.npz").task
    require_same(merged.episodes, [*first.episodes, *second.episodes])

    result = command("softflow-data filter d.npz f.npz --successes --min-return 0.5 --max-length 1000 --best 100")
    assert result.out == f"f.npz: 5 of 5 episodes kept, {steps} of {steps} steps\n"
    require_same(load_dataset("f.npz").episodes, demos)


def test_different_tasks_are_not_merged(demos: list[Episode], command: Command) -> None:
    assert command(f"softflow-data convert {GENUINE / 'v061_video'} v.npz").status == 0
    assert command("softflow-data merge m.npz d.npz v.npz").error() == (
        "error: v.npz is of another task than d.npz: observation 'observation' is missing; observation "
        "'observation.state' is not expected; observation 'observation.images.wrist' is not expected; action 'action' "
        "has [0] in -0.918979 ... 0.952925, expected -1 ... 1 and [1] in -0.994523 ... 0.963885, expected -1 ... 1\n"
    )
    assert not Path("m.npz").exists()


def test_a_format_without_bounds_takes_those_of_the_first_source(command: Command) -> None:
    whole, part = GENUINE / "v061_video", "part"
    assert command(f"softflow-data repair {GENUINE / 'v061_video_interrupted'} {part}").status == 0
    assert command(f"softflow-data merge m.npz {whole} {part}").out == "m.npz: 5 episodes, 64 steps of 2 datasets\n"
    merged, expected = load_dataset("m.npz"), read_dataset(whole)
    assert merged.task == expected.task
    require_same(merged.episodes, [*expected.episodes, *expected.episodes[:2]])
    error = command(f"softflow-data merge n.npz {part} {whole}").err.splitlines()[-1]  # which has larger actions
    assert "x[0] = 0.952925 of action 1 is outside its bounds -0.918979 ... 0.897887" in error
    assert not Path("n.npz").exists()


def test_a_filter_says_what_it_keeps(command: Command) -> None:
    lengths = [(3, True), (5, False), (8, True)]
    episodes = [Episode(np.zeros((n + 1, 2)), np.zeros((n, 1)), -np.ones(n), True, False, ok) for n, ok in lengths]
    save_demonstrations("d.npz", episodes)
    result = command("softflow-data filter d.npz f.npz --min-return -6")
    assert result.out == "f.npz: 2 of 3 episodes kept, 8 of 16 steps\n"
    assert list(map(len, load_dataset("f.npz").episodes)) == [3, 5]
    assert command("softflow-data filter d.npz g.npz --no-successes --best 1").out.startswith("g.npz: 1 of 3 ")
    result = command("softflow-data filter d.npz h.npz --where", "success and -6 <= return or index == 1")
    assert result.out == "h.npz: 2 of 3 episodes kept, 8 of 16 steps\n"


def test_an_environment_says_the_bounds_and_the_parts(demos: list[Episode], command: Command, tmp_path: Path) -> None:
    expected = TaskSpec.from_env(make_env("two_routes"))
    write_numbers(tmp_path / "lerobot", [as_columns(episode) for episode in demos])
    small = "--num-demos 5 --algo imitation --horizon 4 --flow-options.width 8 --imitation.updates 2 --eval-episodes 2"
    assert command("softflow-data convert lerobot guessed.npz").status == 0
    error = command(f"softflow-train --env two_routes --demos guessed.npz {small} --run-dir run").error()
    assert "guessed.npz: the demonstrations are of another task: observation 'observation' is missing; " in error
    assert "action 'action' has [0] in " in error
    for line, files in (
        ("convert lerobot converted.npz", ["converted.npz"]),
        ("filter lerobot kept.npz --successes", ["kept.npz"]),
        ("split lerobot first.npz second.npz --share 0.5", ["first.npz", "second.npz"]),
        ("merge both.npz lerobot d.npz", ["both.npz"]),
    ):
        assert command(f"softflow-data {line} --env two_routes").status == 0
        for file in files:
            task = load_dataset(file).task
            assert task is not None and task.action == expected.action and task.observation == expected.observation
    converted = load_dataset("converted.npz")
    assert converted.task == replace(expected, rate=10)
    for one, other in zip(converted.episodes, demos, strict=True):
        np.testing.assert_array_equal(one.action, other.action)
    assert len(load_dataset("both.npz").episodes) == 10
    assert command(
        "softflow-data convert lerobot again.npz --env two_routes --map state=observation.state"
    ).error() == (
        "error: lerobot: the task has no part 'state': it has observation, action, and single numbers such as "
        "observation[0]\n"
    )


LINES = [
    (
        "convert d.npz c.npz --env peg_insertion",
        "d.npz: the demonstrations are of another task: observation 'gripper' is",
    ),
    ("convert d.npz c.npz --env tow_routes", "unknown environment 'tow_routes': did you mean 'two_routes'?"),
    (
        "convert d.npz c.npz --env two_routes --env-options.routes 3",
        "'two_routes' cannot be made with routes=3",
    ),
    (
        "convert d.npz c.npz --map state=observatoin",
        "d.npz: the dataset has no observation 'observatoin': it has observation",
    ),
    (
        "filter d.npz c.npz --successes --format lerobot",
        "d.npz: this is no dataset of the format lerobot, it looks like npz",
    ),
    ("merge m.npz d.npz d.npz --env peg_insertion", "d.npz: the demonstrations are of another task: "),
    ("inof d.npz", "unknown command 'inof': did you mean 'info'?"),
    ("info nowhere", "nowhere: no such file"),
    ("info d.npz --format lerobto", "unknown dataset format 'lerobto'; did you mean 'lerobot'?"),
    ("info d.npz --jsno", "unknown flag --jsno: did you mean '--json'?"),
    ("info small.yaml", "small.yaml: in no known format; known are d4rl"),
    ("convert d.npz c.hdf5", "c.hdf5 must end in .npz, or be a folder with --to lerobot"),
    ("convert d.npz c --to lerobto", "lerobto"),
    ("convert d.npz c --to lerobot", "c: the control rate is not known: LeRobot needs it, so give it in hertz"),
    ("convert d.npz c.npz --to lerobot", "c.npz is the name of a file, --to lerobot writes a folder: leave out .npz"),
    ("convert d.npz d.npz/c --to lerobot --rate 20", "is no folder"),
    ("convert d.npz c.npz --rate 20", "--rate and --text are stored in LeRobot datasets only: add --to lerobot"),
    ("info d.npz --images sheet.png", "sheet.png: there are no images in the observations"),
    ("info d.npz --images sheet.jpg", "sheet.jpg must end in .png, the format that is written"),
    ("convert d.npz d.npz", "d.npz exists; choose another file"),
    ("convert d.npz small.yaml/c.npz", "is no folder"),
    ("repair d.npz whole", "d.npz: this is no dataset of the format lerobot, it looks like npz"),
    ("info d.npz --format lerobot", "d.npz: this is no dataset of the format lerobot, it looks like npz"),
    ("repair nothing.npz whole", "nothing.npz: meta/info.json is missing"),
    ("merge m.npz d.npz", "give at least two datasets, got 1"),
    ("merge d.npz d.npz d.npz", "d.npz exists"),
    ("filter d.npz f.npz", "no condition to filter by"),
    (
        "filter d.npz f.npz --min-return 2",
        "no episode meets the conditions: there are 5 episodes, 5 successes, lengths",
    ),
    ("filter d.npz f.npz --min-return nan", "min_return"),
    ("filter d.npz f.npz --best 0", "best must be a percentage above 0 and up to 100, got 0"),
    ("filter d.npz f.npz --min-length 1.5", "1.5"),
    (
        "filter d.npz f.npz --where lenght<3",
        "where: unknown name 'lenght': valid: success, terminated, length, return, ",
    ),
    ("filter d.npz f.npz --where length<<3", "where: 'length<<3' is not allowed: use names, numbers, "),
    ("filter d.npz f.npz --where mode/(index-1)>0", "where: 'mode/(index-1)' is no finite number for episode 1"),
    ("split d.npz a.npz ./a.npz", "a.npz is given twice"),
    ("split d.npz a.npz b.npz --share 1", "share must be above 0 and below 1, got 1"),
    ("split d.npz a.npz d.npz", "d.npz exists"),
]


@pytest.mark.parametrize(("line", "message"), LINES)
def test_what_is_refused_in_one_line_writes_nothing(
    line: str, message: str, demos: list[Episode], command: Command, snapshot: Callable[[], dict]
) -> None:
    before = snapshot()
    result = command(f"softflow-data {line}")
    assert result.status == 2 and message in result.err.splitlines()[-1], result
    assert result.err.splitlines()[-1].startswith("error: ") and snapshot() == before


def test_a_split_is_written_as_a_whole_or_not_at_all(
    demos: list[Episode], command: Command, snapshot: Callable[[], dict], monkeypatch: pytest.MonkeyPatch
) -> None:
    def save(path: Path, *rest: object) -> None:
        if path.name == "b.npz":
            raise WriteError(28, "No space left on device", str(path))
        save_demonstrations(path, *rest)  # type: ignore[arg-type]

    before = snapshot()
    monkeypatch.setattr(data, "save_demonstrations", save)
    assert command("softflow-data split d.npz a.npz b.npz").error() == (
        "error: b.npz: cannot be written: No space left on device\n"
    )
    assert snapshot() == before


def test_the_missing_package_is_named(demos: list[Episode], command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("repair", "writer", "episodes", "video"):
        monkeypatch.delitem(sys.modules, f"softflow.formats.lerobot.{module}", raising=False)
    monkeypatch.setitem(sys.modules, "av", None)
    error = command("softflow-data convert d.npz c --to lerobot --rate 20").error()
    assert "--to lerobot needs the package 'av': pip install \"softflow[lerobot]\"" in error
    error = command(f"softflow-data repair {GENUINE / 'v061_video_interrupted'} whole").error()
    assert "repair needs the package 'av': pip install \"softflow[lerobot]\"" in error


@pytest.mark.parametrize("name", data.COMMANDS)
def test_every_command_has_its_help(name: str, command: Command) -> None:
    result = command(f"softflow-data {name} --help")
    assert result.status == 0 and f"usage: softflow-data {name} " in result.out
    assert name in command("softflow-data").out


def test_the_documented_commands_work_as_they_are(command: Command) -> None:
    pages = Path(__file__).parents[2] / "docs/how-to"
    text = "".join((pages / name).read_text() for name in ("edit-data.md", "check-data.md"))
    lines = [line.removeprefix("$ ") for line in text.splitlines() if line.startswith("$ ")]
    assert len(lines) == 6
    for line in lines:
        result = command(*shlex.split(line))
        assert result.status == 0, line
        if " check " in line:
            assert f"$ {line}\n{result.out}```\n" in text
    assert len(load_dataset("both.npz").episodes) == len(load_dataset("fast.npz").episodes) > 0
    commands = [line.split()[2] for line in text.splitlines() if line.startswith("| `softflow-data ")]
    assert commands == list(data.COMMANDS)
