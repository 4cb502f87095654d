"""The signal that stops the robot. It waits in no queue."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from softflow.errors import UserError, described, one_line

POLL = 0.001
"""Seconds between two looks at what another thread provides."""


class Stopped(UserError):
    """The robot was stopped before its episode ended. The message says why."""


class StopSignal:
    """A flag that any thread sets and the control thread reads before each command.

    The control thread sleeps on the flag between commands, so setting it takes effect at once. The first reason stays.
    """

    def __init__(self) -> None:
        self._event, self._lock = threading.Event(), threading.Lock()
        self._reason = ""
        self._error: BaseException | None = None
        self._not_stopped = ""

    def set(self, reason: str, error: BaseException | None = None) -> None:
        """Stop the robot.

        Args:
            reason: Why, for the user.
            error: The error that was the reason, if it was one.
        """
        with self._lock:
            if not self._event.is_set():
                self._reason, self._error = reason, error
                self._event.set()

    def fail(self, what: str, error: BaseException) -> None:
        """Stop the robot because `what` raised an error."""
        why = one_line(error) if isinstance(error, UserError) else described(error)
        self.set(f"{what} failed: {why}", error)

    def set_not_stopped(self, why: str) -> None:
        """Note that the robot could not be stopped."""
        self._not_stopped = why
        self.set(why)

    def is_set(self) -> bool:
        """Return whether the robot must stop."""
        return self._event.is_set()

    def wait(self, seconds: float) -> bool:
        """Wait for some seconds, or not at all if they are negative. Return at once, with True, when it is set."""
        return self._event.wait(max(seconds, 0.0))

    def comes(self, is_there: Callable[[], bool], seconds: float) -> bool:
        """Wait until something is there. Return False if it takes longer, or if the signal is set."""
        end = time.perf_counter() + seconds
        while not is_there():
            if self.wait(POLL) or time.perf_counter() > end:
                return False
        return not self.is_set()

    def require_stopped(self) -> None:
        """Raise `Stopped`, with the reason, if the robot could not be stopped."""
        if self._not_stopped:
            because = "" if self._reason == self._not_stopped else f". It should have stopped because {self._reason}"
            raise Stopped(
                f"THE ROBOT MAY STILL MOVE, press its emergency stop: {self._not_stopped}{because}"
            ) from self._error

    def check(self) -> None:
        """Raise `Stopped`, with the reason, if the signal is set."""
        self.require_stopped()
        if self.is_set():
            raise Stopped(f"the robot was stopped: {self._reason}") from self._error
