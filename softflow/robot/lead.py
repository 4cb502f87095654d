"""The lead: how many steps before the end of a chunk the computation of the next one must begin."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from softflow.robot.plan import NoChunk, Proposal

REHEARSALS = 5
"""Number of observations and of chunks before the first episode, to measure how long they take. The first one of each
does not count: a camera starts, and libraries are loaded."""
MARGIN = 1.5
"""How much longer than measured an observation and a chunk may take without being late."""


def measured_lead(propose: Callable[[], Proposal], observing: float, rate: float, ahead: float) -> int:
    """Compute some chunks, and return the lead for the time that they take.

    Args:
        propose: Computes a chunk.
        observing: See `lead_for`, as the other arguments.

    Raises:
        NoChunk: As by `lead_for` and by `propose`.
    """
    took = list[float]()
    for _ in range(REHEARSALS):
        begun = time.perf_counter()
        chunk = propose().actions
        took.append(time.perf_counter() - begun)
    return lead_for(observing, max(took[1:]), len(chunk), rate, ahead)


def lead_for(observing: float, thinking: float, horizon: int, rate: float, ahead: float) -> int:
    """Return the smallest lead with which an observation and its chunk are there in time.

    Args:
        observing: How long an observation takes, in seconds.
        thinking: How long a chunk takes, in seconds.
        horizon: Number of actions of a chunk.
        rate: The control rate in hertz.
        ahead: How long before its step an observation begins, in seconds.

    Raises:
        NoChunk: No chunk would be in time, because the next one must begin before this one. The message says whether
            the observation or the policy is slow.
    """
    needed = MARGIN * (observing + thinking)
    lead = max(math.ceil((needed - ahead) * rate), 0)
    if lead < horizon:
        return lead
    times = (
        f"an observation takes {observing:.3g} s and a chunk {thinking:.3g} s, which is {needed:.3g} s with a margin "
        f"of {MARGIN - 1:.0%}, and {horizon} actions at {rate:g} Hz leave {(horizon - 1) / rate + ahead:.3g} s"
    )
    if observing > thinking:
        raise NoChunk(
            f"the robot's observations are too slow: {times}. Let `observe` return the newest data instead of waiting "
            "for a camera or a sensor, or lower the rate (--rate)"
        )
    raise NoChunk(
        f"the policy is too slow: {times}. Lower the rate (--rate), train with a longer horizon, or wait for each "
        "chunk (--synchronous)"
    )
