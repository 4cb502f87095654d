"""Interleaved timing of several calls, so that load on the machine affects all of them equally."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Hashable, Mapping
from typing import TypeVar

Call = Callable[[], object]
Case = TypeVar("Case", bound=Hashable)


def interleaved(
    cases: Mapping[Case, Call],
    rounds: int,
    *,
    warm_up: int = 3,
    repeats: int = 1,
    clock: Callable[[], float] = time.process_time,
) -> dict[Case, list[float]]:
    """Return the milliseconds of every call, by case.

    Args:
        cases: The calls to time.
        rounds: Number of rounds. Every round times each case.
        warm_up: Number of rounds at the start that are not counted.
        repeats: Number of calls of a case per round.
        clock: Function that returns the time in seconds. The default is CPU time of this process.
    """
    times: dict[Case, list[float]] = {case: [] for case in cases}
    for i in range(warm_up + rounds):
        for case, call in cases.items():
            for _ in range(repeats):
                start = clock()
                call()
                if i >= warm_up:
                    times[case].append(1e3 * (clock() - start))
    return times


def ratio(times: list[float], to: list[float]) -> float:
    """Return the median over the rounds of the ratio of one case's time to another's."""
    return statistics.median(one / other for one, other in zip(times, to, strict=True))
