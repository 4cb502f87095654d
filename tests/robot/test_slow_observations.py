"""Observations that are slow: at the start of an episode, at its end, and always."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from softflow.data import read_dataset
from softflow.data.recording import Recording
from softflow.robot import Stopped
from tests.robot.scripted import TASK, ScriptedRobot, make_loop


def test_slow_observations_are_no_failure_of_the_policy() -> None:
    robot = ScriptedRobot()
    robot.observe = lambda: time.sleep(0.5) or {"count": np.zeros(1)}  # type: ignore[func-returns-value, method-assign]
    with pytest.raises(Stopped) as stopped:
        make_loop(robot, lead=None).run_episode()
    assert re.fullmatch(
        r"the robot was stopped: the robot's observations are too slow: an observation takes 0\.\d+ s and a chunk \S+ "
        r"s, which is 0\.\d+ s with a margin of 50%, and 8 actions at 200 Hz leave 0\.0375 s\. Let `observe` return "
        r"the newest data instead of waiting for a camera or a sensor, or lower the rate \(--rate\)",
        str(stopped.value),
    )
    assert robot.log == ["reset", "stop"]


def test_a_first_observation_that_is_slow_does_not_count() -> None:
    """Such as that of a camera that starts."""
    robot, calls = ScriptedRobot(steps=3), list[None]()
    observe = robot.observe

    def slow_at_first() -> Mapping[str, Any]:
        time.sleep(0 if calls else 0.5)  # 8 actions last 0.4 s
        calls.append(None)
        return observe()

    robot.observe = slow_at_first  # type: ignore[method-assign]
    assert make_loop(robot, rate=20.0, lead=None).run_episode() == (3, True)


class SlowAtTheEnd(ScriptedRobot):
    """The last observation of an episode waits until the robot is at rest, or, if `is_endless`, until `released`."""

    def __init__(self, is_endless: bool = False) -> None:
        super().__init__(steps=8)
        self.is_endless = is_endless

    def observe(self) -> Mapping[str, Any]:
        if self.count == self.steps:
            while self.log[-1] != "stop" or self.is_endless:
                if self.released.wait(0.001):
                    break
        return super().observe()


@pytest.mark.parametrize("late", ["hold", "extend"])
def test_the_last_observation_is_waited_for_at_rest(late: str, tmp_path: Path) -> None:
    robot, recording = SlowAtTheEnd(), Recording(tmp_path / "hour.rec", TASK)
    loop = make_loop(robot, recording=recording, late=late, stall=0.5)
    for _ in range(2):
        assert loop.run_episode() == (8, True)
    recording.close()
    assert robot.log.count("stop") == 2 and robot.log[-1] == "stop"
    for episode in read_dataset(tmp_path / "hour.rec").episodes:
        assert episode.is_success and episode.terminated and episode.observation[-1] == 8


@pytest.mark.parametrize(("late", "seconds"), [("hold", "0.505"), ("stop", "0.305")])
@pytest.mark.parametrize("is_recorded", [True, False])
def test_a_last_observation_that_never_comes(late: str, seconds: str, is_recorded: bool, tmp_path: Path) -> None:
    robot, recording = SlowAtTheEnd(is_endless=True), Recording(tmp_path / "hour.rec", TASK)
    loop = make_loop(
        robot, recording=recording if is_recorded else None, late=late, synchronous=True, stall=0.3, patience=0.2
    )
    said = "; 8 of its 8 steps are recorded, not as a success" if is_recorded else ""
    expected = (
        f"the robot was stopped: the last observation of the episode did not come within {seconds} s of the last "
        f"command, so the episode of 8 steps is not counted{said}"
    )
    with pytest.raises(Stopped, match=f"^{re.escape(expected)}$"):
        loop.run_episode()
    robot.released.set()
    recording.close()
    assert robot.log[-1] == "stop" and robot.log.count("stop") == 1
    if is_recorded:
        [episode] = read_dataset(tmp_path / "hour.rec").episodes
        assert len(episode) == 8 and not episode.is_success
