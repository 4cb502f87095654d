"""The control loop with a scripted robot and policy. No bound depends on the speed of the machine."""

from __future__ import annotations

import _thread
import gc
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest

from softflow.errors import UserError
from softflow.robot import LoopSettings, Stopped
from softflow.robot.plan import NoChunk
from softflow.task import ActionPart, TaskMismatch
from tests.robot.scripted import TASK, ScriptedRobot, choose, make_loop

SOON = 10.0
"""Seconds after which even a slow machine has stopped a robot."""


@pytest.mark.parametrize("synchronous", [False, True])
def test_each_action_is_sent_at_the_step_for_which_it_is_meant(synchronous: bool) -> None:
    robot = ScriptedRobot(steps=30)
    loop = make_loop(robot, partial(choose, horizon=30), late="extend", synchronous=synchronous)
    ending = loop.run_episode()
    assert ending == (30, True)
    assert robot.log == ["reset", *map(float, range(30)), "stop"]
    summary = loop.timing.summary()
    assert summary["deadlines"] == 30
    assert summary["latency_ms"]["p50"] > 0


def test_a_chunk_of_the_last_episode_is_not_executed_in_the_next() -> None:
    robot = ScriptedRobot(steps=8)
    loop = make_loop(robot, late="extend", lead=4)
    for _ in range(5):
        assert loop.run_episode() == (8, True)
    assert robot.log == ["reset", *map(float, range(8)), "stop"] * 5


def test_the_lead_is_measured() -> None:
    calls = list[Any]()

    def counting(observation: Mapping[str, Any], previous: Any) -> np.ndarray:
        calls.append(previous)
        return choose(observation, previous)

    robot = ScriptedRobot(steps=3)
    assert make_loop(robot, counting, lead=None).run_episode().steps == 3
    assert calls[:6] == [None] * 6  # five rehearsals, and the first chunk

    def slow(observation: Mapping[str, Any], previous: Any) -> np.ndarray:
        time.sleep(0.05)
        return choose(observation, previous)

    robot = ScriptedRobot()
    with pytest.raises(
        Stopped,
        match=r"^the robot was stopped: the policy is too slow: an observation takes \S+ s and a chunk 0\.\d+ s, .*"
        r"and 8 actions at 200 Hz leave 0\.0375 s\. Lower the rate \(--rate\), train with a longer horizon",
    ):
        make_loop(robot, slow, lead=None).run_episode()
    assert robot.log == ["reset", "stop"]


@pytest.mark.parametrize(
    ("late", "expected"), [("hold", [0, 1, 2, 3, 3, 3]), ("extend", [0, 1, 2, 3, 4, 5]), ("stop", [0, 1, 2, 3])]
)
def test_slow_inference(late: str, expected: list[float]) -> None:
    """The second chunk never comes: the control thread does not wait for it."""
    robot, never = ScriptedRobot(steps=6), threading.Event()

    def slow(observation: Mapping[str, Any], previous: Any) -> np.ndarray:
        if observation["count"][0] > 0:
            never.wait(20)
        return choose(observation, previous)

    loop = make_loop(robot, slow, late=late)
    if late == "stop":
        with pytest.raises(Stopped, match="no chunk in time at step 4"):
            loop.run_episode()
    else:
        assert loop.run_episode().steps == 6
        assert loop.timing.summary()["late_chunks"] == 2
    assert robot.commands == expected and robot.log[-1] == "stop"
    never.set()


def test_patience_ends() -> None:
    robot, never = ScriptedRobot(steps=10_000), threading.Event()

    def slow(observation: Mapping[str, Any], previous: Any) -> np.ndarray:
        if observation["count"][0] > 0:
            never.wait(20)
        return choose(observation, previous)

    with pytest.raises(Stopped, match=r"no chunk in time for 0.05 s, at step 14"):
        make_loop(robot, slow, patience=0.05).run_episode()
    assert robot.commands == [0, 1, 2, *[3] * 11]
    never.set()


def test_dying_inference_stops_the_robot() -> None:
    robot = ScriptedRobot(steps=10_000)

    def dying(observation: Mapping[str, Any], previous: Any) -> np.ndarray:
        if observation["count"][0] > 0:
            raise RuntimeError("out of memory")
        return choose(observation, previous)

    with pytest.raises(Stopped, match=r"the policy failed: RuntimeError: out of memory \(test_control"):
        make_loop(robot, dying, late="hold").run_episode()
    assert robot.log[-1] == "stop" and len(robot.commands) < 10_000


@pytest.mark.parametrize("method", ["observe", "command"])
@pytest.mark.parametrize("how", ["blocks", "raises"])
def test_a_robot_that_fails_is_stopped_soon(method: str, how: str) -> None:
    robot = ScriptedRobot(steps=100_000, **{how: method})
    loop = make_loop(robot, late="stop", stall=0.1)
    with pytest.raises(
        Stopped, match="cable is out" if how == "raises" else r"no observation|not returned for 0.1 s|no chunk"
    ):
        loop.run_episode()
    assert robot.stopped_at is not None and robot.broken_at is not None
    assert robot.stopped_at - robot.broken_at < SOON
    assert "stop" in robot.log
    robot.released.set()


