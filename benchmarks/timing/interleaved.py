"""Times of several calls, taken in turn, so that a machine that is busy is busy for all of them."""

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
        cases: the calls.
        rounds: in each of which every case has its turn.
        warm_up: rounds before, which are not counted.
        repeats: calls of a case in its turn.
        clock: in seconds; CPU time of this process, unless given.
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
    """Return the median over the rounds of one case's time divided by another's."""
    return statistics.median(one / other for one, other in zip(times, to, strict=True))
