"""The keyboard: two keys for each number of the action, one below the other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pygame
from numpy.typing import NDArray
from pygame.event import Event

from softflow.teleop.device import Command
from softflow.teleop.manual import Manual

ROWS = "qwertyuiop", "asdfghjkl;", "1234567890", "zxcvbnm,./"
"""Keys that move a number up, those below that move it down, and both for the next ten numbers."""
PAIRS = tuple(zip(ROWS[1] + ROWS[3], ROWS[0] + ROWS[2], strict=True))
ARROWS = {pygame.K_LEFT: (0, -1), pygame.K_RIGHT: (0, 1), pygame.K_DOWN: (1, -1), pygame.K_UP: (1, 1)}
"""Keys that move the first two numbers as well."""
KEYS = (
    ARROWS
    | {ord(down): (number, -1) for number, (down, _) in enumerate(PAIRS)}
    | {ord(up): (number, 1) for number, (_, up) in enumerate(PAIRS)}
)
"""The number that a key moves, and whether down or up. The codes of these keys are those of their characters."""
SPEED = {pygame.K_MINUS: -1, pygame.K_KP_MINUS: -1, pygame.K_EQUALS: 1, pygame.K_PLUS: 1, pygame.K_KP_PLUS: 1}


class Keyboard(Manual):
    """Moves numbers of the action while keys are held. A key that is pressed shortly counts for one step."""

    CONTROLS = tuple(f"{down} {up}".upper() for down, up in PAIRS)
    HINTS = ("- =", "slower, faster"), ("Arrows", "move the first two numbers"), ("Page down", "next numbers")

    def listen(self, events: Sequence[Event]) -> list[Command]:
        self.begin_pass()
        for event in events:
            if event.type == pygame.KEYDOWN:
                self.press(event.key)
            elif event.type == pygame.KEYUP:
                self.release(event.key)
        return []

    def press(self, key: int) -> None:
        super().press(key)
        self.accelerate(SPEED.get(key, 0))
        if key == pygame.K_PAGEDOWN:
            self.turn_page()

    def deflections(self) -> NDArray[np.float64]:
        deflections = np.zeros(len(PAIRS))
        for number, sign in (KEYS[key] for key in self.pressed if key in KEYS):
            deflections[number] += sign
        return deflections.clip(-1, 1)
