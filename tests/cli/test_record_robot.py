"""softflow-robot record: a person demonstrates on a robot, without a policy."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from softflow.cli import train
from softflow.data import read_dataset
from softflow.teleop import Command, Device, display
from tests.cli.conftest import SMALL

DEVICE = "--teleop tests.teleop.scripted:Scripted --teleop-options.script"
ARM = """
import numpy as np
from softflow.robot import Robot
from softflow.task import ActionPart, ObservationPart, TaskSpec

class Arm(Robot):
    task = TaskSpec((ObservationPart("joints", (1,)),), (ActionPart("target", (-1.0, 0.0), (3.0, 2.0)),), rate=50.0)
    def __init__(self, log="log"):
        self.log = log
    def reset(self):
        self.targets = []
    def observe(self):
        return {"joints": np.array([float(len(self.targets))])}
    def command(self, action):
        self.targets.append(action["target"].tolist())
    def stop(self):
        open(self.log, "a").write(f"{self.targets}\\n")
    def is_success(self):
        return True

class Unknown(Arm):
    task = None
"""


@pytest.fixture
def record(command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """`record("recorded_arm:Arm", "flags", script)` with a window that nobody sees and an `Arm` that tells its task."""
    (tmp_path / "recorded_arm.py").write_text(ARM)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    monkeypatch.setattr(display, "UNSEEN", ())
    line = "softflow-robot record --stall 9 --out demos.rec --robot"
    return lambda robot, flags, *script: command(f"{line} {robot} {flags} {DEVICE if script else ''}", *script)


def test_a_person_demonstrates_and_a_policy_learns_from_it(record: Any, command: Any, tmp_path: Path) -> None:
    begin, acts = "-q|space|", "q||||-q||return|"
    result = record("recorded_arm:Arm", "--episodes 2 --json", (begin + acts) * 2)
    assert result.status == 0, result.err
    report = json.loads(result.out)
    assert (report["episodes"], report["success_rate"], report["rate"]) == (2, 1, 50)
    episodes, task = read_dataset("demos.rec")
    assert task is not None and [part.name for part in task.observation] == ["joints"]
    for episode, stopped in zip(episodes, Path("log").read_text().splitlines(), strict=True):
        assert episode.human is not None and episode.human.all() and episode.proposals is None
        assert episode.is_success and episode.truncated and len(episode) >= 4
        targets = np.array(json.loads(stopped))
        np.testing.assert_allclose(task.native_actions(episode.action), targets, atol=1e-6)
        assert set(targets[:, 0]) == {0, 1.5} and not targets[:, 1].any()  # half of the way to the bound, or at rest
    (tmp_path / "small.yaml").write_text(SMALL.partition("critic")[0] + "imitation: {updates: 2}\n")
    line = "--algo imitation --env none --demos demos.rec --config small.yaml --run-dir learnt --eval-episodes 0"
    assert train.main(line.split()) == 0


def test_another_rate_than_that_of_the_class_is_said_and_recorded(record: Any) -> None:
    result = record("recorded_arm:Arm", "--episodes 1 --rate 25 --json", "-q|space|q||||return|")
    assert result.status == 0, result.err
    said = "the robot's task has a control rate of 50 Hz, and the robot is controlled at 25 Hz"
    assert said in result.err and json.loads(result.out)["rate"] == 25
    task = read_dataset("demos.rec").task
    assert task is not None and task.rate == 25


def test_nothing_moves_before_space_and_a_person_can_quit(record: Any) -> None:
    result = record("recorded_arm:Arm", "", "q|-q||escape||")
    assert result.status == 2
    assert result.err.rstrip().endswith("the robot was stopped: the takeover's reset failed: a person quit")
    assert Path("log").read_text() == "[]\n" and not Path("demos.rec").exists()


def test_a_simulated_robot(record: Any) -> None:
    line = "Pendulum-v1 --robot-options.max-episode-steps 9"
    result = record(line, "--episodes 1", "-q|space|" + "q|" * 30)
    assert result.status == 0, result.err
    assert result.out.splitlines()[0] == "1 episode at 20 Hz, success 0.00 [0.00, 0.79]"
    [episode] = read_dataset("demos.rec").episodes
    assert episode.human is not None and episode.human.all() and not episode.is_success


class Pedal(Device):
    """Begins by its own button, and ends the episode after three steps.

    A press from before the person is asked to begin has no effect, and neither has one that ends an episode too early.
    """

    def reset(self) -> None:
        self._commands = [[Command.PAUSE], [], [Command.KEEP], [Command.PAUSE], [], [], [], [Command.KEEP]]

    def listen(self, events: Sequence[Any]) -> list[Command]:
        return self._commands.pop(0) if self._commands else []

    def act(self) -> np.ndarray:
        return np.zeros(2, np.float32)


def test_the_buttons_of_a_device_begin_and_end_an_episode(record: Any) -> None:
    result = record("recorded_arm:Arm", "--episodes 1 --teleop tests.cli.test_record_robot:Pedal --json")
    assert result.status == 0, result.err
    assert json.loads(result.out)["deadlines"] == 4


@pytest.mark.parametrize(
    ("device", "has_own_buttons"),
    [("keyboard", False), ("gamepad", False), ("tests.cli.test_record_robot:Pedal", True)],
)
def test_without_a_display_a_device_with_buttons_is_told_of_another_one(
    device: str, has_own_buttons: bool, record: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(display, "UNSEEN", ("dummy",))
    refused = record("recorded_arm:Arm", f"--teleop {device}").error()
    assert "needs a display, such as that of a desktop or of `ssh -X`" in refused
    assert ("`xvfb-run` (apt install xvfb)" in refused) is has_own_buttons


@pytest.mark.parametrize("device", ["gamepad", "tests.cli.test_record_robot:Pedal"])
def test_without_pygame_it_says_what_to_install(device: str, record: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "softflow.teleop.takeover_window", None)
    monkeypatch.delitem(sys.modules, "softflow.teleop.gamepad", raising=False)
    monkeypatch.setitem(sys.modules, "pygame", None)
    refused = record("recorded_arm:Arm", f"--teleop {device}").error()
    assert "pip install 'softflow[teleop]'" in refused and not Path("demos.rec").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("recorded_arm:Unknown", "does not say what it observes and does: give its class the property `task`"),
        ("recorded_arm:Arm --episodes 0", "episodes must be at least 1, got 0"),
        ("recorded_arm:Arm --rate -1", "rate must be a positive number of hertz, got -1"),
        ("recorded_arm:Arm --seconds 0", "seconds must be a number above 0, got 0"),
        ("recorded_arm:Arm --out recorded_arm.py", "recorded_arm.py exists; choose another --out"),
        ("recorded_arm:Arm --teleop gamepat", "gamepat"),
        ("recorded_arm:Arm --teleop-options.sped 1", "got an unexpected keyword argument 'sped'"),  # without a display
        ("nowhere:Arm", "cannot import 'nowhere'"),
    ],
)
def test_bad_input_is_refused(arguments: str, message: str, record: Any, command: Any, snapshot: Any) -> None:
    before = snapshot()
    assert message in command(f"softflow-robot record --teleop keyboard --out demos.rec --robot {arguments}").error()
    assert snapshot() == before
