"""Rows of observations in a temporary file that is mapped into memory, so that memory does not grow with a dataset.

What is read stays in memory as long as the kernel has room for it. Nothing of it has to: the kernel drops pages of a
file and reads them again. The file has no name and disappears with the process, or once nothing in it is used any more.
"""

from __future__ import annotations

import mmap
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from softflow.errors import UserError, one_line

SMALLEST_MAP = 2**26
"""Bytes of the first map. Each further one is twice as large, so that there are few, however long the file gets."""
ALIGNMENT = 64
"""Arrays begin at multiples of this number of bytes."""
ON_DISK = Path("/var/tmp")
"""Where temporary files lie on a disk, even where those of /tmp lie in memory."""


class _Map(mmap.mmap):
    """A read-only map of a `RowFile` from its begin, which keeps the file."""

    file: RowFile


class RowFile:
    """A temporary file of arrays. It is written once and read by maps.

    Attributes:
        folder: The folder that it takes space in.
    """

    def __init__(self) -> None:
        self.folder = temporary_folder()
        self._end = 0
        self._newest: weakref.ref[NDArray[np.uint8]] | None = None

    @cached_property
    def _file(self) -> BinaryIO:
        """The file, which is made when it is first needed."""
        file = cast(BinaryIO, tempfile.TemporaryFile(dir=self.folder, buffering=0))
        weakref.finalize(self, file.close)
        return file

    def append(self, array: np.ndarray) -> np.ndarray:
        """Write an array to the file, and return it as a read-only array that lies there.

        Raises:
            UserError: The file cannot be made or written, for instance because there is no space left.
        """
        content = np.ascontiguousarray(array)
        begin = -(-self._end // ALIGNMENT) * ALIGNMENT
        with self._writing():
            self._file.seek(begin)
            left = content.reshape(-1).view(np.uint8).data
            while left:
                left = left[self._file.write(left) :]
            self._end = begin + content.nbytes
            mapped = self.content()
        return np.ndarray(content.shape, content.dtype, mapped, begin)

    def content(self) -> NDArray[np.uint8]:
        """Return everything that was written so far, and unused space after it, as one array (bytes,)."""
        newest = None if self._newest is None else self._newest()
        if newest is None or len(newest) < self._end:
            size = SMALLEST_MAP
            while size < self._end:
                size *= 2
            os.truncate(self._file.fileno(), size)  # takes no space
            mapped = _Map(self._file.fileno(), size, access=mmap.ACCESS_READ)
            mapped.file = self
            newest = np.ndarray(size, np.uint8, mapped)
            self._newest = weakref.ref(newest)
        return newest

    def require_room(self, size: int) -> None:
        """Raise `UserError` if there is no space for `size` bytes more."""
        free = shutil.disk_usage(self.folder).free
        if size > free:
            raise UserError(
                f"its observations take {size / 1e9:,.1f} GB in a temporary file, and {self.folder} has "
                f"{free / 1e9:,.1f} GB free: {_ADVICE}"
            )

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(
                f"{self.folder}: the temporary file of observations with images cannot be written "
                f"({one_line(error)}): {_ADVICE}"
            ) from error


_ADVICE = "set the environment variable TMPDIR to a folder on a disk with more space"
_current: ContextVar[RowFile | None] = ContextVar("_current", default=None)


@contextmanager
def rows_in_file() -> Iterator[RowFile]:
    """Keep the observations with images of all episodes that are made in the block in one temporary file."""
    file = RowFile()
    before = _current.set(file)
    try:
        yield file
    finally:
        _current.reset(before)


def current_file() -> RowFile | None:
    """Return the file of the block of `rows_in_file` that is being executed. None outside."""
    return _current.get()


def unchanging(array: np.ndarray) -> np.ndarray:
    """Return an array that nobody can change: in the current file, or else as a copy. One in a file is not copied."""
    if place_of(array) is not None:
        return array
    if (file := current_file()) is not None:
        return file.append(array)
    copy = np.array(array)
    copy.flags.writeable = False
    return copy


def place_of(array: np.ndarray) -> tuple[RowFile, int] | None:
    """Return the file that the bytes of a contiguous array lie in, and at which byte they begin. None if in none."""
    whole = array
    while isinstance(whole.base, np.ndarray):
        whole = whole.base
    if not isinstance(whole.base, _Map) or not array.flags.c_contiguous:
        return None
    return whole.base.file, array.ctypes.data - whole.ctypes.data


def temporary_folder() -> Path:
    """Return the folder of temporary files that may be large."""
    if "TMPDIR" not in os.environ and os.access(ON_DISK, os.W_OK):
        return ON_DISK
    return Path(tempfile.gettempdir())
