"""Robots with LeRobot's interface: names, episodes, and what a person types."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from softflow.errors import UserError
from softflow.robot import ControlLoop, LeRobotRobot, LoopSettings, Stopped
from softflow.robot.lerobot_robot import open_lerobot
from softflow.task import ActionPart, ObservationPart, TaskSpec
from tests.robot.lerobot_arm import LeRobotArm

JOINTS = ObservationPart("observation.state", (3,))
FRONT = ObservationPart("observation.images.front", (24, 32, 3), "uint8", axes="HWC")
ACTION = ActionPart("action", (-90.0,) * 4, (90.0,) * 4)
TASK = TaskSpec((JOINTS, FRONT), (ACTION,), rate=200.0)
NAMES: dict[str, Any] = {
    "observation.state": ["grip.pos", "pan.pos", "lift.pos"],
    "action": ["wheel.vel", "lift.pos", "pan.pos", "grip.pos"],
}
"""Orders that are not the robot's."""
Type = Callable[[str], None]


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> Iterator[Type]:
    """A function that types at the terminal."""
    reader, writer = os.pipe()
    with os.fdopen(reader) as stdin, os.fdopen(writer, "wb", buffering=0) as terminal:
        monkeypatch.setattr("sys.stdin", stdin)
        yield lambda text: void(terminal.write(text.encode()))


def void(_: object) -> None:
    return


def opened(arm: LeRobotArm, task: TaskSpec = TASK, **options: Any) -> LeRobotRobot:
    robot = LeRobotRobot(arm, **{"names": NAMES, **options})
    robot.require_task(task)
    return robot


def type_when_asked(monkeypatch: pytest.MonkeyPatch, typed: Type, *answers: str) -> list[str]:
    """Type the next answer at each line on standard error that asks for Enter. Return these lines."""
    asked, left = list[str](), list(answers)

    def remark(text: str) -> None:
        asked.append(text)
        if text.endswith("Enter"):
            typed(left.pop(0))

    monkeypatch.setattr("softflow.robot.person.remark", remark)
    monkeypatch.setattr("softflow.robot.lerobot_robot.remark", remark)
    return asked


def test_each_number_has_its_name() -> None:
    arm = LeRobotArm()
    robot = opened(arm)
    arm.connect()
    robot.command({"action": np.array([0.5, 2.0, 1.0, 3.0])})
    assert arm.sent == [{"pan.pos": 1.0, "lift.pos": 2.0, "grip.pos": 3.0, "wheel.vel": 0.5}]
    seen = robot.observe()
    assert seen["observation.state"].tolist() == [3, 1, 2]
    assert seen["observation.images.front"][0, 1].tolist() == [7, 8, 9]
    rows, _ = TASK.rows(seen)
    assert rows.shape == (1, TASK.row_size)
    posture = robot.posture()
    assert posture is not None and posture["action"].tolist() == [0.0, 2.0, 1.0, 3.0]  # the wheel at rest


def test_parts_with_names_of_their_own_need_no_others() -> None:
    """A task whose action is described number by number, as in a dataset without an environment."""
    actions = tuple(ActionPart(name, (-1.0,), (1.0,)) for name in ("grip.pos", "wheel.vel", "pan.pos", "lift.pos"))
    image = replace(FRONT, name="front", shape=(3, 24, 32), axes="CHW")
    task = TaskSpec((ObservationPart("lift.pos", ()), image), actions)
    arm = LeRobotArm()
    robot = opened(arm, task, names=None)
    arm.connect()
    robot.command({part.name: np.array([float(index)]) for index, part in enumerate(actions)})
    assert arm.sent == [{"pan.pos": 2.0, "lift.pos": 3.0, "grip.pos": 0.0, "wheel.vel": 1.0}]
    seen = robot.observe()
    assert seen["lift.pos"].shape == () and seen["lift.pos"] == 3
    assert seen["front"][:, 0, 1].tolist() == [7, 8, 9]


