"""The control rate of softflow-robot run: whose it is, what is said of it, and what is recorded."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from softflow import Run
from softflow.cli import train
from softflow.data import Episode, read_dataset, save_demonstrations
from softflow.envs import make_env
from softflow.errors import UserError
from softflow.robot import GymnasiumRobot
from softflow.runs import run_robot
from softflow.runs.robots import control_rate
from softflow.settings.typed import to_dict
from softflow.task import ActionPart, ObservationPart, TaskSpec
from softflow.training.spool import Spool
from tests.cli.conftest import SMALL, Command

TASK = TaskSpec((ObservationPart("joints", (2,)),), (ActionPart("target", (-3.0,), (3.0,)),))
ARM = """
from dataclasses import replace
import gymnasium
import numpy as np
from softflow.robot import Robot
from softflow.task import ActionPart, ObservationPart, TaskSpec

class Arm(Robot):
    task = TaskSpec((ObservationPart("joints", (2,)),), (ActionPart("target", (-3.0,), (3.0,)),), rate=50.0)
    def reset(self):
        open("moved", "a").write("x")
        self.count = 0
    def observe(self):
        return {"joints": np.zeros(2)}
    def command(self, action):
        self.count += 1
    def stop(self):
        pass
    def has_ended(self):
        return self.count == 3
    def is_success(self):
        return True

class Plain:
    reset = observe = command = stop = is_success = None

class Simulation(gymnasium.Env):
    pass

class Silent(Arm):
    task = None

class Narrow(Arm):
    task = replace(Arm.task, action=(ActionPart("target", (-1.0,), (1.0,)),))
"""
PATIENT = "--patience 20 --stall 9 --episodes 1 --json"
FROM_ROBOT = "the policy's task has no control rate: it acts at 50 Hz, the rate of the robot's task"


class InThisProcess:
    """Loads a policy and answers as a `PolicyProcess` does, without the seconds that a new process takes."""

    def __init__(self, load: Any) -> None:
        self.description, self._answer = load()

    def ask(self, *question: Any) -> Any:
        return self._answer(*question)

    def close(self) -> None:
        pass


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the run `unrated`, whose data have no control rate, and the run `rated`, of 20 Hz."""
    folder, rng = tmp_path_factory.mktemp("runs"), np.random.default_rng(0)
    (folder / "small.yaml").write_text(SMALL.partition("critic")[0] + "imitation: {updates: 2}\n")
    for name, rate in (("unrated", None), ("rated", 20.0)):
        episode = Episode(rng.normal(size=(11, 2)), rng.uniform(-1, 1, (10, 1)), np.zeros(10), False, True, True)
        save_demonstrations(folder / "d.npz", [episode] * 2, replace(TASK, rate=rate))
        line = (
            f"--algo imitation --env none --demos {folder}/d.npz --config {folder}/small.yaml --run-dir {folder}/{name}"
        )
        assert train.main(line.split()) == 0
    return folder


