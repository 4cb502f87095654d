"""SIGINT and SIGTERM: noted, obeyed where it is asked for, and handled as before afterwards."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator

import pytest

from softflow.training.interruption import SIGNALS, Interrupted, SignalWatch, terminable


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Whatever a test sets is unset."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_noted_and_obeyed_when_asked_for(number: int) -> None:
    before = signal.getsignal(number)
    with SignalWatch() as watch:
        watch.check()
        signal.raise_signal(number)
        with pytest.raises(Interrupted) as caught:
            watch.check()
    assert caught.value.number == number and isinstance(caught.value, KeyboardInterrupt)
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("first", SIGNALS)
def test_then_an_interrupt_is_obeyed_at_once(first: int) -> None:
    with SignalWatch() as watch:
        signal.raise_signal(first)
        signal.raise_signal(signal.SIGTERM)  # `timeout` sends two
        with pytest.raises(KeyboardInterrupt) as caught:
            signal.raise_signal(signal.SIGINT)
        assert caught.type is KeyboardInterrupt
        with pytest.raises(Interrupted, match=signal.Signals(first).name):
            watch.check()


def test_only_who_pressed_a_key_is_told_to_press_it_again(capfd: pytest.CaptureFixture[str]) -> None:
    said = []
    for number in SIGNALS:
        with SignalWatch():
            signal.raise_signal(number)
        said.append(capfd.readouterr().err)
    first = "\nstopping: saving a checkpoint first"
    assert said == [f"{first}; press ^C again to stop at once\n", f"{first}\n"]


def test_an_ignored_interrupt_stays_ignored() -> None:
    """As of a job in the background of a script."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with SignalWatch() as watch:
        signal.raise_signal(signal.SIGINT)
        watch.check()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_in_another_thread_nothing_is_watched() -> None:
    before, seen = signal.getsignal(signal.SIGINT), []

    def watch() -> None:
        with SignalWatch() as watching:
            watching.check()
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=watch)
    thread.start()
    thread.join()
    assert seen == [before]


def test_what_is_said_goes_to_no_file_that_took_the_number_of_standard_error(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "__stderr__", None)  # it was closed when python started
    with SignalWatch():
        signal.raise_signal(signal.SIGTERM)
    assert capfd.readouterr().err == ""


def test_before_training_the_first_sigterm_is_obeyed_at_once() -> None:
    cleaned_up = False
    with pytest.raises(Interrupted) as caught, terminable():
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            signal.raise_signal(signal.SIGTERM)  # `timeout` sends two
            cleaned_up = True
    assert cleaned_up and caught.value.number == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_an_ignored_sigterm_stays_ignored() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with terminable():
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN


def test_a_forked_process_ends_by_sigterm_as_ever() -> None:
    with terminable():
        process = os.fork()
        if not process:
            signal.raise_signal(signal.SIGTERM)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == -signal.SIGTERM
