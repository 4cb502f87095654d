"""Control rate of a loop in real time."""

from __future__ import annotations

import time
from collections.abc import Callable


class Pace:
    """Makes a loop run at a rate, and measures the rate that it reaches.

    A pass that takes too long is not made up for by shorter ones, because a person cannot react to those.

    Args:
        rate: Passes per second.
        clock: A monotonic clock that returns seconds.
        sleep: Waits for some seconds.
    """

    def __init__(
        self, rate: float, clock: Callable[[], float] = time.perf_counter, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self.rate, self._clock, self._sleep = rate, clock, sleep
        self.restart()

    def restart(self) -> None:
        """Forget the passes so far."""
        self._begun, self._passes, self._seconds = self._clock(), 0, 0.0

    def wait(self, counts: bool) -> None:
        """Wait for the end of this pass. `counts` says whether it counts for the rate that is reached."""
        due = self._begun + 1 / self.rate
        if (left := due - self._clock()) > 0:
            self._sleep(left)
            now = due  # an oversleep shortens the next pass, so that the mean is right
        else:
            now = self._clock()
        if counts:
            self._passes, self._seconds = self._passes + 1, self._seconds + now - self._begun
        self._begun = now

    @property
    def reached(self) -> float:
        """The mean rate of the passes that count. The rate itself before the first."""
        return self._passes / self._seconds if self._passes else self.rate

    @property
    def is_late(self) -> bool:
        """Whether the rate that is reached is more than a tenth too low."""
        return self.reached < 0.9 * self.rate
