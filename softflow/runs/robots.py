"""Robots, real and simulated: how they are opened, their episodes, and the files to which these are recorded."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gymnasium

from softflow.console import remark
from softflow.data.recording import Recording
from softflow.data.summary import count
from softflow.envs.registry import options_checked, resolve_env_id
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
        remark(f"episode {index}: {'success' if ending.is_success else 'failure'}, {count(ending.steps, 'step')}")


def success_of(endings: Sequence[bool]) -> dict[str, Any]:
    """Return the number of episodes, and their success with its 95 % interval; None if there are none."""
    ended, successes = len(endings), sum(endings)
    return {
        "episodes": ended,
        "success_rate": successes / ended if ended else None,
        "success_ci95": wilson_interval(successes, ended) if ended else None,
    }


def require_robot(name: str) -> None:
    """Find the class or the environment of a robot by its name, which imports its module. It is not opened.

    Raises:
        UserError: There is none of this name, or its module cannot be imported.
    """
    if _is_class(name):
        _constructor(name)
        return
    try:
        resolve_env_id(name)
    except UserError as error:
        if ":" in name:
            raise
        raise UserError(f"{error} A robot class of your own is written module:Class.") from error


def control_rate(given: float | None, robot: Robot, policy: TaskSpec | None = None) -> float:
    """Return the control rate in hertz: the one that is given, else that of the policy, else that of the robot.

    A remark says if it is another one than that of the policy, or of the robot where the policy's is not known.

    Args:
        given: The rate that the user chose, if any.
        robot: The robot.
        policy: The task of the policy. None if a person acts alone.

    Raises:
        UserError: None of them is known.
    """
    known = None if robot.task is None else robot.task.rate
    described = "the robot's task has a control rate of {:g} Hz, and the robot is controlled at {:g} Hz"
    if policy is not None and policy.rate is not None:
        known, described = policy.rate, "the policy was trained at {:g} Hz and acts at {:g} Hz"
    if given is not None:
        if known is not None and not math.isclose(given, known, rel_tol=1e-3):
            remark(described.format(known, given))
        return given
    if known is None:
        whom = "the robot" if policy is None else "the policy's task and of the robot"
        stated = ", or set metadata['control_rate'] of the environment" if isinstance(robot, GymnasiumRobot) else ""
        raise UserError(f"the control rate of {whom} is not known: give --rate, in hertz{stated}")
    if policy is not None and policy.rate is None:
        remark(f"the policy's task has no control rate: it acts at {known:g} Hz, the rate of the robot's task")
    return known


def open_robot(run: RunConfig, rate: float | None, seed: int, is_timed: bool = True) -> Robot:
    """Open the robot `module:Class`, or simulate one by the environment of a name.

    Args:
        run: Its `env` names the robot, and its `env_options` are the arguments.
        rate: The control rate in hertz of a simulated robot. By default that of its environment.
        seed: The seed of the first episode of a simulated robot.
        is_timed: Whether a simulated robot moves in real time, and does not wait.

    Raises:
        UserError: There is no such robot, it has no such option, it cannot be opened, or it cannot wait.
    """
    if not _is_class(run.env):
        environment = make_environment(run)
        clocked = None
        if is_timed:
            clocked = TaskSpec.from_env(environment).rate if rate is None else rate
        return GymnasiumRobot(environment, clocked, SuccessRule(run.success), seed)
    if not is_timed:
        raise UserError(f"the robot {run.env!r} moves in real time: leave out --clock simulated")
    constructor, what = _constructor(run.env), f"the robot {run.env!r}"
    try:
        with options_checked(what, constructor, run.env_options):
            return constructor(**run.env_options)
    except UserError:
        raise
    except Exception as error:  # of drivers, ports and packages
        raise UserError(f"{what} cannot be opened: {type(error).__name__}: {one_line(error)}") from error


def _is_class(name: str) -> bool:
    """Whether a robot is `module:Class`. The ids of environments end in a version, `-v0`."""
    return ":" in name and name.rpartition(":")[2].isidentifier()


def _constructor(name: str) -> Callable[..., Robot]:
    """Return what opens the robot `module:Class`. The error of an environment says how these are named."""
    try:
        return find_robot(name)
    except UserError as error:
        module, _, class_name = name.partition(":")
        found = getattr(sys.modules.get(module), class_name, None)
        if isinstance(found, type) and issubclass(found, gymnasium.Env):
            raise UserError(
                f"robot {name!r}: the class {class_name!r} is an environment: register it with gymnasium, and name it "
                f"by its id, such as {module}:{class_name}-v0 (docs/how-to/environments.md)"
            ) from error
        raise


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
