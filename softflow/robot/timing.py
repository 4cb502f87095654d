"""How well a control loop keeps its deadlines."""

from __future__ import annotations

from typing import Any

import numpy as np

from softflow.robot.plan import Move

TOLERANCE = 0.1
"""A deadline is missed if its command is later than this share of a period."""


class Timing:
    """Collects the times of commands.

    Args:
        rate: The control rate in hertz, also an attribute.
    """

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self._delays = list[float]()
        self._latencies = list[float]()
        self._late = 0

    def add(self, move: Move, due: float, sent: float) -> None:
        """Add a command.

        Args:
            move: What was sent.
            due: Its deadline, in seconds of the clock.
            sent: When it was sent.
        """
        self._delays.append(sent - due)
        self._late += move.is_late
        if move.is_first:
            self._latencies.append(sent - move.chunk.seen)

    def summary(self) -> dict[str, Any]:
        """Return numbers of commands, and percentiles in milliseconds. Percentiles of nothing are None.

        `deadlines` is the number of commands, and `missed` the number of those sent too late. `late_chunks` is the
        number of commands without an action of a chunk that is in time. `jitter` is how long after its deadline a
        command was sent. `latency` is the time from an observation to the first command that depends on it.
        """
        return {
            "deadlines": len(self._delays),
            "missed": sum(delay > TOLERANCE / self.rate for delay in self._delays),
            "late_chunks": self._late,
            "jitter_ms": _percentiles(self._delays),
            "latency_ms": _percentiles(self._latencies),
        }


def _percentiles(seconds: list[float]) -> dict[str, float | None]:
    if not seconds:
        return {"p50": None, "p99": None, "max": None}
    p50, p99, highest = (1000 * np.percentile(seconds, [50, 99, 100])).tolist()
    return {"p50": p50, "p99": p99, "max": highest}
