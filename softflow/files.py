"""Atomic writing of files, and limits on the size of files that are read."""

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
"""Prefix of the temporary folders in which files are written. A process that is killed leaves its folder behind."""
SIZE_LIMITS = "SOFTFLOW_SIZE_LIMITS"
"""Environment variable with a factor that multiplies every limit on the size of input."""
TEXT_LIMIT = 100_000
"""Maximum size of a settings file in bytes. Parsing time grows with size; a file of this size takes a second."""
MEMORY_PER_BYTE = 100
"""Maximum ratio of decompressed to compressed bytes. Images reach about ten, zeros a thousand."""
FREE_MEMORY = 64 * 2**20
"""Bytes of memory that even the smallest file may need."""


class SizeError(ValueError):
    """A file is larger, or needs more memory, than allowed."""


class WriteError(OSError, UserError):
    """A file cannot be written. The message names the file and the reason."""

    def __str__(self) -> str:
        return f"{self.filename}: cannot be written: {self.strerror}"


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yield a temporary path, with the same name, to which the block writes a file or a folder.

    The result replaces `path` when the block ends. If the block fails, the result is removed and `path` is unchanged.
    Missing parent folders are created.

    Raises:
        WriteError: The block raised an `OSError`, or `path` cannot be replaced.
    """
    try:
        with suppress(FileExistsError):  # if it is not a folder, the next line raises the error
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
    """Flush a file, or a folder with everything in it, from the operating system's caches to the disk.

    Args:
        path: The file or folder.
        with_content: Whether to flush the files in a folder too, and not only its list of names.
    """
    for file in [*path.rglob("*"), path] if with_content and path.is_dir() else [path]:
        if file.is_dir() and os.name == "nt":  # Windows has no folder handles to sync
            continue
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def read_settings(file: Path | Traversable, limit: int = TEXT_LIMIT) -> str:
    """Return the text of a settings file.

    Raises:
        SizeError: The file is larger than `limit` bytes.
        UnicodeDecodeError: The file is not UTF-8.
        OSError: The file cannot be read.
    """
    with file.open("rb") as opened:
        require_size("it", opened.seek(0, os.SEEK_END), limit)
        opened.seek(0)
        return opened.read().decode()


def require_size(what: str, size: int, limit: int) -> None:
    """Raise `SizeError`, whose message explains how to raise the limit, if `what` takes more than `limit` bytes."""
    if size > limit * _factor():
        raise SizeError(
            f"{what} takes {_bytes(size)}, more than the {_bytes(math.floor(limit * _factor()))} allowed; "
            f"to read it anyway, set the environment variable {SIZE_LIMITS}={math.ceil(size / limit)}"
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
