"""How files are written, whole or not at all, and how large what is read from one may be."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.resources.abc import Traversable
from pathlib import Path

from softflow.errors import UserError

UNFINISHED = ".unfinished-"
"""The folders in which files are written begin with it; a process that is killed leaves its own."""
SIZE_LIMITS = "SOFTFLOW_SIZE_LIMITS"
"""Environment variable: a number that multiplies every limit on what is read."""
TEXT_LIMIT = 100_000
"""Bytes of a file of settings. They are read in time that grows with its size: this much takes a second."""
MEMORY_PER_BYTE = 100
"""Bytes of memory that a byte of a compressed file may become: pictures become ten, zeros a thousand."""
FREE_MEMORY = 64 * 2**20
"""Bytes of memory that even the smallest file may ask for."""


class SizeError(ValueError):
    """A file that is larger, or asks for more memory, than allowed."""


class WriteError(OSError, UserError):
    """A file that cannot be written, and why."""

    def __str__(self) -> str:
        return f"{self.filename}: cannot be written: {self.strerror}"


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Give a path beside `path`, with the same name, to write a file or a folder to. When the block ends, it replaces
    `path`. If the block fails, it is removed, and `path` is as it was. Missing parent folders are made.

    Raises:
        WriteError: whatever `OSError` the block raises, as one of `path`.
    """
    try:
        with suppress(FileExistsError):  # if it is no folder, the next line says so
            path.parent.mkdir(parents=True)
        with tempfile.TemporaryDirectory(prefix=UNFINISHED, dir=path.parent, ignore_cleanup_errors=True) as folder:
            unfinished = Path(folder, path.name)
            yield unfinished
            force_to_disk(unfinished)
            unfinished.replace(path)
    except OSError as error:
        reason = error.strerror or next(iter(str(error).splitlines()), type(error).__name__)
        raise WriteError(error.errno, reason, str(path)) from error


def force_to_disk(path: Path, with_content: bool = True) -> None:
    """Have the operating system write a file, or a folder with everything in it, to the disk now.

    Without its content, of a folder only the names in it are written.
    """
    for file in [*path.rglob("*"), path] if with_content and path.is_dir() else [path]:
        if file.is_dir() and os.name == "nt":  # Windows has no folder handles to sync
            continue
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def read_settings(file: Path | Traversable) -> str:
    """The text of a file of settings.

    Raises:
        SizeError: it is larger than `TEXT_LIMIT`.
        UnicodeDecodeError: it is not UTF-8.
        OSError: it cannot be read.
    """
    with file.open("rb") as opened:
        require_size("it", opened.seek(0, os.SEEK_END), TEXT_LIMIT)
        opened.seek(0)
        return opened.read().decode()


def require_size(what: str, size: int, limit: int) -> None:
    """Raises `SizeError`, which says how to raise the limit, if `what` has, or asks for, more bytes than allowed."""
    if size > limit * _factor():
        raise SizeError(
            f"{what} takes {_bytes(size)}, more than the {_bytes(math.floor(limit * _factor()))} allowed; "
            f"to read it nevertheless set the environment variable {SIZE_LIMITS}={math.ceil(size / limit)}"
        )


def _factor() -> float:
    given = os.environ.get(SIZE_LIMITS, "1")
    try:
        factor = float(given)
    except ValueError:
        factor = math.nan
    if not 0 < factor < math.inf:
        raise UserError(f"the environment variable {SIZE_LIMITS} must be a number above 0, got {given!r}")
    return factor


def _bytes(size: int) -> str:
    return f"{size:,} bytes" if size < 10**6 else f"{size / 10**6:,.0f} MB"
