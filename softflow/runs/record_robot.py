"""Recording of demonstrations on a robot, real or simulated, by a person with a device. There is no policy."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from softflow.errors import UserError
from softflow.robot import ControlLoop, LoopSettings, Robot
from softflow.robot.control import Native
from softflow.runs.assembly import require_new_file
from softflow.runs.devices import make_device, pygame_needed, require_device
from softflow.runs.robots import control_rate, open_robot, recorded, require_robot, run_episodes, success_of
from softflow.task import TaskSpec
from softflow.training.config import EnvOptions, RunConfig


@dataclass
class RecordRobotConfig:
    """Settings of demonstrations on a robot."""

    robot: str
    """Robot: `module:Class` for a class of your own with the property `task`, or the name of an environment, which is
    then simulated in real time."""
    teleop: str
    """Device with which the person moves the robot: `keyboard`, `gamepad`, a registered name or `module:Class`."""
    out: str
    """Recording to write. It must not exist. softflow-train and softflow-data read it."""
    robot_options: EnvOptions = field(default_factory=dict)
    """Arguments of the class or of the environment."""
    teleop_options: dict[str, int | float | str | bool] = field(default_factory=dict)
    """Arguments of the device."""
    episodes: int = 20
    """Number of episodes."""
    rate: float | None = None
    """Control rate in hertz. By default, the rate of the robot's task."""
    seconds: float = 60.0
    """Maximum duration of an episode in seconds."""
    stall: float = 0.1
    """Time limit in seconds for a command, for the device, and for an observation beyond its period. If one takes
    longer, the robot is stopped."""
    seed: int = 0
    """Seed of the first episode of a simulated robot. The others use consecutive seeds."""

    def __post_init__(self) -> None:
        if self.episodes < 1:
            raise ValueError(f"episodes must be at least 1, got {self.episodes}")
        if self.rate is not None and not 0 < self.rate < float("inf"):
            raise ValueError(f"rate must be a positive number of hertz, got {self.rate:g}")
        for name in ("seconds", "stall"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be a number above 0, got {getattr(self, name):g}")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed must be in 0 ... 2^63 - 1, got {self.seed}")


class RobotRecording:
    """Episodes of a person on a robot.

    Args:
        config: The settings.

    Raises:
        UserError: The file to write exists, there is no such device or robot, or pygame is missing.
    """

    def __init__(self, config: RecordRobotConfig) -> None:
        require_new_file(Path(config.out), "--out")
        with pygame_needed():  # before a robot is opened
            importlib.import_module("softflow.teleop.takeover_window")
        self._device = require_device(config.teleop, config.teleop_options)
        require_robot(config.robot)
        self._config = config
        self._endings = list[bool]()
        self._loop: ControlLoop | None = None

    def episodes(self) -> None:
        """Record the episodes. The robot is stopped and closed at the end, and after any error.

        Raises:
            Stopped: The robot was stopped. The file holds what was recorded until then.
            UserError: The robot, the device or a window cannot be opened, or the task or its rate is not known.
        """
        from softflow.runs.person_takeover import Demonstrator
        from softflow.teleop.takeover_window import DemonstrationPanel, TakeoverWindow

        config = self._config
        run = RunConfig(env=config.robot, env_options=config.robot_options)
        with closing(open_robot(run, config.rate, config.seed)) as robot:
            own = _task_of(robot, config.robot)
            rate = control_rate(config.rate, robot)
            task, steps = replace(own, rate=rate), max(round(config.seconds * rate), 1)
            settings = LoopSettings(rate, 1, "stop", lead=0, max_steps=steps, stall=config.stall)
            with TakeoverWindow(f"softflow-robot: {task.name}", self._device, DemonstrationPanel) as window:
                person = Demonstrator(task, make_device(config.teleop, task, config.teleop_options), window)
                with (
                    recorded(config.out, task) as file,
                    closing(ControlLoop(robot, own, _still(own), settings, None, file, person)) as self._loop,
                ):
                    run_episodes(self._loop, config.episodes, self._endings)

    def report(self) -> dict[str, Any]:
        """Return the number of episodes that ended, their success with its 95 % interval, and the timing so far."""
        return {
            **success_of(self._endings),
            **({} if self._loop is None else _timing(self._loop)),
        }


def _timing(loop: ControlLoop) -> dict[str, Any]:
    """Return the timing without what concerns a policy."""
    summary = loop.timing.summary()
    return {"rate": loop.timing.rate, **{name: summary[name] for name in ("deadlines", "missed", "jitter_ms")}}


def _task_of(robot: Robot, name: str) -> TaskSpec:
    """Return the task of a robot."""
    if robot.task is None:
        raise UserError(
            f"the robot {name!r} does not say what it observes and does: give its class the property `task` "
            "(docs/how-to/robot.md). Robots of LeRobot are recorded by lerobot-record, whose datasets --demos reads"
        )
    return robot.task


def _still(task: TaskSpec) -> Callable[[Mapping[str, Any], Native | None], Native]:
    """Return a policy that is never executed, because a person acts at every step. The control loop needs one."""
    middle = (task.low + task.high)[None] / 2
    return lambda observation, previous: middle
