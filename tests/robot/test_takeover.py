"""Takeovers: who acted, what was sent and recorded, and what the policy does after a person gave back."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from softflow.data import read_dataset
from softflow.data.recording import Recording
from softflow.robot import Stopped, StopSignal, Takeover
from softflow.robot.plan import Chunk, Move, Plan
from tests.robot.scripted import TASK, ScriptedRobot, choose, make_loop


class Person(Takeover):
    """Acts at the steps from `begin` until before `end`, with -1, -2, ... for the arm.

    Attributes:
        given: The last actions that it was told, of the arm.
    """

    def __init__(self, begin: int, end: int, scale: float = -1.0) -> None:
        self.begin, self.end, self.scale = begin, end, scale
        self.ends_after, self.quits = -1, False
        self.given = list[Any]()

    def reset(self) -> None:
        self.step = 0

    def act(self, last: np.ndarray | None) -> np.ndarray | None:
        self.given.append(None if last is None else float(last[0]))
        self.step += 1
        acts = self.begin < self.step <= self.end
        return np.array([self.scale * (self.step - self.begin), 0.5]) if acts else None

    def has_ended(self) -> bool:
        return self.step == self.ends_after

    def look(self, stop: StopSignal) -> None:
        if self.quits and self.step > 3:
            stop.set("a person pressed Escape")


def where_seen(observation: Mapping[str, Any], previous: Any, horizon: int = 40) -> np.ndarray:
    """A chunk whose numbers of the arm are all the step of its observation."""
    return np.stack([np.full(horizon, observation["count"][0]), np.full(horizon, 0.5)], 1)


@pytest.mark.parametrize("real_time", [True, False])
def test_what_is_recorded_is_who_acted_and_what_was_sent(tmp_path: Path, real_time: bool) -> None:
    robot, person, recording = ScriptedRobot(steps=12), Person(5, 8), Recording(tmp_path / "hour.rec", TASK)
    loop = make_loop(robot, recording=recording, takeover=person, synchronous=True, real_time=real_time)
    for _ in range(2):
        assert loop.run_episode() == (12, True)
    recording.close()
    sent = [0.0, 1, 2, 3, 4, -1, -2, -3, 8, 9, 10, 11]
    assert robot.log == ["reset", *sent, "stop"] * 2
    assert person.given == [None, *sent[:-1]] * 2
    summary = loop.timing.summary()
    assert (summary["takeovers"], summary["human_steps"], summary["late_chunks"]) == (2, 6, 0)
    for episode in read_dataset(tmp_path / "hour.rec").episodes:
        np.testing.assert_array_equal(episode.action, TASK.unit_actions([[arm, 0.5] for arm in sent]))
        assert episode.human is not None and np.flatnonzero(episode.human).tolist() == [5, 6, 7]
        assert episode.proposals is not None and episode.proposals.step.tolist() == [0, 4, 8]
        assert episode.proposals.own.tolist() == [True, False, True]
        for step, chunk in zip(episode.proposals.step, episode.proposals.chunk, strict=True):
            expected = choose({"count": [step]}, None)
            np.testing.assert_array_equal(chunk, TASK.unit_actions(expected))
        if not real_time:  # in real time, a slow machine may see a step late
            np.testing.assert_array_equal(episode.observation[:, 0], np.arange(13))


@pytest.mark.parametrize("late", ["hold", "extend"])
def test_after_giving_back_the_policy_acts_on_what_it_sees_then(late: str) -> None:
    """The chunk from before the takeover reaches beyond it, but is not executed again."""
    robot = ScriptedRobot()
    robot.has_ended = lambda: robot.count > 8 and robot.commands[-1] != -3  # type: ignore[method-assign]
    make_loop(robot, where_seen, takeover=Person(5, 8), late=late, n_action_steps=20).run_episode()
    *before, after = robot.commands
    assert before == [0, 0, 0, 0, 0, -1, -2, -3, *[-3] * (len(before) - 8)] and after >= 8


def test_after_a_takeover_an_action_is_held_whatever_late_says() -> None:
    held, first = np.array([7.0]), Chunk(np.array([[1.0], [2.0]]), start=5, seen=0.0)
    plan = Plan(2, "stop", held)
    assert plan.move(5) == Move(held, None, is_first=False, is_late=True)
    plan.deliver(first)
    move = plan.move(6)
    assert move is not None and move.action == [2.0] and move.is_first and not move.is_late


def test_patience_does_not_count_while_a_person_acts() -> None:
    robot, never = ScriptedRobot(steps=10_000), threading.Event()

    def slow(observation: Mapping[str, Any], previous: Any) -> np.ndarray:
        if observation["count"][0] > 0:
            never.wait(20)
        return choose(observation, previous)

    with pytest.raises(Stopped, match=r"no chunk in time for 0.05 s, at step 60"):
        make_loop(robot, slow, patience=0.05, takeover=Person(4, 50)).run_episode()
    assert robot.commands == [0, 1, 2, 3, *np.arange(-1.0, -47, -1), *[-46] * 10]
    never.set()


@pytest.mark.parametrize("scale", [-100.0, 100.0])
def test_limits_hold_for_a_person_and_where_one_takes_over(tmp_path: Path, scale: float) -> None:
    robot, recording = ScriptedRobot(steps=20), Recording(tmp_path / "hour.rec", TASK)

    def limit(action: np.ndarray, previous: np.ndarray | None) -> np.ndarray:
        return action if previous is None else previous + np.clip(action - previous, -2, 2)

    person = Person(6, 12, scale)
    make_loop(robot, limit=limit, recording=recording, takeover=person, synchronous=True).run_episode()
    recording.close()
    assert np.diff(robot.commands[5:12]).tolist() == [np.sign(scale) * 2] * 6
    assert np.abs(np.diff(robot.commands)).max() == 2
    [episode] = read_dataset(tmp_path / "hour.rec").episodes
    np.testing.assert_array_equal(episode.action, TASK.unit_actions([[arm, 0.5] for arm in robot.commands]))
    assert episode.proposals is not None and not episode.proposals.own.any()  # they may have been limited


def test_the_robots_emergency_stop_comes_before_the_persons_action() -> None:
    robot, person = ScriptedRobot(), Person(0, 100)
    robot.pressed_after = 5
    with pytest.raises(Stopped, match="its own emergency stop is pressed"):
        make_loop(robot, takeover=person).run_episode()
    assert robot.commands == [-1, -2, -3, -4, -5] and person.step == 5


def test_a_person_may_end_the_episode(tmp_path: Path) -> None:
    robot, person, recording = ScriptedRobot(), Person(3, 100), Recording(tmp_path / "hour.rec", TASK)
    person.ends_after = 6
    assert make_loop(robot, takeover=person, recording=recording).run_episode() == (6, True)
    recording.close()
    [episode] = read_dataset(tmp_path / "hour.rec").episodes
    assert len(episode) == 6 and episode.truncated and not episode.terminated and episode.is_success
    assert robot.log[-1] == "stop"


def test_the_window_stops_the_robot() -> None:
    robot, person = ScriptedRobot(steps=100_000), Person(2, 100_000)
    person.quits = True
    with pytest.raises(Stopped, match="a person pressed Escape"):
        make_loop(robot, takeover=person).run_episode()
    assert robot.log[-1] == "stop"


@pytest.mark.parametrize("how", ["blocks", "raises"])
def test_a_device_that_fails_stops_the_robot(how: str) -> None:
    robot, released = ScriptedRobot(steps=100_000), threading.Event()

    class Failing(Person):
        def act(self, last: Any) -> Any:
            if self.step == 5 and how == "raises":
                raise OSError("the cable is out")
            if self.step == 5:
                released.wait(20)
            return super().act(last)

    message = "has not returned for 0.1 s" if how == "blocks" else "OSError: the cable is out"
    with pytest.raises(Stopped, match=message):
        make_loop(robot, takeover=Failing(2, 100_000), stall=0.1).run_episode()
    assert robot.log[-1] == "stop" and len(robot.commands) == 5
    released.set()
