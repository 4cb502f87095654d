"""`--demo-map` and `--demos-format`: a dataset whose parts have other names than those of the environment."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import yaml

import softflow
from softflow.algos import SoftFlow
from softflow.data import Dataset, load_dataset, read_dataset, save_demonstrations
from softflow.envs import make_env
from softflow.runs.record_demonstrations import record_demonstrations
from softflow.task import TaskSpec
from tests.cli.conftest import Command
from tests.cli.training_runs import interrupted
from tests.formats.lerobot_datasets import write_numbers

THEIRS = {"gripper": "tcp", "opening": "fingers", "head": "peg_head", "tail": "peg_tail", "hole": "target"}
MOTORS = ["grip", "dz", "dy", "dx"]
"""The numbers of an action in the dataset: those of the environment, the other way round."""
OBSERVED = " ".join(f"{ours}=observation.{theirs}" for ours, theirs in THEIRS.items())
ACTED = " ".join(f"action[{3 - index}]={name}" for index, name in enumerate(MOTORS))
SMALL = (
    "--algo imitation --env peg_insertion --num-demos 9 --num-envs 2 --eval-episodes 2 --threads 1 --batch-size 16 "
    "--horizon 4 --n-action-steps 2 --flow-options.width 8 --imitation.updates 2"
)


@pytest.fixture(scope="module")
def recorded() -> Dataset:
    return record_demonstrations(lambda: make_env("peg_insertion"), 3, 0)


def write_theirs(root: Path, dataset: Dataset, names: Sequence[str] | None = MOTORS) -> Path:
    """Write demonstrations of peg_insertion as LeRobot records them, under the names of another laboratory."""
    task, episodes = dataset.task, []
    assert task is not None
    for episode in dataset.episodes:
        observed = {
            f"observation.{theirs}": episode.observation[:-1, task.columns[ours]] for ours, theirs in THEIRS.items()
        }
        done = np.arange(len(episode)) == len(episode) - 1
        labels = {"next.reward": episode.reward, "next.success": done & episode.is_success, "next.done": done}
        episodes.append({**observed, "action": task.native_actions(episode.action)[:, ::-1], **labels})
    return write_numbers(root, episodes, None if names is None else {"action": names})


@pytest.fixture
def theirs(recorded: Dataset, tmp_path: Path) -> Path:
    """`theirs`, a LeRobot dataset."""
    return write_theirs(tmp_path / "theirs", recorded)


def require_recorded(dataset: Dataset, recorded: Dataset) -> None:
    assert recorded.task is not None and dataset.task is not None
    assert dataset.task.observation == recorded.task.observation and dataset.task.action == recorded.task.action
    assert len(dataset.episodes) == len(recorded.episodes)
    for episode, original in zip(dataset.episodes, recorded.episodes, strict=True):
        np.testing.assert_array_equal(episode.observation[:-1], original.observation[:-1])
        np.testing.assert_allclose(episode.action, original.action, atol=1e-6)


def test_a_run_learns_from_parts_of_other_names(theirs: Path, recorded: Dataset, command: Command) -> None:
    line = f"softflow-train {SMALL} --demos theirs --run-dir run"
    result = command(f"{line} --demos-format lerobot --demo-map {OBSERVED} {ACTED}")
    assert result.status == 0, result
    require_recorded(load_dataset("run/demonstrations.npz"), recorded)
    settings = yaml.safe_load(Path("run/config.yaml").read_text())
    assert settings["demos_format"] == "lerobot"
    assert settings["demo_map"]["hole"] == "observation.target" and settings["demo_map"]["action[0]"] == "dx"

    small = SMALL.replace("--env peg_insertion ", "")
    assert command(f"softflow-train {small} --base run --run-dir new").status == 0
    settings = yaml.safe_load(Path("new/config.yaml").read_text())  # the copy has the names of the environment
    assert (settings["demos_format"], settings["demo_map"]) == (None, {})
    require_recorded(load_dataset("new/demonstrations.npz"), recorded)


def test_python_and_files_of_settings_take_a_mapping(theirs: Path, recorded: Dataset, command: Command) -> None:
    task = TaskSpec.from_env(make_env("peg_insertion"))
    names = dict(pair.split("=") for pair in f"{OBSERVED} {ACTED}".split())
    require_recorded(read_dataset(theirs, wanted=task, names=names), recorded)
    hole = {"demo_map": {"hole": names.pop("hole")}}  # a file and flags are merged, name by name
    Path("theirs.yaml").write_text(yaml.safe_dump(hole))
    more = " ".join("=".join(pair) for pair in names.items())
    assert (
        command(f"softflow-train {SMALL} --demos theirs --config theirs.yaml --demo-map {more} --run-dir a").status == 0
    )
    require_recorded(load_dataset("a/demonstrations.npz"), recorded)
    sizes = {"num_envs": 2, "eval_episodes": 2, "threads": 1, "horizon": 4, "flow_options": {"width": 8}}
    settings = {**sizes, "imitation": {"updates": 2}, "run_dir": "b", "demo_map": names | hole["demo_map"]}
    run = softflow.train("imitation", env="peg_insertion", demos=theirs, **settings)
    require_recorded(run.demonstrations(), recorded)


def test_a_file_of_ours_is_renamed_in_the_same_way(theirs: Path, recorded: Dataset, command: Command) -> None:
    everything = OBSERVED.replace("observation.", "")
    assert command(f"softflow-data convert theirs named.npz --map {' '.join(OBSERVED.split()[1:])}").status == 0
    [kept] = [part.name for part in load_dataset("named.npz").task.observation[:1]]  # type: ignore[union-attr]
    assert kept == "opening" and len(load_dataset("named.npz").task.observation) == 4  # type: ignore[union-attr]
    pairs = [pair.split("=") for pair in everything.split()]
    back = " ".join(f"{theirs}={ours}" for ours, theirs in reversed(pairs))
    save_demonstrations("ours.npz", *recorded)
    assert command(f"softflow-data convert ours.npz other.npz --map {back}").status == 0
    other = load_dataset("other.npz").task
    assert other is not None and [part.name for part in other.observation] == list(THEIRS.values())[::-1]
    assert command(f"softflow-train {SMALL} --demos other.npz --demo-map {everything} --run-dir run").status == 0
    require_recorded(load_dataset("run/demonstrations.npz"), recorded)


def test_demonstrations_that_are_added_are_read_as_they_are(theirs: Path, recorded: Dataset, command: Command) -> None:
    """The names of the first file are not those of another one."""
    save_demonstrations("first.npz", recorded.episodes[:1], recorded.task)
    small = SMALL.replace("imitation ", "softflow ") + " --collect-steps 40 --critic-width 8 --warmup.updates 2"
    line = f"softflow-train {small} --offline.updates 2 --online.steps 80 --online.updates-per-step 0.05"
    with interrupted(SoftFlow, at=3):
        assert command(f"{line} --demos first.npz --demo-map hole=hole --run-dir run").status == 130
    alone = command(f"softflow-train --resume run --demo-map {OBSERVED}").error()
    assert "demo_map says how the file of demos is read, and there is none: give demos as well" in alone
    result = command(f"softflow-train --resume run --demos theirs --demo-map {OBSERVED} {ACTED}")
    assert result.status == 0 and "theirs: 3 demonstrations are added, 0 were there already" in result.out, result
    assert len(load_dataset("run/demonstrations.npz").episodes) == 4
    settings = yaml.safe_load(Path("run/config.yaml").read_text())
    assert settings["demos"] == "first.npz" and settings["demo_map"] == {"hole": "hole"}
    softflow.Run("run").resume(demos="first.npz", demos_format="npz", online={"steps": 160})
    assert len(load_dataset("run/demonstrations.npz").episodes) == 4


HAS = "it has observation.tcp, observation.fingers, observation.peg_head, observation.peg_tail, observation.target"
LINES = [
    (
        "--demo-map hole=observation.taget",
        f"theirs: the dataset has no observation 'observation.taget': {HAS}, and single numbers such as ",
    ),
    (
        "--demo-map hoel=observation.target",
        "theirs: the task has no part 'hoel': it has gripper, head, hole, opening, tail, action, and single numbers "
        "such as gripper[0]\n",
    ),
    (
        "--demo-map head=observation.tcp tail=observation.tcp",
        "theirs: 'observation.tcp' is given for 'head' and 'tail': a part can be used once\n",
    ),
    ("--demo-map action[0]=dw", "theirs: the dataset has no action 'dw': it has grip, dz, dy, dx\n"),
    (
        "--demo-map action[0]=dx",
        "action[1], action[2], action[3] of the task is not named: name all numbers of 'action'",
    ),
    ("--demo-map hole=observation.target", "theirs: observation 'gripper' is missing; "),
    ("--demo-map hole", "--demo-map needs pairs such as NAME=OTHER_NAME\n"),
    ("--demo-map hole= --seed 1", "--demo-map needs pairs such as NAME=OTHER_NAME, got 'hole='\n"),
    ("--demo-map a=b a=c", "--demo-map has 'a' twice, as 'b' and 'c'\n"),
    ("--demos-format lerobto", "unknown dataset format 'lerobto'; did you mean 'lerobot'?"),
    ("--demos-format minority", "unknown dataset format 'minority'; did you mean 'minari'? (valid: d4rl, lerobot, "),
    ("--demos-format ogbench", "theirs: "),
]


def test_missing_parts_name_the_flag_that_renames_them(theirs: Path, command: Command) -> None:
    """A part is proposed if no other could be meant."""
    likely = "gripper=NAME head=NAME hole=observation.target opening=observation.fingers tail=NAME\n"
    advice = "if only names differ, give them: "
    error = command(f"softflow-train {SMALL} --demos theirs --run-dir run").error()
    assert error.endswith(f"{advice}--demo-map {likely}")
    assert command("softflow-data info theirs --env peg_insertion").error().endswith(f"{advice}--map {likely}")
    assert command("softflow-data check theirs --env peg_insertion").error().endswith(f"{advice}--map {likely}")
    assert command("softflow-data convert theirs ours.npz --map tip=observation.tcp").status == 0
    error = command("softflow-data info ours.npz --env two_routes").error()
    assert error.endswith("action 'action' has 4 numbers, expected 2\n"), "it is of another task, and no names help"
    assert command("softflow-data convert theirs less.npz --map gripper=observation.tcp").status == 0
    error = command("softflow-data info less.npz --env peg_insertion").error()
    assert "observation 'tail' is missing" in error and "--map" not in error


@pytest.mark.parametrize(("flags", "message"), LINES)
def test_what_does_not_fit_is_one_line(flags: str, message: str, theirs: Path, command: Command) -> None:
    assert message in command(f"softflow-train {SMALL} --demos theirs {flags} --run-dir run").error()
    assert not Path("run").exists()


def test_numbers_without_names_are_called_by_their_indices(recorded: Dataset, command: Command, tmp_path: Path) -> None:
    write_theirs(tmp_path / "unnamed", recorded, names=None)
    line = f"softflow-data convert unnamed named.npz --env peg_insertion --map {OBSERVED}"
    assert "unnamed: the dataset has no action 'grip': it has action, and single" in command(f"{line} {ACTED}").error()
    reversed_again = " ".join(f"action[{index}]=action[{3 - index}]" for index in range(4))
    assert command(f"{line} {reversed_again}").status == 0
    require_recorded(load_dataset("named.npz"), recorded)


def test_how_a_file_is_read_needs_a_file(command: Command) -> None:
    for flags, name in (("--demo-map hole=target", "demo_map"), ("--demos-format lerobot", "demos_format")):
        assert f"{name} says how the file of demos is read" in command(f"softflow-train {SMALL} {flags}").error()


def test_help_shows_the_names(command: Command) -> None:
    shown = command("softflow-train --demo-map wrist=left/cam --help").out
    assert "--demo-map" in shown and "wrist=left/cam" in shown
