"""Devices with which a person moves a robot, by name.

Other packages register theirs with the decorator `register_device`, or with an entry point of the group
`softflow.devices` (`spacemouse = my_package.spacemouse:SpaceMouse`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from enum import Enum
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from flows.plugins import Registry
from softflow.named_classes import find_class
from softflow.task import TaskSpec

if TYPE_CHECKING:
    from pygame.event import Event


class Command(Enum):
    """What a person wants to happen to the episode."""

    PAUSE = "start, pause or go on; on a robot, take over or give back"
    KEEP = "end the episode and keep it"
    TAKE_OVER = "act in place of the policy"
    GIVE_BACK = "let the policy act"
    DISCARD = "discard the episode and repeat it"
    SUCCESS = "mark as success, or not"
    QUIT = "quit"


class Device(ABC):
    """Turns the movements of a person into actions. One device serves all episodes of a recording.

    Args:
        task: What is observed and done. Its `rate` is the number of actions per second of the recording.
    """

    HINTS: Sequence[tuple[str, str]] = ()
    """Keys or buttons of the device and their meanings, for the window."""

    def __init__(self, task: TaskSpec) -> None:
        self.task = task

    @abstractmethod
    def act(self) -> NDArray[np.floating]:
        """Return the action (A,) in [-1, 1]. It is called once per step; `task.unit_actions` scales native units."""

    def reset(self) -> None:  # noqa: B027 (optional)
        """Prepare for an episode. The environment has just been reset."""

    def take_over(self, last: NDArray[np.floating]) -> None:  # noqa: B027 (optional)
        """Prepare to act in place of a policy, whose last action was `last`, (A,) in [-1, 1]."""

    def listen(self, events: Sequence[Event]) -> list[Command]:
        """Handle the window's events since the last call, and return any commands.

        It is called before each step, and all the time while the episode is paused. The window knows the commands of
        its own keys.
        """
        return []

    def labels(self) -> list[str]:
        """Return what moves each number of the action, (A,), for the window. Empty texts show nothing."""
        return [""] * self.task.action_dim

    def settings(self) -> str:
        """Return the settings that the person may change, such as the speed, for the window."""
        return ""


D = TypeVar("D", bound=type[Device])

DEVICES: Registry[type[Device]] = Registry("device", "softflow.devices", base=Device)
DEVICES.register("keyboard", "softflow.teleop.keyboard:Keyboard")
DEVICES.register("gamepad", "softflow.teleop.gamepad:Gamepad")


def register_device(name: str) -> Callable[[D], D]:
    """Return a class decorator that makes a `Device` available as `--teleop NAME`.

    Raises:
        ValueError: Another class has this name.
    """
    return DEVICES.decorator(name)


def find_device(name: str) -> type[Device]:
    """Return the class of a registered name, or of `module:Class`.

    Raises:
        UserError: There is no such device, or its module cannot be imported.
    """
    return find_class(DEVICES, name)
