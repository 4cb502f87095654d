"""Output to a standard stream that is closed, full, broken, or cannot show a character."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO, cast

import pytest

from softflow.console import Console, console, note

FULL = Path("/dev/full")


@pytest.fixture
def full() -> Iterator[TextIO]:
    """A stream on a disk that is full."""
    if not FULL.exists():
        pytest.skip("this system has no /dev/full")
    stream = FULL.open("w")
    yield stream
    try:
        stream.close()
    except OSError:
        pass


def encoded(encoding: str, text: str) -> bytes:
    buffer = io.BytesIO()
    stream = Console(io.TextIOWrapper(buffer, encoding=encoding))
    assert stream.write(text) == len(text)
    stream.flush()
    assert stream.error is None
    return buffer.getvalue()


def test_what_can_be_encoded_is_written_as_it_is() -> None:
    assert encoded("utf-8", "é💥\n") == "é💥\n".encode()
    assert encoded("latin-1", "é\n") == b"\xe9\n"


def test_what_cannot_be_encoded_is_escaped() -> None:
    assert encoded("ascii", "run é💥") == rb"run \xe9\U0001f4a5"
    assert encoded("utf-8", os.fsdecode(b"run \xff")) == rb"run \udcff"


def test_what_cannot_be_written_is_lost(full: TextIO) -> None:
    stream = Console(full)
    print("a line", file=cast(TextIO, stream), flush=True)
    assert stream.error is not None and stream.error.strerror == "No space left on device"
    print("x" * 100_000, file=cast(TextIO, stream))  # beyond any buffer
    stream.abandon()
    full.flush()  # as python does when it exits


@pytest.mark.parametrize("is_closed_since", [True, False])
def test_a_closed_stream_loses_everything(is_closed_since: bool) -> None:
    python_closed = io.StringIO()
    python_closed.close()
    stream = Console(python_closed if is_closed_since else None)
    assert stream.error is None
    stream.write("a line\n")
    assert stream.error is not None and stream.error.strerror == "it is closed"
    stream.flush()
    stream.abandon()


def test_a_closed_stream_is_no_terminal() -> None:
    assert not Console(None).isatty()


def test_inside_everything_that_is_printed_goes_through_it(full: TextIO, monkeypatch: pytest.MonkeyPatch) -> None:
    err = io.StringIO()
    monkeypatch.setattr(sys, "stdout", full)
    monkeypatch.setattr(sys, "stderr", err)
    with console() as out:
        print("a result", flush=True)
        print("a note", file=sys.stderr)
        assert out.error is not None
    assert (sys.stdout, sys.stderr) == (full, err) and err.getvalue() == "a note\n"
    full.flush()


def test_a_note_is_printed_if_possible(
    full: TextIO, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    note("a line")
    assert capsys.readouterr().out == "a line\n"
    for stream in (full, None):
        monkeypatch.setattr(sys, "stdout", stream)
        note("a line")
