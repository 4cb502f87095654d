"""Robots, real and simulated: how they are opened, their episodes, and the files to which these are recorded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from softflow.console import remark
from softflow.data.recording import Recording
from softflow.envs.registry import options_checked
from softflow.errors import UserError, one_line
from softflow.robot import ControlLoop, GymnasiumRobot, Robot, find_robot
from softflow.runs.assembly import make_environment
from softflow.task import TaskSpec
from softflow.training.config import RunConfig
from softflow.training.intervals import wilson_interval
from softflow.training.success import SuccessRule


def run_episodes(loop: ControlLoop, number: int, endings: list[bool]) -> None:
    """Run so many episodes. Say how each ends, and append whether it was a success to `endings`."""
    for index in range(number):
        ending = loop.run_episode()
        endings.append(ending.is_success)
        remark(f"episode {index}: {'success' if ending.is_success else 'failure'}, {ending.steps} steps")


def success_of(endings: Sequence[bool]) -> dict[str, Any]:
    """Return the number of episodes, and their success with its 95 % interval; None if there are none."""
    ended, successes = len(endings), sum(endings)
    return {
        "episodes": ended,
        "success_rate": successes / ended if ended else None,
        "success_ci95": wilson_interval(successes, ended) if ended else None,
    }


def open_robot(run: RunConfig, rate: float | None, seed: int, is_timed: bool = True) -> Robot:
    """Open the robot `module:Class`, or simulate one by the environment of a name.

    Args:
        run: Its `env` names the robot, and its `env_options` are the arguments. The ids of environments end in a
            version, `-v0`.
        rate: The control rate in hertz of a simulated robot. By default that of its environment.
        seed: The seed of the first episode of a simulated robot.
        is_timed: Whether a simulated robot moves in real time, and does not wait.

    Raises:
        UserError: There is no such robot, it has no such option, it cannot be opened, or it cannot wait.
    """
    of_class = run.env.rpartition(":")[2] if ":" in run.env else ""
    if not of_class.isidentifier():
        environment = make_environment(run)
        clocked = None
        if is_timed:
            clocked = TaskSpec.from_env(environment).rate if rate is None else rate
        return GymnasiumRobot(environment, clocked, SuccessRule(run.success), seed)
    if not is_timed:
        raise UserError(f"the robot {run.env!r} moves in real time: leave out --clock simulated")
    constructor, what = find_robot(run.env), f"the robot {run.env!r}"
    try:
        with options_checked(what, constructor, run.env_options):
            return constructor(**run.env_options)
    except UserError:
        raise
    except Exception as error:  # of drivers, ports and packages
        raise UserError(f"{what} cannot be opened: {type(error).__name__}: {one_line(error)}") from error


@contextmanager
def recorded(path: str | None, task: TaskSpec) -> Iterator[Recording | None]:
    """Yield a recording, and close it. Its file is removed if the robot has not moved."""
    if path is None:
        yield None
        return
    recording = Recording(path, task)
    try:
        yield recording
    finally:
        recording.close()
        if recording.is_empty:
            Path(path).unlink()
