"""The interface of a robot, real or simulated, that a policy controls. A user writes one class."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flows.plugins import Registry
from softflow.errors import UserError, described
from softflow.named_classes import find_class
from softflow.task import TaskMismatch, TaskSpec

Action = Mapping[str, NDArray[np.floating]]
"""The parts of an action by name, each (n,), in the units of the robot."""


class Robot(ABC):
    """A robot under the control of a policy.

    The methods are called from several threads: `observe` from one, `command`, `is_stopped` and `has_ended` from the
    control thread, and `reset`, `is_success` and `close` from the main thread while no episode runs. `observe` may thus
    run at the same time as `command`. Any method may raise; the robot is then stopped and the error reported.
    """

    @property
    def task(self) -> TaskSpec | None:
        """What the robot observes and does. It is compared with the policy's task before the robot moves.

        By default it is None. The names and shapes of observations are then checked at each step.
        """
        return None

    def require_task(self, task: TaskSpec) -> None:
        """Raise `UserError` if the robot cannot serve a policy of this task. It is called before the robot moves.

        By default the task is compared with that of the robot, if it has one. The order of the parts does not count,
        because they have names. `command` receives actions by the policy's names, so these must be the robot's.
        """
        if self.task is None:
            return
        require_same_task(task, self.task)
        names, own = ([part.name for part in one.action] for one in (task, self.task))
        if sorted(names) != sorted(own):
            raise UserError(
                f"the robot has another task than the policy: `command` receives the parts {', '.join(names)} of an "
                f"action, but the robot's task has {', '.join(own)}: give it the policy's names"
            )

    @abstractmethod
    def reset(self) -> None:
        """Bring the robot to the start of an episode, and return when it is at rest there. This may take any time."""

    @abstractmethod
    def observe(self) -> Mapping[str, Any]:
        """Return the newest observation: the parts of the policy's task by name, nested or flat, in native units.

        It is called once after each command, and may wait for a camera. Its arrays must not change later.
        """

    @abstractmethod
    def command(self, action: Action) -> None:
        """Send an action. This must return without waiting for its execution."""

    @abstractmethod
    def stop(self) -> None:
        """Bring the robot to rest safely. It is called at the end of each episode, whatever ended it.

        If `command` blocks, this is called from the main thread in the meantime. It may be called twice.
        """

    @abstractmethod
    def is_success(self) -> bool:
        """Return whether the episode that has just ended was a success. A person may be asked here."""

    def posture(self) -> Action | None:
        """Return the action that keeps the robot where it is, such as its joint angles if actions are target angles.

        It is called after each `reset`. The limits of a guard then hold for the first action of an episode as well.
        None, the default, if there is no such action or it is not known: the first action is then not limited.
        """
        return None

    def is_stopped(self) -> bool:
        """Return whether the robot's own emergency stop is pressed. It is called before each command; False here."""
        return False

    def has_ended(self) -> bool:
        """Return whether the episode is over. It is called after each command; by default only time ends an episode."""
        return False

    def close(self) -> None:  # noqa: B027 (optional)
        """Disconnect."""


def require_same_task(task: TaskSpec, own: TaskSpec) -> None:
    """Compare the task of a policy with a robot's own. The order of the parts does not count, because they have names.

    Raises:
        TaskMismatch: They differ. If the bounds of actions do, the message says where they come from.
    """
    own = own.ordered_as(task)
    try:
        task.require_same(own, "the robot has another task than the policy")
    except TaskMismatch as error:
        bounds, own_bounds = (np.array([one.low, one.high]) for one in (task, own))
        if bounds.shape != own_bounds.shape or (bounds == own_bounds).all():
            raise
        raise TaskMismatch(
            f"{error}: the policy has the bounds of its demonstrations, so give these the bounds of the robot, by an "
            "environment or a TaskSpec, and train again (docs/start/your-data.md)",
            error.renaming,
        ) from None


def posture_of(robot: Robot, task: TaskSpec) -> NDArray[np.floating] | None:
    """Return the action that keeps a robot where it is, (N,) within the bounds of the task.

    None if it is not known. A warning then says that the first action is not limited.

    Raises:
        ValueError: `posture` returned something else. The message says what is expected.
    """
    posture = robot.posture()
    if posture is None:
        warnings.warn(
            "the robot does not tell its posture, so the first action of an episode is not limited: write `posture` of "
            "its class (docs/how-to/robot.md)",
            stacklevel=2,
        )
        return None
    parts = [np.asarray(posture.get(part.name, ()), np.float64).reshape(-1) for part in task.action]
    expected = {part.name: part.size for part in task.action}
    if [part.size for part in parts] != list(expected.values()) or not np.isfinite(np.concatenate(parts)).all():
        raise ValueError(
            f"posture: expected finite numbers for each part of an action, {expected}, got {dict(posture)}"
        )
    return np.clip(np.concatenate(parts), task.low, task.high)  # a joint may sag below its lowest target


def send(robot: Robot, action: Action) -> None:
    """Send an action to a robot.

    Raises:
        UserError: `command` raised a `KeyError`, most likely of a part that the action does not have. The message lists
            the parts.
    """
    try:
        robot.command(action)
    except KeyError as error:
        raise UserError(f"{described(error)}; the parts of the action are {', '.join(map(repr, action))}") from error


ROBOTS: Registry[type[Robot]] = Registry("robot", "softflow.robots", base=Robot)


LEROBOT = "lerobot:"
"""What precedes a type of LeRobot's robots."""


def find_robot(name: str) -> Callable[..., Robot]:
    """Return the class `module:Class`, that of an entry point of the group `softflow.robots`, or for `lerobot:TYPE` a
    function that opens LeRobot's robot of this type.

    Raises:
        UserError: There is no such class, or its module cannot be imported.
    """
    if name.startswith(LEROBOT):
        from softflow.robot.lerobot_robot import open_lerobot  # imported here, because it imports this module

        return partial(open_lerobot, name.removeprefix(LEROBOT))
    return find_class(ROBOTS, name)