@pytest.fixture
def run(runs: Path, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """`run("unrated", "Arm", "flags")`."""
    monkeypatch.setattr(run_robot, "PolicyProcess", InThisProcess)
    (tmp_path / "rated_arm.py").write_text(ARM)
    monkeypatch.syspath_prepend(tmp_path)
    return lambda name, robot, flags="": command(
        f"softflow-robot run {runs / name} --robot rated_arm:{robot} {PATIENT} --out hour.rec {flags}"
    )


@pytest.mark.parametrize(
    ("policy", "robot", "flags", "rate", "said"),
    [
        ("unrated", "Arm", "", 50, [FROM_ROBOT]),
        (
            "unrated",
            "Arm",
            "--rate 25",
            25,
            ["the robot's task has a control rate of 50 Hz, and the robot is controlled at 25 Hz"],
        ),
        ("unrated", "Silent", "--rate 25", 25, []),
        ("rated", "Silent", "", 20, []),
        ("rated", "Silent", "--rate 40", 40, ["the policy was trained at 20 Hz and acts at 40 Hz"]),
    ],
)
def test_the_rate_is_said_and_recorded(
    policy: str, robot: str, flags: str, rate: float, said: list[str], run: Any
) -> None:
    result = run(policy, robot, f"{flags} --synchronous")  # otherwise a slow machine may be too slow for the rate
    assert result.status == 0, result.err
    assert [line for line in result.err.splitlines() if " Hz" in line] == said
    assert json.loads(result.out)["rate"] == rate
    assert read_dataset("hour.rec").task == replace(TASK, rate=rate)


@pytest.mark.parametrize(
    ("policy", "robot", "flags", "message"),
    [
        ("rated", "Arm", "", "the robot has another task than the policy: the control rate is 50 Hz, expected 20 Hz"),
        (
            "unrated",
            "Narrow",
            "",
            "action 'target' has [0] in -1 ... 1, expected -3 ... 3: the policy has the bounds of its demonstrations, "
            "so give these the bounds of the robot",
        ),
        ("unrated", "Silent", "", "the control rate of the policy's task and of the robot is not known: give --rate"),
        ("unrated", "Arm", "--lead -1", "lead must be at least 0, got -1"),
    ],
)
def test_what_does_not_fit_is_refused_before_the_robot_moves(
    policy: str, robot: str, flags: str, message: str, run: Any
) -> None:
    result = run(policy, robot, flags)
    assert result.status == 2 and message in result.err.splitlines()[-1], result
    assert not Path("moved").exists() and not Path("hour.rec").exists()


def test_an_environment_without_a_rate_needs_one() -> None:
    with closing(GymnasiumRobot(make_env("MountainCarContinuous-v0"))) as robot:
        with pytest.raises(UserError) as refused:
            control_rate(None, robot, TASK)
        assert control_rate(30.0, robot, TASK) == 30
    assert str(refused.value) == (
        "the control rate of the policy's task and of the robot is not known: give --rate, in hertz, or set "
        "metadata['control_rate'] of the environment"
    )


def test_a_robot_is_looked_for_before_the_policy_is_loaded(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_robot, "PolicyProcess", None)  # nothing is loaded
    assert "has no subclass of softflow.robot.Robot called 'Arn'" in run("unrated", "Arn").error()
    assert run("unrated", "Plain").error() == (
        "error: robot 'rated_arm:Plain': the class 'Plain' does not derive from softflow.robot.Robot: write `from "
        "softflow.robot import Robot` and `class Plain(Robot)`\n"
    )
    assert run("unrated", "Simulation").error() == (
        "error: robot 'rated_arm:Simulation': the class 'Simulation' is an environment: register it with gymnasium, "
        "and name it by its id, such as rated_arm:Simulation-v0 (docs/how-to/environments.md)\n"
    )
    refused = run("unrated", "Arm", "--robot rated_arm").error()
    assert "no environment is called 'rated_arm'" in refused
    assert refused.endswith(" A robot class of your own is written module:Class.\n")


def test_a_class_in_the_current_folder_needs_pythonpath(runs: Path, command: Command) -> None:
    Path("arm_here.py").write_text(ARM)
    refused = command(f"softflow-robot run {runs / 'unrated'} --robot arm_here:Arm").error()
    assert refused.startswith("error: robot 'arm_here:Arm': cannot import 'arm_here'")
    assert refused.endswith("it is in the current folder, which Python does not search: set PYTHONPATH=.\n")


def test_a_learner_learns_at_its_own_rate(runs: Path, command: Command) -> None:
    config = Run(runs / "rated").config
    Spool("spool").describe(to_dict(config), replace(TASK, rate=20.0))
    refused = command("softflow-robot run spool --robot rated_arm:Arm --out kept --rate 40").error()
    assert refused == "error: spool: its learner learns at 20 Hz, not at 40 Hz: leave out --rate\n"
