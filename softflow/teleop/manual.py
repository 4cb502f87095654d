"""Devices that move each number of the action up and down: keys, buttons and sticks."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
from numpy.typing import NDArray

from softflow.errors import UserError
from softflow.task import TaskSpec
from softflow.teleop.device import Device

SPEED_STEP = 0.1


class Manual(Device):
    """Turns deflections, as of keys and sticks, into actions.

    Without a deflection, a number of the action rests at zero in its own units, or at the bound next to zero. If there
    are more numbers than the device has controls, a page of them is moved at a time.

    Args:
        task: What is observed and done.
        speed: For actions that spring back, the largest action as a share of the way from rest to the bound. With
            `hold`, the share of the range that an action moves per second. From 0.1 to 1; it can be changed while
            recording.
        hold: Whether actions stay where they were moved, as absolute targets do. By default they spring back to rest,
            as velocities and displacements do.
        toggle: Numbers of the action that have two values, such as a gripper's, by their indices in the window: `3`, or
            `"3, 5"`. They jump to their highest or lowest value and stay there. They start at the lowest.

    Raises:
        UserError: An option has an invalid value.
    """

    CONTROLS: tuple[str, ...]
    """What moves each number of a page down and up, for the window."""

    def __init__(self, task: TaskSpec, speed: float = 0.5, hold: bool = False, toggle: int | str = "") -> None:
        super().__init__(task)
        if not SPEED_STEP <= speed <= 1:
            raise UserError(f"speed must be from {SPEED_STEP} to 1, got {speed}")
        if task.rate is None:
            raise UserError("the control rate of the task is not known")
        self._step = 1 / task.rate
        self._speed, self._hold, self._toggled = speed, hold, _toggled(toggle, task.action_dim)
        self._rest = task.unit_actions(np.clip(0.0, task.low, task.high)).astype(np.float64)
        self._rest[self._toggled] = -1.0
        self._first = 0
        self._held, self._pressed = set[int](), set[int]()
        self.reset()
        self.open()

    def open(self) -> None:
        """Connect to the device."""

    @abstractmethod
    def deflections(self) -> NDArray[np.float64]:
        """Return the deflection of each control, (controls,), from -1 to 1."""

    def reset(self) -> None:
        self._value = self._rest.copy()

    def take_over(self, last: NDArray[np.floating]) -> None:
        """Begin where the robot is told to be: with the last action, as far as numbers stay where they are."""
        value = last.astype(np.float64)
        self._value = np.where(self._toggled, np.where(value < 0, -1.0, 1.0), value)

    def act(self) -> NDArray[np.floating]:
        deflection = np.zeros(len(self._value))
        page = slice(self._first, self._first + len(self.CONTROLS))
        deflection[page] = self.deflections()[: len(deflection[page])]
        toggled = np.where(np.abs(deflection) < 0.5, self._value, np.sign(deflection))
        if self._hold:
            moved = np.clip(self._value + 2 * self._speed * self._step * deflection, -1.0, 1.0)
        else:
            way = np.where(deflection > 0, 1 - self._rest, self._rest + 1)
            moved = self._rest + self._speed * deflection * way
        self._value = np.where(self._toggled, toggled, moved)
        return self._value.astype(np.float32)

    def press(self, key: int) -> None:
        """Take note that a key or button was pressed."""
        self._held.add(key)
        self._pressed.add(key)

    def release(self, key: int) -> None:
        """Take note that a key or button was released."""
        self._held.discard(key)

    def begin_pass(self) -> None:
        """Forget which keys were pressed before, unless they are still held."""
        self._pressed.clear()

    @property
    def pressed(self) -> set[int]:
        """The keys that are held, and those that were pressed and released in this pass."""
        return self._held | self._pressed

    def labels(self) -> list[str]:
        after = len(self._value) - self._first
        labels = [*[""] * self._first, *self.CONTROLS[:after]]
        return labels + [""] * (len(self._value) - len(labels))

    def settings(self) -> str:
        kept = "held" if self._hold else "springing back"
        return f"speed {self._speed:.1f}, {kept}"

    def accelerate(self, steps: int) -> None:
        """Change the speed by steps of 0.1, within 0.1 ... 1."""
        self._speed = min(max(round(self._speed + steps * SPEED_STEP, 1), SPEED_STEP), 1.0)

    def turn_page(self) -> None:
        """Move the next numbers of the action. After the last come the first."""
        following = self._first + len(self.CONTROLS)
        self._first = following if following < len(self._value) else 0


def _toggled(toggle: int | str, size: int) -> NDArray[np.bool_]:
    """Return which of the numbers of an action have two values, (A,)."""
    indices = [part.strip() for part in str(toggle).split(",") if part.strip()]
    if not all(index.isdecimal() and int(index) < size for index in indices):
        raise UserError(f"toggle must be indices from 0 to {size - 1}, such as '0' or '0, 1', got {toggle!r}")
    return np.isin(np.arange(size), [int(index) for index in indices])
