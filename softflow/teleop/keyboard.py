"""The keyboard: two keys for each number of the action, one below the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pygame
from numpy.typing import NDArray
from pygame.event import Event

from softflow.task import TaskSpec
from softflow.teleop.device import Command
from softflow.teleop.manual import Manual

ROWS = "qwertyuiop", "asdfghjkl;", "1234567890", "zxcvbnm,./"
"""Keys that move a number up, those below that move it down, and both for the next ten numbers."""
PAIRS = tuple(zip(ROWS[1] + ROWS[3], ROWS[0] + ROWS[2], strict=True))
ARROWS = {pygame.K_LEFT: (0, -1), pygame.K_RIGHT: (0, 1), pygame.K_DOWN: (1, -1), pygame.K_UP: (1, 1)}
"""Keys that move the first two numbers as well."""
KEYS = {ord(key): (number, sign) for number, pair in enumerate(PAIRS) for key, sign in zip(pair, (-1, 1), strict=True)}
SPEED = {pygame.K_MINUS: -1, pygame.K_KP_MINUS: -1, pygame.K_EQUALS: 1, pygame.K_PLUS: 1, pygame.K_KP_PLUS: 1}


class Keyboard(Manual):
    """Moves numbers of the action while keys are held. A key that is pressed shortly counts for one step."""

    CONTROLS = tuple(f"{down} {up}".upper() for down, up in PAIRS)
    HINTS = ("- =", "slower, faster"), ("Arrows", "move the first two numbers"), ("Page down", "next numbers")

    def __init__(self, task: TaskSpec, **options: Any) -> None:
        super().__init__(task, **options)
        self._held, self._pressed = set[int](), set[int]()

    def listen(self, events: Sequence[Event]) -> list[Command]:
        self._pressed.clear()
        for event in events:
            if event.type == pygame.KEYDOWN:
                self._press(event.key)
            elif event.type == pygame.KEYUP:
                self._held.discard(event.key)
        return []

    def _press(self, key: int) -> None:
        self._held.add(key)
        self._pressed.add(key)
        self.accelerate(SPEED.get(key, 0))
        if key == pygame.K_PAGEDOWN:
            self.turn_page()

    def deflections(self) -> NDArray[np.float64]:
        deflections = np.zeros(len(PAIRS))
        moving = [({**KEYS, **ARROWS})[key] for key in self._held | self._pressed if key in KEYS or key in ARROWS]
        for number, sign in moving:
            deflections[number] += sign
        return deflections.clip(-1, 1)
