"""Robust writing to standard output and standard error, which may be closed, full, or unable to show a character."""

from __future__ import annotations

import errno
import os
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from typing import Any, TextIO, cast

GYMNASIUM = re.compile(r"\x1b\[\d+m(WARN: )?")
"""What gymnasium writes around its warnings."""


class Console:
    """A text stream that never raises. Text that cannot be written is dropped, and `error` keeps the reason.

    Characters that the stream cannot encode are written as escapes.

    Args:
        stream: The stream to write to. If it is None, as Python sets `sys.stdout` when it is closed, all text is
            dropped.

    Attributes:
        error: The first error that occurred. None if everything was written.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream: TextIO = open(os.devnull) if stream is None else stream
        self.error: OSError | None = None

    def write(self, text: str) -> int:
        try:
            self._write(text)
        except (OSError, ValueError) as error:
            self._note(error)
        return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except (OSError, ValueError) as error:
            self._note(error)

    def abandon(self) -> None:
        """Discard buffered text that cannot be written.

        Otherwise Python would try to write it again at exit, and change the exit status.
        """
        try:
            self._stream.flush()
        except (OSError, ValueError):
            with suppress(OSError, ValueError), open(os.devnull, "wb") as nowhere:
                os.dup2(nowhere.fileno(), self._stream.fileno())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
        except UnicodeEncodeError:
            encoding = self._stream.encoding
            self._stream.write(text.encode(encoding, "backslashreplace").decode(encoding))

    def _note(self, error: OSError | ValueError) -> None:
        if self.error is None:
            is_closed = not getattr(error, "strerror", None)  # Python's own error, not the operating system's
            self.error = OSError(errno.EBADF, "it is closed") if is_closed else cast(OSError, error)


@contextmanager
def console() -> Iterator[Console]:
    """Redirect standard output and standard error to a `Console` each, and yield that of standard output."""
    out, err = Console(sys.stdout), Console(sys.stderr)
    try:
        with redirect_stdout(cast(TextIO, out)), redirect_stderr(cast(TextIO, err)):
            yield out
    finally:
        out.abandon()
        err.abandon()


@contextmanager
def plain_warnings() -> Iterator[None]:
    """Show warnings in the block as one line of words, `warning: ...`, without the place in the code and its source."""

    def in_words(message: Warning | str, *_: object, **__: object) -> str:
        return f"warning: {' '.join(GYMNASIUM.sub('', str(message)).split())}\n"

    before, warnings.formatwarning = warnings.formatwarning, in_words
    try:
        yield
    finally:
        warnings.formatwarning = before


def note(text: str) -> None:
    """Print a line to standard output and flush it, if that is possible."""
    if sys.stdout is not None:
        print(text, file=cast(TextIO, Console(sys.stdout)), flush=True)


def remark(text: str) -> None:
    """Print a line to standard error, if that is possible: information that is not part of a command's result."""
    if sys.stderr is not None:
        print(text, file=cast(TextIO, Console(sys.stderr)), flush=True)


def occupy_standard_descriptors() -> None:
    """Point closed descriptors among 0, 1 and 2 to the null device, in child processes as well.

    Otherwise the next file opened would get such a number, and a library's output would end up in it.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