@pytest.mark.parametrize(
    ("changes", "task", "message"),
    [
        ({"names": None}, TASK, "'observation.state' has 3 numbers, but none of them has a name: give"),
        ({"names": NAMES | {"action": ["pan.pos"]}}, TASK, "action 'action' has 4 numbers, but 1 names"),
        ({"names": NAMES | {"actoin": []}}, TASK, "names: the policy has no part 'actoin': did you mean 'action'?"),
        ({"names": NAMES | {"action": ["pan.pos"] * 4}}, TASK, "the policy's action names 'pan.pos' twice"),
        ({"names": NAMES | {"action": ["pan.pos", "lift.pos", "grip.pos", "whel.vel"]}}, TASK, "no 'whel.vel': did"),
        ({"names": NAMES | {"observation.images.front": "side"}}, TASK, "the robot has no camera 'side'"),
        ({}, replace(TASK, observation=(JOINTS, replace(FRONT, shape=(48, 64, 3)))), "shape (24, 32, 3), the policy"),
        ({}, replace(TASK, observation=(JOINTS, replace(FRONT, shape=(24, 32, 6)))), "the policy (24, 32, 6)"),
        ({"home": {"pan.pos": 0.0}}, TASK, "home does not name 'lift.pos', which the robot takes"),
        ({"home": {"pan.pso": 0.0}}, TASK, "home names 'pan.pso', which the robot does not take"),
    ],
)
def test_what_does_not_fit_is_refused_before_the_robot_is_connected(
    changes: dict[str, Any], task: TaskSpec, message: str
) -> None:
    arm = LeRobotArm()
    with pytest.raises(UserError) as refused:
        opened(arm, task, **changes)
    assert message in str(refused.value) and "\n" not in str(refused.value)
    assert not arm.is_connected


def test_an_action_that_the_policy_does_not_give_is_refused() -> None:
    names = NAMES | {"action": ["lift.pos", "pan.pos", "grip.pos"]}
    with pytest.raises(UserError, match=r"the policy's action does not name 'wheel\.vel', which the robot takes"):
        opened(LeRobotArm(), replace(TASK, action=(ActionPart("action", (-1.0,) * 3, (1.0,) * 3),)), names=names)


def test_a_robot_that_cannot_be_brought_to_rest_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LeRobotArm, "action_features", {"pan.pos": float, "pan.torque": float})
    with pytest.raises(UserError, match=r"'pan\.torque' is neither a position \(\.pos\) nor a velocity"):
        LeRobotRobot(LeRobotArm())


def test_to_stop_holds_positions_and_ends_velocities() -> None:
    arm = LeRobotArm()
    robot = opened(arm)
    robot.stop()
    assert arm.sent == []
    arm.connect()
    robot.command({"action": np.array([0.5, 2.0, 1.0, 3.0])})
    robot.stop()
    assert arm.sent[-1] == {"pan.pos": 1.0, "lift.pos": 2.0, "grip.pos": 3.0, "wheel.vel": 0.0}


def test_a_request_that_does_not_return_cannot_be_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    arm, released = LeRobotArm(), threading.Event()
    robot = opened(arm)
    arm.connect()
    robot.command({"action": np.zeros(4)})
    monkeypatch.setattr("softflow.robot.lerobot_robot.STOP_PATIENCE", 0.01)
    observe = arm.get_observation
    monkeypatch.setattr(arm, "get_observation", lambda: observe() if released.wait(20) else {})
    observing = threading.Thread(target=robot.observe)
    observing.start()
    try:
        while not robot._bus.locked():
            pass
        with pytest.raises(RuntimeError, match="has not returned: cut the power if it moves"):
            robot.stop()
    finally:
        released.set()
        observing.join()


def test_an_arm_goes_home_in_a_straight_line(monkeypatch: pytest.MonkeyPatch, typed: Type) -> None:
    monkeypatch.setattr("softflow.robot.lerobot_robot.HOME_RATE", 1000.0)
    asked = type_when_asked(monkeypatch, typed, "\n")
    arm = LeRobotArm()
    robot = opened(arm, home={"pan.pos": 4, "lift.pos": -8, "grip.pos": 0}, home_seconds=0.004)
    robot.reset()
    assert [(sent["pan.pos"], sent["lift.pos"]) for sent in arm.sent] == [(1, -2), (2, -4), (3, -6), (4, -8)]
    assert all(sent["wheel.vel"] == 0 for sent in arm.sent)
    assert arm.calls == ["connect"] and asked[0].startswith("Set up the scene.")


