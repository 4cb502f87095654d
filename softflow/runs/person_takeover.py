"""A person who moves a robot with a device, some of the time or all of it, and the window that says who acts."""

from __future__ import annotations

import time
from collections import deque

import numpy as np
from numpy.typing import NDArray
from pygame.event import Event

from softflow.console import remark
from softflow.errors import UserError
from softflow.robot import StopSignal, Takeover
from softflow.task import TaskSpec
from softflow.teleop import Command, Device
from softflow.teleop.display import commands_of
from softflow.teleop.takeover_window import TakeoverStatus, TakeoverWindow

REDRAW = 0.1
"""Seconds between two drawings of the window."""
WAITING = 0.01
"""Seconds between two looks for the key that begins an episode."""
QUIT = "a person quit"


class PersonTakeover(Takeover):
    """Lets a person act between the two presses of a key that take over and give back.

    The main thread gathers the events of the window, which SDL allows in no other. The control thread passes them on to
    the device at each deadline, so that the device is asked once per step.

    Args:
        task: What is observed and done.
        device: What the person moves.
        window: The window, which is not closed.
    """

    def __init__(self, task: TaskSpec, device: Device, window: TakeoverWindow) -> None:
        self._task, self._device, self._window = task, device, window
        self._names = [name for name, is_free in zip(task.action_names, task.low < task.high, strict=True) if is_free]
        self._events = deque[Event]()
        self._quits = self._said = False
        self._drawn = 0.0
        self._begin()

    def _begin(self) -> None:
        self._acts = self._has_ended = False
        self._steps = self._human_steps = 0
        self._unit: NDArray[np.floating] = np.zeros(len(self._names))

    def reset(self) -> None:
        self._device.reset()
        self._events.extend(self._window.events())
        self._obey()  # keys that were released meanwhile; of the commands before an episode, only quitting counts
        if self._quits:
            raise UserError(QUIT)
        self._begin()

    def act(self, last: NDArray[np.floating] | None) -> NDArray[np.floating] | None:
        acts = self._obey()
        if acts and not self._acts and last is not None:
            self._device.take_over(self._task.unit_actions(last))
        self._acts = acts
        self._steps, self._human_steps = self._steps + 1, self._human_steps + acts
        if not acts:
            self._unit = self._unit if last is None else self._task.unit_actions(last)
            return None
        self._unit = np.asarray(self._device.act())
        if not np.isfinite(self._unit).all():
            raise ValueError(f"the device gave an action that is not finite: {self._unit}")
        return self._task.native_actions(self._unit)

    def has_ended(self) -> bool:
        return self._has_ended

    def look(self, stop: StopSignal) -> None:
        events = self._window.events()
        self._events.extend(events)
        if self._quits or Command.QUIT in commands_of(events):
            stop.set(QUIT)
        if self._said is not self._acts:
            self._said = self._acts
            self._say()
        if time.monotonic() - self._drawn > REDRAW:
            self._window.draw(self._status())
            self._drawn = time.monotonic()

    def _obey(self) -> bool:
        """Obey the commands since the last step. Return whether the person acts."""
        acts, events = self._acts, self._taken()
        listened = self._device.listen(events)
        if not isinstance(listened, list) or not all(isinstance(one, Command) for one in listened):
            raise TypeError(f"listen of the device returned {listened!r}, expected a list of softflow.teleop.Command")
        for command in commands_of(events) + listened:
            acts = {Command.PAUSE: not acts, Command.TAKE_OVER: True, Command.GIVE_BACK: False}.get(command, acts)
            self._has_ended |= command is Command.KEEP
            self._quits |= command is Command.QUIT
        return acts

    def _say(self) -> None:
        remark("you act" if self._acts else "the policy acts")

    def _taken(self) -> list[Event]:
        return [self._events.popleft() for _ in range(len(self._events))]

    def _status(self) -> TakeoverStatus:
        return TakeoverStatus(
            task=self._task.name,
            names=self._names,
            labels=self._device.labels(),
            action=self._unit,
            settings=self._device.settings(),
            hints=self._device.HINTS,
            human_acts=self._acts,
            steps=self._steps,
            human_steps=self._human_steps,
        )


class Demonstrator(PersonTakeover):
    """A person who acts in whole episodes. Each begins with the key that otherwise takes over."""

    def reset(self) -> None:
        super().reset()
        remark("bring the device to the robot's posture, and press Space in the window to begin")
        signal = StopSignal()
        while not self._acts:
            self.look(signal)
            if signal.is_set() or self._quits:
                raise UserError(QUIT)
            self._acts = self._obey()
            time.sleep(WAITING)
        self._has_ended = False  # a key that ends episodes has no meaning before one begins

    def _obey(self) -> bool:
        return super()._obey() or self._acts

    def _say(self) -> None:
        if self._acts:
            remark("recording; Enter in the window ends the episode")
