"""Progress: few lines where the output is piped, a bar on a terminal."""

from __future__ import annotations

import errno
import io
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from softflow.training.progress import StageProgress, portions


class Clock:
    """Seconds that pass only when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def run(total: int, seconds_per_step: float, initial: int = 0, only_if_slow: bool = False) -> list[str]:
    clock, stream = Clock(), io.StringIO()
    options = dict(initial=initial, only_if_slow=only_if_slow)
    with StageProgress("online", total, **options, stream=stream, clock=clock) as progress:
        for step in range(initial, total):
            clock.now += seconds_per_step
            progress.update(1, success=step / total, loss=0.5)
    return stream.getvalue().splitlines()


def test_a_quick_stage_writes_a_line_every_tenth() -> None:
    lines = run(1000, seconds_per_step=0.001)
    assert len(lines) == 10
    assert lines[4] == "online 500/1,000 (50 %), success 0.499, loss 0.5, 00:00 gone, 00:00 left"
    assert lines[-1] == "online 1,000/1,000 (100 %), success 0.999, loss 0.5, 00:01 gone"


def test_a_slow_stage_writes_a_line_every_ten_seconds() -> None:
    lines = run(20, seconds_per_step=5)  # 100 s, and a tenth every 10 s
    assert len(lines) == 10
    assert lines[0].endswith("00:10 gone, 01:30 left")
    assert len(run(3, seconds_per_step=60)) == 3


def test_what_is_quick_can_be_silent() -> None:
    assert run(9, seconds_per_step=1, only_if_slow=True) == []
    lines = run(25, seconds_per_step=1, only_if_slow=True)
    assert [line.partition(" (")[0] for line in lines] == ["online 10/25", "online 20/25"]
    terminal = Terminal()
    with StageProgress("online", 1, stream=terminal, interval=1e6, only_if_slow=True) as progress:
        progress.update(1)
    assert terminal.getvalue() == ""


def test_a_resumed_stage_counts_on_and_estimates_from_its_own_steps() -> None:
    lines = run(1000, seconds_per_step=1, initial=500)
    assert lines[0].startswith("online 510/1,000 (51 %)")
    assert lines[0].endswith("00:10 gone, 08:10 left")


def test_steps_beyond_the_total_are_not_more_than_all() -> None:
    stream = io.StringIO()
    with StageProgress("online", 1000, stream=stream, clock=Clock()) as progress:
        progress.update(1004)
    assert stream.getvalue().splitlines()[-1] == "online 1,004/1,000 (100 %), 00:00 gone"


def test_time_without_steps_is_shown_and_counted() -> None:
    clock, stream = Clock(), io.StringIO()
    with StageProgress("online", 100, stream=stream, clock=clock) as progress:
        clock.now += 10
        progress.update(50)
        for _ in range(4):
            clock.now += 5
            progress.update(0)
        assert stream.getvalue().splitlines() == [
            "online 50/100 (50 %), 00:10 gone, 00:10 left",
            "online 50/100 (50 %), 00:20 gone, 00:20 left",
            "online 50/100 (50 %), 00:30 gone, 00:30 left",
        ]


def test_a_stopped_stage_says_where() -> None:
    stream = io.StringIO()
    with pytest.raises(KeyboardInterrupt):
        with StageProgress("online", 1000, stream=stream, clock=Clock()) as progress:
            progress.update(13)
            raise KeyboardInterrupt
    assert stream.getvalue().splitlines() == ["online 13/1,000 (1 %), 00:00 gone, 00:00 left"]


def test_a_stage_without_steps() -> None:
    assert run(0, seconds_per_step=1) == ["online 0/0 (0 %), 00:00 gone"]


@given(steps=st.integers(0, 5_000), updates=st.integers(1, 300))
def test_the_steps_of_a_round_are_counted_evenly_during_its_updates(steps: int, updates: int) -> None:
    counted = list(portions(steps, updates))
    assert len(counted) == updates and sum(counted) == steps
    assert max(counted) - min(counted) <= 1


def test_a_terminal_gets_a_bar() -> None:
    stream = Terminal()
    with StageProgress("imitation", 10, stream=stream) as progress:
        for _ in range(10):
            progress.update(1, loss=0.25)
    shown = stream.getvalue()
    assert "imitation: 100%" in shown and "10/10" in shown and "loss=0.25" in shown and "\r" in shown


class Broken(io.StringIO):
    """What is written to it cannot be."""

    def __init__(self, is_terminal: bool) -> None:
        super().__init__()
        self.is_terminal = is_terminal

    def isatty(self) -> bool:
        return self.is_terminal

    def write(self, text: str) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_stream_that_breaks_stops_nothing(is_terminal: bool) -> None:
    with StageProgress("online", 10, stream=Broken(is_terminal)) as progress:
        for _ in range(10):
            progress.update(1, loss=0.25)
    assert progress.done == 10


def test_a_closed_standard_error_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    with StageProgress("online", 10) as progress:
        progress.update(10)
    assert progress.done == 10