def test_a_simulation_may_take_its_time() -> None:
    """Its world waits, so a slow command moves nothing; the first step of some simulators compiles for seconds."""
    robot = ScriptedRobot(blocks="command")
    threading.Timer(0.5, robot.released.set).start()
    ending = make_loop(robot, synchronous=True, real_time=False, stall=0.05).run_episode()
    assert ending == (10, True) and len(robot.commands) == 10


def test_the_emergency_stop_comes_before_the_next_command() -> None:
    robot = ScriptedRobot()
    robot.pressed_after = 5
    with pytest.raises(Stopped, match="the robot was stopped: its own emergency stop is pressed"):
        make_loop(robot, late="extend").run_episode()
    assert robot.log[-1] == "stop" and len(robot.commands) == 5


def test_the_signal_interrupts_the_wait_for_a_deadline() -> None:
    robot = ScriptedRobot()
    loop = make_loop(robot, rate=0.01)  # the second command is due after 100 s

    def press() -> None:
        while not robot.commands:
            time.sleep(0.001)
        loop.stop.set("a person pressed a key")

    threading.Thread(target=press).start()
    with pytest.raises(Stopped, match="a person pressed a key"):
        loop.run_episode()
    assert robot.log == ["reset", 0.0, "stop"]
    with pytest.raises(Stopped, match="a person pressed a key"):  # it stays stopped
        loop.run_episode()
    assert robot.log == ["reset", 0.0, "stop"]


def test_ctrl_c_stops_the_robot_between_commands() -> None:
    robot = ScriptedRobot()
    loop = make_loop(robot, rate=0.01)

    def press() -> None:
        while not robot.commands:
            time.sleep(0.001)
        _thread.interrupt_main()

    threading.Thread(target=press).start()
    with pytest.raises(KeyboardInterrupt):
        loop.run_episode()
    assert robot.log == ["reset", 0.0, "stop"]


@pytest.mark.parametrize(("said", "message"), [(None, "is_success is None, expected true or false"), ("?", "EOF")])
def test_an_episode_that_cannot_be_judged_is_an_error(said: Any, message: str) -> None:
    robot = ScriptedRobot(steps=2)

    def is_success() -> Any:
        if said == "?":
            raise EOFError("EOF when reading a line")
        return said

    robot.is_success = is_success  # type: ignore[method-assign]
    with pytest.raises(Stopped, match=f"the robot's is_success failed: .*{message}"):
        make_loop(robot).run_episode()


@pytest.mark.parametrize(
    ("posture", "first"), [(None, None), ({"hand": [0.5], "arm": np.array(7.0)}, 7.0), ({"hand": 0, "arm": 2e3}, 1e3)]
)
@pytest.mark.filterwarnings("ignore:the robot does not tell its posture")
def test_actions_are_limited_from_the_posture_and_where_chunks_meet(posture: Any, first: float | None) -> None:
    robot, given = ScriptedRobot(steps=6), list[Any]()
    robot.posture = lambda: posture  # type: ignore[method-assign]

    def limit(action: np.ndarray, previous: np.ndarray | None) -> np.ndarray:
        given.append(previous if previous is None else previous[0])
        return np.array([2 * action[0], 0.5])

    make_loop(robot, late="extend", limit=limit).run_episode()
    assert given == [first, *robot.commands[:-1]] and robot.commands == [2.0 * step for step in range(6)]


def test_limits_warn_if_the_posture_is_not_known() -> None:
    with pytest.warns(UserWarning, match="so the first action of an episode is not limited: write `posture`"):
        make_loop(ScriptedRobot(steps=1), limit=lambda action, _: action).run_episode()


@pytest.mark.parametrize(
    "posture", [{"arm": [1.0]}, {"arm": [1.0, 2.0], "hand": [0.5]}, {"arm": [np.nan], "hand": [0]}]
)
def test_a_posture_that_is_no_action_stops_the_robot(posture: Any) -> None:
    robot = ScriptedRobot()
    robot.posture = lambda: posture  # type: ignore[method-assign]
    with pytest.raises(Stopped, match=r"posture: expected finite numbers for each part .*\{'arm': 1, 'hand': 1\}"):
        make_loop(robot, limit=lambda action, _: action).run_episode()
    assert not robot.commands


def test_an_observation_that_is_not_the_tasks_stops_the_robot_before_it_moves() -> None:
    robot = ScriptedRobot()
    robot.observe = lambda: {"cuont": [0.0]}  # type: ignore[method-assign]
    with pytest.raises(Stopped, match=r"the observation has no 'count': did you mean 'cuont'\?"):
        make_loop(robot).run_episode()
    assert robot.log == ["reset", "stop"]


