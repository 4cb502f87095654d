"""The window of a robot that a person may take over: who acts, what is moved, and the keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pygame
from pygame.event import Event

from softflow.teleop.device import Device
from softflow.teleop.display import Display
from softflow.teleop.manual import Manual
from softflow.teleop.panel import BLUE, RED, TEXT, WIDTH, Panel
from softflow.teleop.status import Moved

SIZE = WIDTH, 640
WITHOUT_KEYS = (
    "; a device that begins and ends episodes with its own buttons also works under `xvfb-run` (apt install xvfb), "
    "where no keys reach the window"
)


@dataclass(frozen=True)
class TakeoverStatus(Moved):
    """What the window shows.

    Attributes:
        human_acts: Whether the person acts.
        steps: The number of steps of this episode.
        human_steps: The number of those at which the person acted.
    """

    human_acts: bool
    steps: int
    human_steps: int


class TakeoverPanel(Panel[TakeoverStatus]):
    """The panel that fills the window."""

    KEYS = ("Space", "take over, give back"), ("Enter", "end the episode"), ("Esc", "stop the robot")
    HUMAN = "YOU ACT", "Space gives back", RED
    """What is shown while the person acts."""
    OTHERWISE = "POLICY ACTS", "Space takes over", BLUE

    def draw_state(self, screen: pygame.Surface, area: pygame.Rect, status: TakeoverStatus) -> int:
        heading = self.HUMAN if status.human_acts else self.OTHERWISE
        top = self.draw_heading(screen, area, status.task, *heading)
        steps = f"{status.steps}, {status.human_steps} of them yours"
        return self.draw_rows(screen, area, top, [("steps", steps, TEXT), ("device", status.settings, TEXT)])


class DemonstrationPanel(TakeoverPanel):
    """The panel of a person who acts in whole episodes."""

    KEYS = ("Space", "begin"), ("Enter", "end the episode"), ("Esc", "stop the robot")
    HUMAN = "RECORDING", "Enter ends the episode", RED
    OTHERWISE = "READY", "Space begins", BLUE


class TakeoverWindow(Display):
    """Shows who acts, in a panel. See `Display`.

    Args:
        title: The title of the window.
        device: The class of the person's device. One that needs no keys also works on a display that nobody sees.
        panel: The panel.
    """

    def __init__(self, title: str, device: type[Device], panel: type[TakeoverPanel] = TakeoverPanel) -> None:
        super().__init__(title, SIZE, "" if issubclass(device, Manual) else WITHOUT_KEYS)
        self._panel = panel()

    def events(self) -> Sequence[Event]:
        """Return the events since the last call."""
        return pygame.event.get()

    def draw(self, status: TakeoverStatus) -> None:
        """Show the status."""
        self._panel.draw(self.screen, self.screen.get_rect(), status)
        pygame.display.flip()