@pytest.mark.parametrize(("answer", "is_success"), [("y\n", True), ("n\n", False), ("Y \n", True)])
def test_an_answer_ends_the_episode(
    answer: str, is_success: bool, typed: Type, monkeypatch: pytest.MonkeyPatch
) -> None:
    type_when_asked(monkeypatch, typed, "\n")
    robot = opened(LeRobotArm())
    robot.reset()
    assert not robot.has_ended()
    typed(answer)
    assert robot.has_ended() and robot.has_ended()
    assert robot.is_success() is is_success


def test_any_other_line_ends_it_too_and_success_is_asked(typed: Type, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = type_when_asked(monkeypatch, typed, "\n", "maybe\n", "y\n")
    robot = opened(LeRobotArm())
    robot.reset()
    typed("\n")
    assert robot.has_ended()
    assert robot.is_success() and asked[1:] == ["Was it a success? y or n, then Enter"] * 2


def test_what_was_typed_early_starts_nothing(typed: Type, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = type_when_asked(monkeypatch, typed, "\n")
    typed("y\n\n")
    robot = opened(LeRobotArm())
    robot.reset()
    assert len(asked) == 1 and not robot.has_ended()


def test_nobody_at_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    with open(os.devnull) as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        with pytest.raises(UserError, match="needs a person at the terminal, but standard input is closed"):
            opened(LeRobotArm()).reset()


def test_a_limited_action_is_said_once(typed: Type, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = type_when_asked(monkeypatch, typed, "\n")
    robot = opened(LeRobotArm(limit=2.0))
    robot.reset()
    for _ in range(2):
        robot.command({"action": np.array([0.0, 1.0, 2.0, 3.0])})
    [said] = [line for line in asked if "limits" in line]
    assert said.startswith("the robot limits grip.pos from 3 to 2; a recording holds the former.")


def test_the_loop_never_asks_the_bus_for_two_things(typed: Type, monkeypatch: pytest.MonkeyPatch) -> None:
    type_when_asked(monkeypatch, typed, "\n", "y\n")
    arm = LeRobotArm()
    robot = LeRobotRobot(arm, NAMES)
    settings = LoopSettings(200.0, 2, lead=1, max_steps=20, stall=20.0, patience=20.0)

    def choose(observation: Any, previous: Any) -> np.ndarray:
        return np.tile(np.r_[0.0, observation["observation.state"] + 1], (4, 1))

    loop = ControlLoop(robot, TASK, choose, settings)
    assert loop.run_episode() == (20, True)
    robot.close()
    loop.close()
    assert len(arm.sent) == 21 and arm.sent[-1] == arm.sent[-2] and arm.calls == ["connect", "disconnect"]


def test_a_lost_connection_stops_the_episode(typed: Type, monkeypatch: pytest.MonkeyPatch) -> None:
    type_when_asked(monkeypatch, typed, "\n")
    arm = LeRobotArm()

    def choose(observation: Any, previous: Any) -> np.ndarray:
        arm.is_connected = False
        return np.zeros((4, 4))

    settings = LoopSettings(200.0, 1, synchronous=True, stall=20.0, patience=20.0)
    loop = ControlLoop(LeRobotRobot(arm, NAMES), TASK, choose, settings)
    with pytest.raises(Stopped, match="the control loop failed: AssertionError"):
        loop.run_episode()
    loop.close()


def test_lerobot_is_an_optional_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "draccus", None)
    with pytest.raises(UserError, match=r"robot 'lerobot:so101_follower' needs lerobot .*: pip install"):
        open_lerobot("so101_follower", port="/dev/ttyACM0")


def test_numbers_that_the_demonstrations_named_need_no_names() -> None:
    joints = replace(JOINTS, names=("grip.pos", "pan.pos", "lift.pos"))
    actions = tuple(ActionPart(name, (-90.0,), (90.0,)) for name in NAMES["action"])
    named = opened(LeRobotArm(), replace(TASK, observation=(joints, FRONT), action=actions), names=None)
    given = opened(LeRobotArm())
    for robot in (named, given):
        robot._robot.connect()  # type: ignore[attr-defined]
    for part in TASK.observation:
        np.testing.assert_array_equal(named.observe()[part.name], given.observe()[part.name])
    with pytest.raises(UserError, match=r"observation 'observation.state': the robot has no 'elbow.pos'"):
        other = replace(joints, names=("grip.pos", "pan.pos", "elbow.pos"))
        opened(LeRobotArm(), replace(TASK, observation=(other, FRONT), action=actions), names=None)
