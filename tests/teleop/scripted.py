"""A task and a device for the commands to record: a point on a plane, and a keyboard that presses its own keys."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
import pygame
from gymnasium.spaces import Box
from pygame.event import Event

from softflow.task import TaskSpec
from softflow.teleop import Command
from softflow.teleop.keyboard import Keyboard

ENV, DEVICE = "tests.teleop.scripted:Plane-v0", "tests.teleop.scripted:Scripted"
FAR = 2.0


class Plane(gymnasium.Env[Any, Any]):
    """A point that moves by the action, in the bounds [-1, 1] and [-0.5, 1.5].

    Args:
        length: The number of steps of an episode.
        says_success: Whether it says that a point beyond `FAR` on the first axis is a success.
        fails_at: The step, counted over all episodes, in which it raises an error; 0 is none.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 50}  # noqa: RUF012 (gymnasium's way)
    observation_space, action_space = Box(-np.inf, np.inf, (2,)), Box(np.float32([-1, -0.5]), np.float32([1, 1.5]))
    total = 0

    def __init__(
        self,
        render_mode: str | None = None,
        length: int = 100,
        says_success: bool = False,
        fails_at: int = 0,
    ) -> None:
        self.render_mode, self.length, self.says_success = render_mode, length, says_success
        self.fails_at = fails_at

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.place, self.steps = self.np_random.uniform(-1, 1, 2).astype(np.float32), 0
        return self.place, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        Plane.total += 1
        if Plane.total == self.fails_at:
            raise RuntimeError("the motor is hot")
        self.place, self.steps = (self.place + action).astype(np.float32), self.steps + 1
        info = {"is_success": bool(self.place[0] > FAR)} if self.says_success else {}
        return self.place, 0.0, False, self.steps >= self.length, info

    def render(self) -> Any:
        return np.full((8, 12, 3), 200, np.uint8) if self.render_mode else None


gymnasium.register("Plane-v0", entry_point=Plane)
gymnasium.register("Blank-v0", entry_point=lambda render_mode=None: Plane(None))


class Scripted(Keyboard):
    """A keyboard that presses its own keys.

    Args:
        script: Keys to press (`q`) and to release (`-q`), or `close`, in passes of the loop that are separated by `|`.
            Each takes effect in the next pass. `interrupt` is ^C. The window is closed at the end.
    """

    def __init__(self, task: TaskSpec, script: str = "", **options: Any) -> None:
        super().__init__(task, **options)
        self._script = iter(script.split("|"))

    def listen(self, events: Sequence[Event]) -> list[Command]:
        commands = super().listen(events)
        for key in next(self._script, "close").split():
            if key == "interrupt":
                signal.raise_signal(signal.SIGINT)
            else:
                pygame.event.post(_event(key))
        return commands


def _event(key: str) -> Event:
    if key == "close":
        return Event(pygame.QUIT)
    kind = pygame.KEYUP if key.startswith("-") else pygame.KEYDOWN
    return Event(kind, key=pygame.key.key_code(key.removeprefix("-")))
