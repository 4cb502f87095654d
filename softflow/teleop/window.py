"""The window of a teleoperation: the picture of the environment, and a panel with what is moved and recorded."""

from __future__ import annotations

import numpy as np
import pygame
from numpy.typing import NDArray

from softflow.teleop.device import Command, Device
from softflow.teleop.display import Display, commands_of
from softflow.teleop.panel import WIDTH, RecordingPanel
from softflow.teleop.status import Status

SIZE = 1180, 760
BACKGROUND = 18, 20, 24


class Window(Display):
    """Shows the state of a recording and receives its commands. See `Display`."""

    def __init__(self, title: str) -> None:
        super().__init__(title, SIZE)
        self._panel = RecordingPanel()

    def listen(self, device: Device) -> list[Command]:
        """Pass the events since the last call on to the device. Return the commands of the person."""
        events = pygame.event.get()
        return commands_of(events) + device.listen(events)

    def draw(self, picture: NDArray[np.uint8], status: Status) -> None:
        """Show the picture (height, width, 3) and the status."""
        width, height = self.screen.get_size()
        self.screen.fill(BACKGROUND)
        area = pygame.Rect(0, 0, max(width - WIDTH, 1), height)
        frame = pygame.surfarray.make_surface(picture.swapaxes(0, 1))
        fitted = frame.get_rect().fit(area)
        self.screen.blit(pygame.transform.smoothscale(frame, fitted.size), fitted)
        self._panel.draw(self.screen, pygame.Rect(area.right, 0, WIDTH, height), status)
        pygame.display.flip()
