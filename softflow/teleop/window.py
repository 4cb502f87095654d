"""The window of a teleoperation: the picture of the environment, and a panel with what is moved and recorded."""

from __future__ import annotations

import os
import sys
from types import TracebackType

import numpy as np
import pygame
from numpy.typing import NDArray

from softflow.errors import UserError, one_line
from softflow.teleop.device import Command, Device
from softflow.teleop.panel import WIDTH, Panel
from softflow.teleop.status import Status

SIZE = 1180, 760
"""Width and height in pixels at the start. The window can be resized."""
UNSEEN = "dummy", "offscreen"
"""SDL's drivers without a display. It falls back to them."""
BACKGROUND = 18, 20, 24
COMMANDS = {
    pygame.K_SPACE: Command.PAUSE,
    pygame.K_RETURN: Command.KEEP,
    pygame.K_KP_ENTER: Command.KEEP,
    pygame.K_BACKSPACE: Command.DISCARD,
    pygame.K_TAB: Command.SUCCESS,
    pygame.K_ESCAPE: Command.QUIT,
}


class Window:
    """Shows the state of a recording and receives its commands. Use it as a context manager.

    Args:
        title: The title of the window.

    Raises:
        UserError: There is no display.
    """

    def __init__(self, title: str) -> None:
        os.environ.setdefault("SDL_FRAMEBUFFER_ACCELERATION", "0")  # leaves OpenGL to the environment
        if sys.platform == "linux" and not os.environ.get("XDG_RUNTIME_DIR"):
            os.environ.setdefault("SDL_VIDEODRIVER", "x11")  # Wayland's would print a line of its own
        try:
            pygame.display.init()
            pygame.font.init()
            self._screen = pygame.display.set_mode(SIZE, pygame.RESIZABLE)
            if pygame.display.get_driver() in UNSEEN:
                raise pygame.error("nothing would be seen")
        except pygame.error as error:
            pygame.quit()
            raise UserError(
                f"no window can be opened ({one_line(error)}): teleoperation needs a display, such as that of a "
                "desktop or of `ssh -X`"
            ) from error
        pygame.display.set_caption(title)
        self._panel = Panel()

    def __enter__(self) -> Window:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        pygame.quit()

    def listen(self, device: Device) -> list[Command]:
        """Pass the events since the last call on to the device. Return the commands of the person, in order."""
        events = pygame.event.get()
        commands = [COMMANDS[event.key] for event in events if event.type == pygame.KEYDOWN and event.key in COMMANDS]
        commands += device.listen(events)
        if any(event.type == pygame.QUIT for event in events):
            commands.append(Command.QUIT)
        return commands

    def draw(self, picture: NDArray[np.uint8], status: Status) -> None:
        """Show the picture (height, width, 3) and the status."""
        width, height = self._screen.get_size()
        self._screen.fill(BACKGROUND)
        area = pygame.Rect(0, 0, max(width - WIDTH, 1), height)
        frame = pygame.surfarray.make_surface(picture.swapaxes(0, 1))
        fitted = frame.get_rect().fit(area)
        self._screen.blit(pygame.transform.smoothscale(frame, fitted.size), fitted)
        self._panel.draw(self._screen, pygame.Rect(area.right, 0, WIDTH, height), status)
        pygame.display.flip()
