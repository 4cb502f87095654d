"""A gamepad: sticks, triggers, shoulder buttons and the directional pad."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pygame
from numpy.typing import NDArray
from pygame._sdl2 import controller
from pygame.event import Event

from softflow.errors import UserError
from softflow.teleop.device import Command
from softflow.teleop.manual import Manual

FULL = 32767
"""Value of an axis at its end."""
DEAD_ZONE = 0.1
"""Deflection below which a stick counts as centred."""
STICKS = {
    pygame.CONTROLLER_AXIS_LEFTX: (0, 1),
    pygame.CONTROLLER_AXIS_LEFTY: (1, -1),
    pygame.CONTROLLER_AXIS_RIGHTY: (2, -1),
    pygame.CONTROLLER_AXIS_RIGHTX: (3, 1),
    pygame.CONTROLLER_AXIS_TRIGGERLEFT: (4, -1),
    pygame.CONTROLLER_AXIS_TRIGGERRIGHT: (4, 1),
}
"""The number that an axis moves, and its sign. Sticks point down where their axis is positive."""
BUTTONS = {
    pygame.CONTROLLER_BUTTON_LEFTSHOULDER: (5, -1),
    pygame.CONTROLLER_BUTTON_RIGHTSHOULDER: (5, 1),
    pygame.CONTROLLER_BUTTON_DPAD_DOWN: (6, -1),
    pygame.CONTROLLER_BUTTON_DPAD_UP: (6, 1),
    pygame.CONTROLLER_BUTTON_DPAD_LEFT: (7, -1),
    pygame.CONTROLLER_BUTTON_DPAD_RIGHT: (7, 1),
}
COMMANDS = {
    pygame.CONTROLLER_BUTTON_START: Command.PAUSE,
    pygame.CONTROLLER_BUTTON_A: Command.KEEP,
    pygame.CONTROLLER_BUTTON_B: Command.DISCARD,
    pygame.CONTROLLER_BUTTON_Y: Command.SUCCESS,
}
SPEED = {pygame.CONTROLLER_BUTTON_LEFTSTICK: -1, pygame.CONTROLLER_BUTTON_RIGHTSTICK: 1}


class Gamepad(Manual):
    """Moves numbers of the action as far as sticks and triggers are deflected.

    Raises:
        UserError: No gamepad is connected, or its buttons are not known.
    """

    CONTROLS = ("left x", "left y", "right y", "right x", "LT RT", "LB RB", "pad y", "pad x")
    HINTS = ("Start A B Y", "as Space, Enter, Backspace, Tab"), ("LS RS", "slower, faster"), ("X", "next numbers")

    def open(self) -> None:
        self._axes, self._controller = dict[int, float](), open_gamepad()

    def listen(self, events: Sequence[Event]) -> list[Command]:
        self.begin_pass()
        commands = []
        for event in events:
            if event.type == pygame.CONTROLLERAXISMOTION:
                self._axes[event.axis] = min(max(event.value / FULL, -1.0), 1.0)
            elif event.type == pygame.CONTROLLERBUTTONUP:
                self.release(event.button)
            elif event.type == pygame.CONTROLLERDEVICEREMOVED:
                raise UserError("the gamepad was disconnected")
            elif event.type == pygame.CONTROLLERBUTTONDOWN:
                self.press(event.button)
                commands += [COMMANDS[event.button]] if event.button in COMMANDS else []
        return commands

    def press(self, key: int) -> None:
        super().press(key)
        self.accelerate(SPEED.get(key, 0))
        if key == pygame.CONTROLLER_BUTTON_X:
            self.turn_page()

    def deflections(self) -> NDArray[np.float64]:
        deflections = np.zeros(len(self.CONTROLS))
        for axis, (number, sign) in STICKS.items():
            value = self._axes.get(axis, 0.0)
            deflections[number] += sign * value if abs(value) > DEAD_ZONE else 0.0
        for button, (number, sign) in BUTTONS.items():
            deflections[number] += sign * (button in self.pressed)
        return deflections.clip(-1, 1)


def open_gamepad() -> Any:
    """Open the first gamepad whose buttons SDL knows. It sends events as long as the result is referenced."""
    controller.init()
    numbers = range(controller.get_count())
    known = [number for number in numbers if controller.is_controller(number)]
    if not known:
        found = "its buttons are not known to SDL" if numbers else "none is connected"
        raise UserError(f"no gamepad: {found}; use the keyboard")
    return controller.Controller(known[0])
