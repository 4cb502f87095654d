"""Handling of SIGINT and SIGTERM. During training they take effect at points where a checkpoint can be saved."""

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
    """A signal stopped the command. If training had started, a checkpoint was saved.

    Attributes:
        number: The number of the signal. The exit status of the command is 128 + `number`.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class SignalWatch:
    """A context manager inside which SIGINT and SIGTERM only set a flag, which `check` tests.

    A ^C after the first signal raises a plain KeyboardInterrupt at once. Further SIGTERMs have no effect, because the
    `timeout` command sends two. Outside the main thread, which alone receives signals, nothing is watched.
    """

    def __init__(self) -> None:
        self._received: int | None = None
        self._handlers: dict[int, Any] = {}

    def check(self) -> None:
        """Raise `Interrupted` if a signal was received."""
        if self._received is not None:
            raise Interrupted(self._received)

    def __enter__(self) -> SignalWatch:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if signal.getsignal(number) not in (signal.SIG_IGN, None):  # background jobs ignore ^C
                    self._handlers[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        if self._received is None:
            self._received = number
            if sys.__stderr__ is not None:  # otherwise descriptor 2 may belong to any file
                again = b"; press ^C again to stop at once" if number == signal.SIGINT else b""
                with suppress(OSError):  # not print, which the signal may have interrupted
                    os.write(2, b"\nstopping: saving a checkpoint first%s\n" % again)
        elif number == signal.SIGINT:
            raise KeyboardInterrupt


@contextmanager
def terminable() -> Iterator[None]:
    """Raise `Interrupted` at the first SIGTERM inside the block, so that `with` blocks clean up as they do after ^C.

    Further SIGTERMs have no effect. If SIGTERM is already ignored or handled, nothing changes.
    """
    owner, received = os.getpid(), False

    def end(number: int, _: FrameType | None) -> None:
        nonlocal received
        if os.getpid() != owner:  # a process forked from this one ends as if there were no handler
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
