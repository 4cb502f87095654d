"""Rows of bytes of variable length in an HDF5 file.

HDF5 stores such rows in global heap collections. Its library loops for ever in a damaged collection, and writes beyond
its memory if a row is longer than it says. So the rows are read here from the bytes of the file, and the library says
only where the references to them are. The HDF5 File Format Specification describes both.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from softflow.formats.hdf5 import DAMAGED, readable

REFERENCE = np.dtype([("length", "<u4"), ("address", "<u8"), ("index", "<u4")])
"""What an array of rows holds for each row: its bytes, its collection and its number in the collection."""
COLLECTION = struct.Struct("<4sB3xQ")
"""Start of a collection: signature, version and size in bytes, this start included."""
OBJECT = struct.Struct("<H6xQ")
"""Start of an object in a collection: its number, or 0 for the free space at the end; and its size in bytes."""


class VariableLengthRows:
    """Reads rows from a file that h5py has opened.

    Args:
        content: All bytes of the file.
    """

    def __init__(self, content: mmap.mmap) -> None:
        self._content = content
        self._collections: dict[int, dict[int, tuple[int, int]]] = {}
        self._collected = 0

    def read(self, name: str, array: h5py.Dataset) -> Iterator[bytes]:
        """Yield the rows of an array of `find_bytes` whose rows have variable lengths. Errors call it by its name.

        Raises:
            ValueError: The array or a collection is damaged, or the array is stored in an unusual way.
        """
        for row, (length, address, index) in enumerate(self._references(name, array).tolist()):
            start, size = self._objects(address).get(index, (0, -1))
            if size != length:
                raise ValueError(f"row {row} of {name} is not where it should be: {DAMAGED}")
            yield self._content[start : start + size]

    def _references(self, name: str, array: h5py.Dataset) -> np.ndarray:
        stored: list[Any] = []
        with readable(name):
            is_plain = array.chunks is not None and not array.id.get_create_plist().get_nfilters()
            if is_plain:
                array.id.chunk_iter(stored.append)
        if not is_plain:
            raise ValueError(f"{name} is compressed or not in chunks: store it as the original package does")
        references = np.zeros(len(array), REFERENCE)
        for chunk in stored:
            end = chunk.byte_offset + chunk.size
            if chunk.size != array.chunks[0] * REFERENCE.itemsize or end > len(self._content):
                raise ValueError(f"a chunk of {name} has a wrong size: {DAMAGED}")
            rows = references[chunk.chunk_offset[0] :]
            rows[: array.chunks[0]] = np.frombuffer(self._content[chunk.byte_offset : end], REFERENCE)[: len(rows)]
        return references

    def _objects(self, address: int) -> dict[int, tuple[int, int]]:
        """Return the places and sizes of the objects in the collection at an address, by their numbers."""
        if address not in self._collections:
            self._collections[address] = dict(self._walk(address))
        return self._collections[address]

    def _walk(self, address: int) -> Iterator[tuple[int, tuple[int, int]]]:
        damaged = ValueError(f"the heap collection at byte {address} is damaged: {DAMAGED}")
        if address + COLLECTION.size > len(self._content):
            raise damaged
        signature, version, size = COLLECTION.unpack_from(self._content, address)
        self._collected += size
        # Collections do not overlap, so all of them together are no larger than the file.
        if (signature, version) != (b"GCOL", 1) or max(address + size, self._collected) > len(self._content):
            raise damaged
        place, end = address + COLLECTION.size, address + size
        while place + OBJECT.size <= end:
            index, length = OBJECT.unpack_from(self._content, place)
            if not index:
                return
            place += OBJECT.size
            if place + length > end:
                raise damaged
            yield index, (place, length)
            place += length + -length % 8


@contextmanager
def variable_length_rows(path: Path) -> Iterator[VariableLengthRows]:
    """Open a file to read its rows of variable length, while h5py has it open as well."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        yield VariableLengthRows(content)
