"""What happens if the robot cannot be stopped."""

from __future__ import annotations

import threading
import time

import pytest

from softflow.robot import Stopped, StopSignal
from softflow.robot.control import ControlLoop
from softflow.robot.takeover import Nobody
from tests.robot.scripted import ScriptedRobot, make_loop


class Unstoppable(ScriptedRobot):
    """A robot whose `stop` fails `failures` times, or hangs."""

    def __init__(self, failures: int = 0, hangs: bool = False) -> None:
        super().__init__(steps=3)
        self.failures, self.hangs, self.calls = failures, hangs, 0

    def stop(self) -> None:
        self.calls += 1
        if self.hangs:
            threading.Event().wait()
        if self.calls <= self.failures:
            raise OSError("brake failed")


def loop_of(robot: Unstoppable) -> ControlLoop:
    return make_loop(robot, synchronous=True, patience=0.2)


def test_a_stop_that_fails_once_is_called_again() -> None:
    robot = Unstoppable(failures=1)
    assert loop_of(robot).run_episode().steps == 3
    assert robot.calls == 2


def test_a_robot_that_cannot_be_stopped_is_said_loudly() -> None:
    robot = Unstoppable(failures=10)
    with pytest.raises(Stopped, match="THE ROBOT MAY STILL MOVE, press its emergency stop: its stop failed: OSError"):
        loop_of(robot).run_episode()


def test_a_stop_that_hangs_does_not_hang_the_program() -> None:
    robot, begun = Unstoppable(hangs=True), time.monotonic()
    with pytest.raises(Stopped, match=r"THE ROBOT MAY STILL MOVE.* its stop has not returned for 0\.2 s$"):
        loop_of(robot).run_episode()
    assert time.monotonic() - begun < 30


def test_the_first_reason_is_said_as_well() -> None:
    robot = Unstoppable(failures=10)
    loop = loop_of(robot)
    loop.stop.set("a person quit")
    with pytest.raises(Stopped, match="the robot was stopped: a person quit"):
        loop.run_episode()
    loop.stop.set_not_stopped("its stop failed")
    with pytest.raises(Stopped, match=r"its stop failed\. It should have stopped because a person quit"):
        loop.stop.check()


def test_how_an_episode_ended_is_asked_once() -> None:
    """After `stop` an arm may have moved on, and its answer would be another."""
    robot = ScriptedRobot(steps=3)
    asked = []
    original = robot.has_ended
    robot.has_ended = lambda: asked.append(original()) or asked[-1]  # type: ignore[method-assign, func-returns-value]
    make_loop(robot, synchronous=True).run_episode()
    assert asked == [False, False, True]


@pytest.mark.parametrize(("hangs", "expected"), [(True, Stopped), (False, KeyboardInterrupt)])
def test_an_interruption_does_not_hide_that_the_robot_was_not_stopped(
    hangs: bool, expected: type[BaseException]
) -> None:
    class Interrupting(Nobody):
        def look(self, stop: StopSignal) -> None:
            raise KeyboardInterrupt

    robot = Unstoppable(hangs=hangs)
    robot.steps = 10**6
    loop = loop_of(robot)
    loop._takeover = Interrupting()
    with pytest.raises(expected):
        loop.run_episode()
