"""Runs without an environment: a dataset describes the task, and the policy acts on a robot."""

from __future__ import annotations

from dataclasses import replace

import pytest

from softflow import Run, load
from softflow.data import load_dataset, save_demonstrations
from softflow.task import ObservationPart
from softflow.training.checkpoint import load_policy
from tests.cli.conftest import Command

SMALL = "--imitation.updates 5 --flow-options.width 8 --flow-options.layers 2 --num-envs 2 --threads 1"


@pytest.fixture
def dataset(command: Command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert command("softflow-demo --env two_routes --episodes 3 --out d.npz").status == 0


@pytest.mark.usefixtures("dataset")
def test_a_dataset_alone_gives_a_policy_that_knows_its_task_and_acts_on_a_robot(command: Command):
    trained = command(f"softflow-train --algo imitation --env none --demos d.npz --run-dir first {SMALL}")
    assert trained.status == 0, trained
    assert "nothing was evaluated" in trained.out + trained.err
    assert "next: softflow-robot run first --robot MODULE:CLASS" in trained.out + trained.err
    task = load_dataset("d.npz").task
    assert load("first").task == task
    assert Run("first").config.run.env_options == {"task": task.describe()}
    assert command("softflow-robot run first --robot two_routes --episodes 1 --rate 50 --lead 1").status == 0
    gone_on = command(f"softflow-train --algo imitation --base first --run-dir second {SMALL}")
    assert gone_on.status == 0, gone_on
    assert load("second").task == task
    assert "this run has no environment" in command("softflow-eval first").error()


@pytest.mark.usefixtures("dataset")
def test_the_log_says_what_is_left_out_of_the_dataset(command: Command):
    episodes, task = load_dataset("d.npz")
    assert task is not None and task.row_size == 2
    named = replace(task, observation=(ObservationPart("joints", (1,)), ObservationPart("goal", (1,))))
    save_demonstrations("arm.npz", [replace(episode, task=named) for episode in episodes], named)
    line = f"softflow-train --algo imitation --env none --demos arm.npz {SMALL}"
    partly = command(f"{line} --run-dir partly --demo-map joint_pos=joints")
    assert "arm.npz: left out of the dataset: goal; to keep a part, name it too, such as goal=goal\n" in partly.err
    assert "reward dataset: those of the demonstrations\n" in partly.out
    wholly = command(f"{line} --run-dir wholly --demo-map joint_pos=joints goal=goal")
    assert wholly.status == 0 and "left out" not in wholly.err
    assert [part.name for part in load("partly").task.observation] == ["joint_pos"]
    assert [part.name for part in load("wholly").task.observation] == ["joint_pos", "goal"]


@pytest.mark.usefixtures("dataset")
def test_the_same_weights_as_with_the_environment(command: Command):
    for name in ("none", "two_routes"):
        flags = f"--algo imitation --env {name} --demos d.npz --run-dir {name} --eval-episodes 0 {SMALL}"
        assert command(f"softflow-train {flags}").status == 0
    weights = [load_policy(Run(name).path / "checkpoints" / "5").state_dict() for name in ("none", "two_routes")]
    assert all((one == other).all() for one, other in zip(*(one.values() for one in weights), strict=True))


@pytest.mark.usefixtures("dataset")
def test_what_is_missing_is_said_in_one_line(command: Command):
    episodes = load_dataset("d.npz").episodes
    save_demonstrations("nameless.npz", [replace(episode, task=None) for episode in episodes])
    for flags, expected in (
        ("--algo imitation", "without an environment there is no demonstrator: give demonstrations, --demos PATH"),
        ("--algo softflow --demos d.npz", "the stages online act, and there is no environment to act in"),
        ("--algo imitation --demos nameless.npz", "nameless.npz: it does not describe its observations and actions"),
    ):
        refused = command(f"softflow-train --env none {flags} --run-dir run {SMALL}")
        assert expected in refused.error()
