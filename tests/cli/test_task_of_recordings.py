"""Files of recordings say what they are of, and training compares it with its environment."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from softflow.data import load_corrections, load_dataset, save_corrections, save_demonstrations
from softflow.envs import make_env
from softflow.task import TaskSpec
from tests.cli.conftest import Command, pendulum_demonstrations

PENDULUM = TaskSpec.from_env(make_env("Pendulum-v1"))
TRAIN = "softflow-train --env Pendulum-v1 --config small.yaml --run-dir run"


def pendulum(path: Path, task: TaskSpec) -> None:
    episodes = load_dataset(pendulum_demonstrations(path, reward=1.0)).episodes
    save_demonstrations(path, episodes, task)


def test_recorded_demonstrations_say_their_task(command: Command) -> None:
    assert command("softflow-demo --env two_routes --episodes 2 --out d.npz --success any").status == 0
    expected = replace(TaskSpec.from_env(make_env("two_routes")), success="any")
    assert load_dataset("d.npz").task == expected
    assert command("softflow-train --env two_routes --config small.yaml --run-dir run --success any").status == 0
    assert load_dataset("run/demonstrations.npz").task == expected


def test_given_demonstrations_keep_theirs(command: Command, tmp_path: Path) -> None:
    pendulum(tmp_path / "d.npz", replace(PENDULUM, success="return>=-300", rate=None))
    result = command(f"{TRAIN} --demos d.npz")
    assert result.status == 0, result
    assert "d.npz was judged by success 'return>=-300', this run by 'last'" in result.out
    assert load_dataset("run/demonstrations.npz").task == load_dataset("d.npz").task


def test_another_rule_than_that_of_the_recording_judges_by_the_return(command: Command, tmp_path: Path) -> None:
    """Formats without a success call every episode a failure, and the return is then what tells."""
    pendulum(tmp_path / "d.npz", PENDULUM)
    recorded = load_dataset("d.npz").episodes
    episodes = [
        replace(one, reward=np.append(np.zeros(len(one) - 1), index % 2), is_success=index == 0)
        for index, one in enumerate(recorded)
    ]
    save_demonstrations("d.npz", episodes, PENDULUM)
    result = command(f"{TRAIN} --demos d.npz --success return>=1")
    assert result.status == 0, result
    number = len(episodes) // 2
    assert f"d.npz: {number} of {len(episodes)} demonstrations have a return of at least 1: successes" in result.out
    learnt = load_dataset("run/demonstrations.npz")
    assert [one.is_success for one in learnt.episodes] == [index % 2 == 1 for index in range(len(episodes))]
    assert learnt.task == replace(PENDULUM, success="return>=1")


def test_without_a_task_sizes_alone_are_compared(command: Command, demonstrations: Path) -> None:
    result = command(f"{TRAIN} --demos {demonstrations}")
    assert result.status == 0 and "judged" not in result.out, result
    assert load_dataset("run/demonstrations.npz").task is None


def test_demonstrations_of_another_task_are_refused(command: Command, tmp_path: Path) -> None:
    [part] = PENDULUM.action
    other = replace(PENDULUM, rate=50.0, action=(replace(part, low=(-1.0,)),))
    pendulum(tmp_path / "d.npz", other)
    error = command(f"{TRAIN} --demos d.npz").error()
    assert "the demonstrations are of another task: action 'action' has [0] in -1 ... 2, expected -2 ... 2; " in error
    assert "the control rate is 50 Hz, expected 20 Hz" in error
    assert not Path("run").exists()


def test_corrections_of_another_task_are_refused(command: Command, demonstrations: Path, corrections: Path) -> None:
    given = load_corrections(corrections)
    updates = "--correction.updates 2 --warmup.updates 2 --critic-width 8 --num-envs 2 --eval-episodes 2 --threads 1"
    train = f"softflow-train --algo correction --env Pendulum-v1 --base run --corrections c.npz --run-dir new {updates}"
    train += f" --n-action-steps 2 --batch-size 16 --demos {demonstrations}"
    save_corrections(corrections, replace(given, task=replace(PENDULUM, rate=50.0)))
    assert "corrections c.npz: the control rate is 50 Hz, expected 20 Hz" in command(train).error()
    assert not Path("new").exists()
    save_corrections(corrections, replace(given, task=PENDULUM))
    result = command(train)
    assert result.status == 0, result
    assert load_corrections("new/corrections.npz").task == PENDULUM
