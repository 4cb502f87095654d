"""Safe reading of HDF5 files: links to other files are refused, and sizes are checked before memory is allocated."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Mapping
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
    found = file
    parts = name.split("/")
    for depth, part in enumerate(parts, 1):
        where = "/".join(parts[:depth])
        try:
            link = found.get(part, getlink=True)
            if link is not None and not isinstance(link, h5py.HardLink):
                raise ValueError(f"{where} is a link, which is not followed: copy the array into the file itself")
            following = found.get(part)
        except ValueError:
            raise
        except Exception as error:
            raise ValueError(f"{where} cannot be read ({one_line(error)}): {DAMAGED}") from error
        if following is None:
            return None
        if not isinstance(following, h5py.Dataset if depth == len(parts) else h5py.Group):
            raise ValueError(f"{where} is not {'an array' if depth == len(parts) else 'a group of arrays'}")
        found = following
    _require_plain(found, name)
    return found


def _require_plain(array: h5py.Dataset, name: str) -> None:
    try:
        is_elsewhere = array.is_virtual or array.external
        # HDF5 opens the other files of a virtual array to tell its shape.
        dtype, shape = array.dtype, None if is_elsewhere else array.shape
    except Exception as error:
        raise ValueError(f"{name} cannot be read ({one_line(error)}): {DAMAGED}") from error
    if is_elsewhere:
        raise ValueError(f"{name} is stored in other files, which are not opened: copy the array into the file itself")
    if dtype.kind not in "biuf" or shape is None:
        raise ValueError(f"{name} is {dtype} of shape {shape}, expected an array of numbers")


def read_arrays(path: Path, arrays: Mapping[str, h5py.Dataset]) -> dict[str, np.ndarray]:
    """Read arrays of `find_array` as a whole.

    Raises:
        SizeError: They need more memory than a file of this size may.
        ValueError: One of them is damaged.
    """
    limit = FREE_MEMORY + MEMORY_PER_BYTE * path.stat().st_size
    needed = sum(math.prod(array.shape) * array.dtype.itemsize for array in arrays.values())
    # A chunk is unpacked as a whole, and may be larger than its array.
    largest = max(_chunk_size(array) for array in arrays.values())
    require_size("its content", needed + largest, limit)
    read = {}
    for name, array in arrays.items():
        try:
            _require_modest_chunks(array, limit)
            read[name] = array[()]
        except Exception as error:  # a checksum, a filter that is not installed, a missing end
            raise ValueError(f"{name} cannot be read ({one_line(error)}): {DAMAGED}") from error
    return read


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