def test_a_command_that_reads_an_unknown_part_is_told_the_parts() -> None:
    robot = ScriptedRobot()
    robot.command = lambda action: action["target"]  # type: ignore[method-assign, return-value]
    expected = (
        r"control loop failed: KeyError 'target' \(test_control.py:\d+, in <lambda>\); the parts of the action are "
    )
    with pytest.raises(Stopped, match=f"{expected}'arm', 'hand'$"):
        make_loop(robot).run_episode()
    assert robot.log == ["reset", "stop"]


def test_a_robot_with_another_task_is_refused() -> None:
    other = TASK.build({**TASK.describe(), "rate": 30.0})
    with pytest.raises(TaskMismatch, match="the control rate is 30 Hz, expected 200 Hz"):
        make_loop(type("Other", (ScriptedRobot,), {"task": other})())


def test_a_robot_that_calls_the_action_otherwise_is_refused() -> None:
    """An array without names is compared by its numbers alone, but commands come by name."""
    unnamed = replace(TASK, action=(ActionPart("action", (-1000.0, 0.0), (1000.0, 1.0)),))
    expected = (
        r"`command` receives the parts arm, hand of an action, but the robot's task has action: give it the policy's"
    )
    with pytest.raises(UserError, match=expected):
        make_loop(type("Other", (ScriptedRobot,), {"task": unnamed})())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rate": float("nan")}, "rate must be a number above 0, got nan"),
        ({"stall": 0.0}, "stall must be a number above 0"),
        ({"max_steps": 0}, "max_steps must be at least 1"),
        ({"lead": -1}, "lead must be at least 0"),
        ({"observe_ahead": 1.0}, "observe_ahead must be above 0 and at most a period"),
    ],
)
def test_bad_settings_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LoopSettings(**{"rate": 20.0, "n_action_steps": 4, **changes})


def wait_before_fourth_command(robot: ScriptedRobot, is_there: Callable[[], bool]) -> None:
    """Let the robot wait until something is there, so that no test depends on the speed of the machine."""
    command = robot.command

    def wait_and_command(action: Any) -> None:
        while robot.count == 3 and not is_there():
            time.sleep(0.001)
        command(action)

    robot.command = wait_and_command  # type: ignore[method-assign]


@pytest.mark.parametrize("late", ["hold", "stop"])
@pytest.mark.parametrize(
    ("answer", "cause"),
    [
        (NoChunk("the policy's process was killed by SIGKILL"), "the policy's process was killed by SIGKILL"),
        (np.full((8, 2), np.nan), "the policy answered a chunk with numbers that are not finite"),
        (np.zeros((8, 3)), r"the policy answered float64 \(8, 3\), expected a chunk of floats \(H, 2\)"),
        ({"arm": 0.0}, r"the policy answered object \(\), expected a chunk of floats \(H, 2\)"),
    ],
)
def test_without_a_chunk_the_robot_is_controlled_as_if_it_were_late(answer: Any, cause: str, late: str) -> None:
    robot = ScriptedRobot(steps=10_000)

    def failing(observation: Mapping[str, Any], previous: Any) -> Any:
        if observation["count"][0] == 0:
            return choose(observation, previous)
        if isinstance(answer, NoChunk):
            raise answer
        return answer

    loop = make_loop(robot, failing, late=late, patience=0.05)
    wait_before_fourth_command(robot, lambda: bool(loop._trouble))
    when = r"for 0\.05 s, at step 14" if late == "hold" else "at step 4"
    with pytest.raises(Stopped, match=f"^the robot was stopped: no chunk in time {when}: {cause}$"):
        loop.run_episode()
    assert robot.commands == [0, 1, 2, 3] + 10 * [3] * (late == "hold") and robot.log[-1] == "stop"
    robot = ScriptedRobot()
    with pytest.raises(Stopped, match=f"^the robot was stopped: {cause}$"):  # nothing else would be executed
        make_loop(robot, failing, synchronous=True).run_episode()
    assert robot.commands == [0, 1, 2, 3] and robot.log[-1] == "stop"


def test_a_chunk_after_a_failure_is_executed() -> None:
    robot = ScriptedRobot(steps=8)

    def failing_once(observation: Mapping[str, Any], previous: Any) -> Any:
        if observation["count"][0] == 1:
            raise NoChunk("out of memory")
        return choose(observation, previous)

    loop = make_loop(robot, failing_once)
    wait_before_fourth_command(robot, lambda: loop._plan.has_next)
    assert loop.run_episode() == (8, True)
    assert robot.commands[:4] == [0, 1, 2, 3] and loop._trouble == ""
    assert robot.commands[4] == 4  # of the chunk that was asked for again


def test_what_was_imported_is_not_collected_during_an_episode() -> None:
    robot, frozen = ScriptedRobot(steps=2), list[int]()
    robot.is_stopped = lambda: bool(frozen.append(gc.get_freeze_count()))  # type: ignore[method-assign]
    make_loop(robot).run_episode()
    assert min(frozen) > 1000 and gc.get_freeze_count() == 0
