"""The control rate of a recording, by a clock of its own."""

from __future__ import annotations

import pytest

from softflow.teleop.pace import Pace


class Clock:
    """Time that passes by sleeping and working alone."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


def passes(pace: Pace, clock: Clock, *work: float, counts: bool = True) -> list[float]:
    """The times at which the passes end, since the start of the first."""
    begun, ends = clock.now, []
    for seconds in work:
        clock.now += seconds
        pace.wait(counts)
        ends.append(clock.now - begun)
    return ends


def test_each_pass_takes_its_time(clock: Clock) -> None:
    pace = Pace(10, clock, clock.sleep)
    assert passes(pace, clock, 0, 0.05, 0.099) == pytest.approx([0.1, 0.2, 0.3])
    assert pace.reached == pytest.approx(10) and not pace.is_late


def test_a_long_pass_is_not_made_up_for(clock: Clock) -> None:
    pace = Pace(10, clock, clock.sleep)
    assert passes(pace, clock, 0.25, 0, 0) == pytest.approx([0.25, 0.35, 0.45])
    assert pace.reached == pytest.approx(3 / 0.45) and pace.is_late


def test_an_oversleep_is_made_up_for(clock: Clock) -> None:
    pace = Pace(10, clock, lambda seconds: clock.sleep(seconds + 0.01))
    assert passes(pace, clock, *[0.0] * 5) == pytest.approx([0.11, 0.21, 0.31, 0.41, 0.51])
    assert pace.reached == pytest.approx(10)


def test_pauses_do_not_count(clock: Clock) -> None:
    pace = Pace(10, clock, clock.sleep)
    passes(pace, clock, 0.5, counts=False)
    assert pace.reached == 10 and not pace.is_late
    passes(pace, clock, 0.2)
    assert pace.reached == pytest.approx(5) and pace.is_late
    pace.restart()
    assert pace.reached == 10
