"""The panel of a window: a state, a bar for each number of the action, and the keys."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import Generic, TypeVar

import numpy as np
import pygame

from softflow.teleop.status import Moved, Phase, Status

WIDTH = 400
"""Width of the panel in pixels."""
COLUMN = 100
"""Width of its first column."""
MARGIN, LINE, SMALL_LINE, BAR = 20, 24, 21, 22
GROUND, TRACK = (28, 31, 38), (52, 57, 68)
TEXT, FAINT, STRONG = (222, 226, 233), (134, 142, 156), (255, 255, 255)
BLUE, GREEN, RED, AMBER = (92, 160, 255), (80, 200, 120), (240, 84, 84), (245, 180, 70)
PHASES = {
    Phase.READY: ("READY", "Space starts", BLUE),
    Phase.PAUSED: ("PAUSED", "Space goes on", BLUE),
    Phase.RECORDING: ("RECORDING", "Enter ends and keeps it", RED),
    Phase.ENDED: ("ENDED", "Enter keeps it, Backspace repeats it", GREEN),
}
Colour = tuple[int, int, int]
S = TypeVar("S", bound=Moved)


class Panel(Generic[S]):
    """Draws the panel."""

    KEYS: Sequence[tuple[str, str]]
    """The keys of the window and their meanings."""

    def __init__(self) -> None:
        self._large, self._normal, self._small = (pygame.font.Font(None, size) for size in (40, 25, 21))

    @abstractmethod
    def draw_state(self, screen: pygame.Surface, area: pygame.Rect, status: S) -> int:
        """Draw the upper part, and return where it ends."""

    def draw(self, screen: pygame.Surface, area: pygame.Rect, status: S) -> None:
        """Draw the status into an area of the screen."""
        screen.fill(GROUND, area)
        inner = area.inflate(-2 * MARGIN, -2 * MARGIN)
        top = self.draw_state(screen, inner, status)
        bottom = self._draw_keys(screen, inner, [*self.KEYS, *status.hints])
        self._draw_bars(screen, pygame.Rect(inner.left, top, inner.width, max(bottom - top, 1)), status)

    def draw_heading(
        self, screen: pygame.Surface, area: pygame.Rect, task: str, word: str, hint: str, colour: Colour
    ) -> int:
        """Draw the task, a word for the state, and what can be done. Return where this ends."""
        self._write(screen, self._normal, task, FAINT, area.left, area.top + 8)
        pygame.draw.circle(screen, colour, (area.left + 9, area.top + 46), 9)
        self._write(screen, self._large, word, colour, area.left + 28, area.top + 46)
        self._write(screen, self._normal, hint, TEXT, area.left, area.top + 78)
        return area.top + 116

    def draw_rows(
        self, screen: pygame.Surface, area: pygame.Rect, y: int, rows: Iterable[tuple[str, str, Colour]]
    ) -> int:
        """Draw lines of a name and a text in a colour, from y on. Return where they end."""
        for name, text, colour in rows:
            self._write(screen, self._normal, name, FAINT, area.left, y)
            self._write(screen, self._normal, text, colour, area.left + COLUMN, y)
            y += LINE
        return y

    def _draw_keys(self, screen: pygame.Surface, area: pygame.Rect, keys: Sequence[tuple[str, str]]) -> int:
        """Draw the lower part, and return where it begins."""
        top = area.bottom - len(keys) * SMALL_LINE
        for row, (key, meaning) in enumerate(keys):
            y = top + row * SMALL_LINE + SMALL_LINE // 2
            self._write(screen, self._small, key, STRONG, area.left, y)
            self._write(screen, self._small, meaning, FAINT, area.left + COLUMN, y)
        return top - MARGIN

    def _draw_bars(self, screen: pygame.Surface, area: pygame.Rect, status: S) -> None:
        """Draw a bar from the centre for each number that the device moves now."""
        labels = np.array(status.labels)
        rows = np.flatnonzero(labels != "") if (labels != "").any() else np.arange(len(labels))
        height = min(BAR, area.height / len(rows))
        left, right = area.left + 130, area.right - 60
        for row, number in enumerate(rows.tolist()):
            y, value = round(area.top + (row + 0.5) * height), float(status.action[number])
            track = pygame.Rect(left, 0, right - left, max(round(height) - 8, 2))
            track.centery = y
            pygame.draw.rect(screen, TRACK, track, border_radius=3)
            end = track.centerx + round(value * track.width / 2)
            filled = pygame.Rect(min(end, track.centerx), track.top, abs(end - track.centerx), track.height)
            pygame.draw.rect(screen, BLUE, filled, border_radius=3)
            pygame.draw.line(screen, FAINT, track.midtop, track.midbottom)
            self._write(screen, self._small, status.names[number], TEXT, area.left, y)
            self._write(screen, self._small, labels[number], STRONG, area.left + 70, y)
            self._write(screen, self._small, f"{value:+.2f}", TEXT, right + 12, y)

    @staticmethod
    def _write(
        screen: pygame.Surface, font: pygame.font.Font, text: str, colour: tuple[int, ...], x: int, y: int
    ) -> None:
        """Write a text whose left end has its centre at x, y."""
        written = font.render(text, True, colour)
        screen.blit(written, written.get_rect(midleft=(x, y)))


class RecordingPanel(Panel[Status]):
    """The panel of a recording."""

    KEYS = (
        ("Space", "start, pause"),
        ("Enter", "end and keep"),
        ("Backspace", "discard, repeat"),
        ("Tab", "mark as success, or not"),
        ("Esc", "quit"),
    )

    def draw_state(self, screen: pygame.Surface, area: pygame.Rect, status: Status) -> int:
        top = self.draw_heading(screen, area, status.task, *PHASES[status.phase])
        rows = (
            ("episode", f"{status.kept + 1} of {status.episodes}", STRONG),
            ("kept", f"{status.kept}, {status.successes} successes", TEXT),
            ("success", _success(status), GREEN if status.is_success else TEXT),
            ("steps", f"{status.steps}, return {status.earned:.3g}", TEXT),
            ("rate", f"{status.reached:.1f} of {status.rate:g} Hz", AMBER if status.is_late else TEXT),
            ("device", status.settings, TEXT),
        )
        return self.draw_rows(screen, area, top, rows)


def _success(status: Status) -> str:
    judge = "says the environment" if status.is_judged else "marked by you" if status.is_success else "not marked"
    return f"{'yes' if status.is_success else 'no'}, {judge}"
