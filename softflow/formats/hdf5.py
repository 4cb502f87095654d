"""Safe reading of HDF5 files: links to other files are refused, and sizes are checked before memory is allocated."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from softflow.errors import one_line
from softflow.files import FREE_MEMORY, MEMORY_PER_BYTE, require_size

DAMAGED = "copy or record the file again"
DEFLATE_RATIO = 1032
"""Maximum ratio of decompressed to compressed bytes of gzip."""
CHECKSUM = 4
"""Bytes of the checksum that a chunk may end with."""


@contextmanager
def open_hdf5(path: Path) -> Iterator[h5py.File]:
    """Open a file for reading.

    Raises:
        ValueError: The file is truncated or damaged.
    """
    try:
        file = h5py.File(path, "r")
    except Exception as error:  # h5py raises errors of many types for damaged files
        raise ValueError(f"the HDF5 file is truncated or damaged ({one_line(error)}): {DAMAGED}") from error
    with file:
        yield file


def find_array(file: h5py.File, name: str) -> h5py.Dataset | None:
    """Return the array with a name such as `infos/success`, or None if there is none.

    Raises:
        ValueError: It is something else than an array of numbers, a link, or stored in another file.
    """
    found = _find(file, name, h5py.Dataset)
    if found is not None and (found.dtype.kind not in "biuf" or not found.shape):
        raise ValueError(f"{name} is {found.dtype} of shape {found.shape}, expected an array of numbers")
    return found


def holds_numbers(file: h5py.File, name: str) -> bool:
    """Return whether the array with a name has numbers for each row, and not texts or nothing.

    Raises:
        ValueError: It is something else than an array, a link, or stored in another file.
    """
    found = _find(file, name, h5py.Dataset)
    return found is not None and found.dtype.kind in "biuf" and bool(found.shape) and 0 not in found.shape[1:]


def find_bytes(file: h5py.File, name: str) -> h5py.Dataset | None:
    """Return the array with a name, whose rows are bytes of the same or of variable length; None if there is none.

    Raises:
        ValueError: It is something else, a link, or stored in another file.
    """
    found = _find(file, name, h5py.Dataset)
    if found is not None:
        axes = 1 if h5py.check_vlen_dtype(found.dtype) == np.uint8 else 2 if found.dtype == np.uint8 else None
        if axes is None or found.shape is None or len(found.shape) != axes:
            raise ValueError(f"{name} is {found.dtype} of shape {found.shape}, expected rows of bytes")
    return found


def names_in(file: h5py.File, group: str = "") -> list[str]:
    """Return the names in a group, by default the root, in alphabetical order. A missing group has none.

    Raises:
        ValueError: It is something else than a group, or a link.
    """
    found = _find(file, group, h5py.Group)
    with readable(group or "the root"):
        return sorted(found) if found is not None else []


@contextmanager
def readable(name: str) -> Iterator[None]:
    """Turn the errors that h5py raises for damaged files, which are of many types, into one `ValueError`."""
    try:
        yield
    except Exception as error:
        raise ValueError(f"{name} cannot be read ({one_line(error)}): {DAMAGED}") from error


def _find(file: h5py.File, name: str, kind: type) -> Any:
    """Return the array or group with a name, or None. Links are not followed, and no other file is opened."""
    found = file
    parts = name.split("/") if name else []
    for depth, part in enumerate(parts, 1):
        where = "/".join(parts[:depth])
        with readable(where):
            link = found.get(part, getlink=True)
        if link is not None and not isinstance(link, h5py.HardLink):
            raise ValueError(f"{where} is a link, which is not followed: copy the array into the file itself")
        with readable(where):
            following = found.get(part)
        if following is None:
            return None
        if not isinstance(following, kind if depth == len(parts) else h5py.Group):
            is_array = depth == len(parts) and kind is h5py.Dataset
            raise ValueError(f"{where} is not {'an array' if is_array else 'a group of arrays'}")
        found = following
    if isinstance(found, h5py.Dataset):
        _require_here(found, name)
    return found


def _require_here(array: h5py.Dataset, name: str) -> None:
    with readable(name):
        is_elsewhere = array.is_virtual or array.external
        # HDF5 opens the other files of a virtual array to tell its shape.
        _ = array.dtype, None if is_elsewhere else array.shape
    if is_elsewhere:
        raise ValueError(f"{name} is stored in other files, which are not opened: copy the array into the file itself")


def require_modest(path: Path, arrays: Iterable[h5py.Dataset], more: int = 0) -> None:
    """Raise `SizeError` if arrays need more memory than a file of this size may, with `more` bytes beside them."""
    # A chunk is unpacked as a whole, and may be larger than its array.
    sizes, chunks = zip(*((math.prod(one.shape) * one.dtype.itemsize, _chunk_size(one)) for one in arrays), strict=True)
    require_size("its content", sum(sizes) + max(chunks) + more, _limit(path))


def read_arrays(path: Path, arrays: Mapping[str, h5py.Dataset], rows: Any = ()) -> dict[str, np.ndarray]:
    """Read arrays of `find_array`.

    Args:
        path: The file.
        arrays: The arrays by any names.
        rows: The rows that are read, such as `np.s_[-1:]`. By default, all of them.

    Raises:
        SizeError: They need more memory than a file of this size may.
        ValueError: One of them is damaged.
    """
    require_modest(path, arrays.values())
    read = {}
    for name, array in arrays.items():
        with readable(name):  # a checksum, a filter that is not installed, a missing end
            _require_modest_chunks(array, _limit(path))
            read[name] = array[rows]
    return read


def _limit(path: Path) -> int:
    """Bytes of memory that a file may need."""
    return FREE_MEMORY + MEMORY_PER_BYTE * path.stat().st_size


def _chunk_size(array: h5py.Dataset) -> int:
    return math.prod(array.chunks) * array.dtype.itemsize if array.chunks is not None else 0


def _require_modest_chunks(array: h5py.Dataset, limit: int) -> None:
    """Raise `ValueError` if a compressed chunk unpacks to more than its size.

    HDF5 unpacks whatever a chunk contains before it compares the sizes. Only chunks that could exceed `limit` bytes are
    unpacked here, and never further than to their size.
    """
    settings = array.id.get_create_plist()
    filters = [settings.get_filter(index)[0] for index in range(settings.get_nfilters())]
    if h5py.h5z.FILTER_DEFLATE not in filters:
        return
    if filters.count(h5py.h5z.FILTER_DEFLATE) > 1:
        raise ValueError("it is compressed more than once")
    stored: list[Any] = []
    array.id.chunk_iter(stored.append)
    size = _chunk_size(array) + CHECKSUM
    for chunk in stored:
        if chunk.size * DEFLATE_RATIO > limit:
            _, content = array.id.read_direct_chunk(chunk.chunk_offset)
            if len(zlib.decompressobj().decompress(content, size + 1)) > size:
                raise ValueError("a chunk is larger than it says")
