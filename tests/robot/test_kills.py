"""kill -9 of the policy's process, and of the process that controls the robot."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from multiprocessing.connection import wait
from pathlib import Path

import pytest

from softflow.data import read_dataset
from softflow.robot import Stopped
from softflow.robot.policy_process import PolicyProcess
from tests.robot.scripted import ScriptedRobot, make_loop
from tests.robot.served import load_policy


@pytest.mark.slow
@pytest.mark.parametrize(("late", "held"), [("hold", 100), ("stop", 0)])
def test_a_policy_that_is_killed_ends_the_episode_as_configured(late: str, held: int) -> None:
    process = PolicyProcess(load_policy)
    robot = ScriptedRobot(steps=10_000)
    loop = make_loop(robot, process.ask, late=late, patience=0.5)
    if late == "stop":
        process.when_ended(loop.stop.set)
    is_stopped = robot.is_stopped

    def kill_after_third_command() -> bool:
        if robot.count == 3:
            os.kill(process.pid, signal.SIGKILL)
            wait([process._process.sentinel])
        return is_stopped()

    robot.is_stopped = kill_after_third_command  # type: ignore[method-assign]
    with pytest.raises(Stopped, match=r"the policy's process was killed by SIGKILL$"):
        loop.run_episode()
    assert robot.log[-1] == "stop"
    moved = len(robot.commands) - held
    assert moved >= 3 and robot.commands == [*range(moved), *[moved - 1] * held]
    process.close()


@pytest.mark.slow
def test_a_recording_is_whole_when_its_process_is_killed(tmp_path: Path) -> None:
    code = "from tests.robot.served import run_and_record; run_and_record('hour.rec')"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=tmp_path, env=environment
    )
    assert process.stdout is not None
    sent = [process.stdout.readline() for _ in range(20)]
    process.kill()
    sent += process.stdout.readlines()
    process.wait()
    commands = [float(line) for line in sent if line.endswith("\n")]
    [episode] = read_dataset(tmp_path / "hour.rec").episodes
    recorded = 1000 * episode.action[:, 0]
    assert len(commands) - 1 <= len(recorded) <= len(commands)  # the last one may have been sent at this moment
    assert recorded.round(3).tolist() == commands[: len(recorded)]
    assert episode.truncated and not episode.is_success
