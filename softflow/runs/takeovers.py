"""Who may take over from a policy on a robot: a person with a device, or the supervisor of a simulated robot."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softflow.envs import make_supervisor
from softflow.errors import UserError
from softflow.robot import GymnasiumRobot, Robot, Takeover
from softflow.runs.devices import make_device, pygame_needed, require_device
from softflow.task import TaskSpec

SUPERVISOR = "supervisor"
"""The name of the one who is no device."""


class SupervisorTakeover(Takeover):
    """Lets the supervisor of a simulated robot's environment take over when it says that the policy has failed.

    Args:
        robot: The robot.
        seed: The seed of the supervisor.
        options: Arguments of the supervisor.
        steps: The number of steps after which it gives back, and a new one watches. None lets it act until the end.

    Raises:
        UserError: The environment has no supervisor, or the supervisor has no such option.
    """

    def __init__(self, robot: GymnasiumRobot, seed: int, options: Mapping[str, Any], steps: int | None) -> None:
        self._robot, self._options, self._steps = robot, options, steps
        self._rng = np.random.default_rng(seed)
        robot.environment.reset(seed=seed)
        self.reset()

    def reset(self) -> None:
        self._supervisor = make_supervisor(self._robot.environment, self._rng, **self._options)
        self._acted: int | None = None

    def act(self, last: NDArray[np.floating] | None) -> NDArray[np.floating] | None:
        if last is None:  # nothing has happened yet
            return None
        if self._acted is None:
            if not self._supervisor.watch():
                return None
            self._supervisor.take_over()
            self._acted = 0
        elif self._acted == self._steps:
            self.reset()
            return None
        self._acted += 1
        return self._robot.task.native_actions(self._supervisor.act())


@contextmanager
def open_takeover(
    name: str | None, options: Mapping[str, Any], steps: int | None, robot: Robot, task: TaskSpec, seed: int
) -> Iterator[Takeover | None]:
    """Yield who may take over, None for nobody, and close the window of a person.

    Args:
        name: `supervisor`, or a device: a registered name or `module:Class`.
        options: Arguments of the supervisor or of the device.
        steps: See `SupervisorTakeover`.
        robot: The robot.
        task: What is observed and done. Its rate is the one at which the robot is controlled.
        seed: The seed of the supervisor.

    Raises:
        UserError: There is no such device or supervisor, it cannot be opened, or there is no display for the window.
    """
    if name is None:
        yield None
    elif name == SUPERVISOR:
        if not isinstance(robot, GymnasiumRobot):
            raise UserError("only a simulated robot has a supervisor: name a device, such as --takeover keyboard")
        yield SupervisorTakeover(robot, seed, options, steps)
    else:
        with pygame_needed():
            from softflow.runs.person_takeover import PersonTakeover
            from softflow.teleop.takeover_window import TakeoverWindow
        with TakeoverWindow(f"softflow-robot: {task.name}", require_device(name, options)) as window:
            yield PersonTakeover(task, make_device(name, task, options), window)
