"""A window, and the commands of its keys."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Self

import pygame
from pygame.event import Event

from softflow.errors import UserError, one_line
from softflow.teleop.device import Command

UNSEEN = "dummy", "offscreen"
"""SDL's drivers without a display. It falls back to them."""
COMMANDS = {
    pygame.K_SPACE: Command.PAUSE,
    pygame.K_RETURN: Command.KEEP,
    pygame.K_KP_ENTER: Command.KEEP,
    pygame.K_BACKSPACE: Command.DISCARD,
    pygame.K_TAB: Command.SUCCESS,
    pygame.K_ESCAPE: Command.QUIT,
}


class Display:
    """A window that can be resized. Use it as a context manager, in the main thread.

    Args:
        title: The title of the window.
        size: Width and height in pixels at the start.
        alternative: What else is possible without a display, for the error.

    Raises:
        UserError: There is no display.
    """

    def __init__(self, title: str, size: tuple[int, int], alternative: str = "") -> None:
        os.environ.setdefault("SDL_FRAMEBUFFER_ACCELERATION", "0")  # leaves OpenGL to the environment
        if sys.platform == "linux" and not os.environ.get("XDG_RUNTIME_DIR"):
            os.environ.setdefault("SDL_VIDEODRIVER", "x11")  # Wayland's would print a line of its own
        try:
            pygame.display.init()
            pygame.font.init()
            self.screen = pygame.display.set_mode(size, pygame.RESIZABLE)
            if pygame.display.get_driver() in UNSEEN:
                raise pygame.error("nothing would be seen")
        except pygame.error as error:
            pygame.quit()
            raise UserError(
                f"no window can be opened ({one_line(error)}): teleoperation needs a display, such as that of a "
                f"desktop or of `ssh -X`{alternative}"
            ) from error
        pygame.display.set_caption(title)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        pygame.quit()


def commands_of(events: Sequence[Event]) -> list[Command]:
    """Return the commands of the window's keys among some events, in order."""
    commands = [COMMANDS[event.key] for event in events if event.type == pygame.KEYDOWN and event.key in COMMANDS]
    return [*commands, Command.QUIT] if any(event.type == pygame.QUIT for event in events) else commands
