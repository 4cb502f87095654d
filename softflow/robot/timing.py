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
        self._late = self._takeovers = self._human_steps = 0

    def add(self, move: Move, due: float, sent: float) -> None:
        """Add a command.

        Args:
            move: What was sent.
            due: Its deadline, in seconds of the clock.
            sent: When it was sent.
        """
        self._delays.append(sent - due)
        self._late += move.is_late
        self._takeovers += move.human and move.is_first
        self._human_steps += move.human
        if move.is_first and move.chunk is not None:
            self._latencies.append(sent - move.chunk.seen)

    def summary(self) -> dict[str, Any]:
        """Return numbers of commands, and percentiles in milliseconds. Percentiles of nothing are None.

        `deadlines` is the number of commands, and `missed` the number of those sent too late. `late_chunks` is the
        number of commands without an action of a chunk that is in time. `jitter` is how long after its deadline a
        command was sent. `takeovers` is how often a person took over, `human_steps` the number of commands of a person.
        `latency` is the time from an observation to the first command that depends on it.
        """
        return {
            "deadlines": len(self._delays),
            "missed": sum(delay > TOLERANCE / self.rate for delay in self._delays),
            "late_chunks": self._late,
            "takeovers": self._takeovers,
            "human_steps": self._human_steps,
            "jitter_ms": _percentiles(self._delays),
            "latency_ms": _percentiles(self._latencies),
        }


def _percentiles(seconds: list[float]) -> dict[str, float | None]:
    if not seconds:
        return {"p50": None, "p99": None, "max": None}
    p50, p99, highest = (1000 * np.percentile(seconds, [50, 99, 100])).tolist()
    return {"p50": p50, "p99": p99, "max": highest}
