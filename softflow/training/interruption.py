"""SIGINT and SIGTERM. While a run trains they are noted, and obeyed where nothing is left half done."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

SIGNALS = signal.SIGINT, signal.SIGTERM


class Interrupted(KeyboardInterrupt):
    """A signal asked the command to end. A run that had begun to train has saved a checkpoint.

    Attributes:
        number: of the signal; a command exits with 128 more.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class SignalWatch:
    """Inside its `with` block SIGINT and SIGTERM only set a flag, which `check` looks at.

    A ^C after the first signal gives up at once, as a plain KeyboardInterrupt. Further SIGTERMs change nothing: the
    `timeout` command sends two. In a thread other than the main one, which gets no signals, nothing is watched.
    """

    def __init__(self) -> None:
        self._received: int | None = None
        self._handlers: dict[int, Any] = {}

    def check(self) -> None:
        """Raises `Interrupted` if a signal has come."""
        if self._received is not None:
            raise Interrupted(self._received)

    def __enter__(self) -> SignalWatch:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if signal.getsignal(number) not in (signal.SIG_IGN, None):  # a job in the background ignores ^C
                    self._handlers[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        if self._received is None:
            self._received = number
            if sys.__stderr__ is not None:  # else the number 2 may be that of any file
                with suppress(OSError):  # print may be what the signal interrupted
                    os.write(2, b"\nstopping: a checkpoint is saved first; ^C once more gives up at once\n")
        elif number == signal.SIGINT:
            raise KeyboardInterrupt


@contextmanager
def terminable() -> Iterator[None]:
    """Inside it, the first SIGTERM raises `Interrupted`, as ^C raises KeyboardInterrupt: `with` blocks then clean up.
    Later ones change nothing. Where SIGTERM is ignored or handled already, that stays so.
    """
    owner, received = os.getpid(), False

    def end(number: int, _: FrameType | None) -> None:
        nonlocal received
        if os.getpid() != owner:  # a process forked from this one ends as if this handler were not there
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        elif not received:
            received = True
            raise Interrupted(number)

    in_main_thread = threading.current_thread() is threading.main_thread()
    if not in_main_thread or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
