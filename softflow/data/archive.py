"""One .npz file of arrays with a schema: written whole or not at all, read without unpickling anything."""

from __future__ import annotations

import difflib
import math
import zipfile
from collections.abc import Collection, Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from softflow.errors import one_line, require_version
from softflow.files import FREE_MEMORY, MEMORY_PER_BYTE, SizeError, require_size, written_whole

VERSION = "schema_version"
"""The array () that every file has, an integer."""
BLOCK = 2**24
"""Bytes that `read_into` takes at once."""


class Field(NamedTuple):
    """What an array of the file must be: its axes, a letter each, its kind, and whether it may be missing."""

    axes: str
    kind: str
    optional: bool = False

    @property
    def shape(self) -> str:
        return f"({self.axes},)" if len(self.axes) == 1 else f"({', '.join(self.axes)})"


Schema = Mapping[str, Field]
_KINDS = {"number": "iuf", "bool": "b", "integer": "iu", "text": "U"}  # as numpy's dtype.kind


def write_archive(path: Path, arrays: Mapping[str, np.ndarray], version: int, compress: bool = False) -> None:
    """Write `arrays` and the version to `path`, replacing a file of that name only once the new one is complete.

    Raises:
        WriteError: it cannot be written.
    """
    whole: dict[str, Any] = {**arrays, VERSION: np.array(version)}
    with written_whole(path) as unfinished:
        if compress:
            with unfinished.open("wb") as file:
                np.savez_compressed(file, **whole)
            if _unpacked_size(unfinished) <= _memory_allowed(unfinished):
                return
        # What shrinks further would be refused as an attack when it is read.
        with unfinished.open("wb") as file:
            np.savez(file, **whole)


def read_archive(path: Path, schema: Schema, version: int, document: str) -> dict[str, np.ndarray]:
    """The arrays of `schema`, with kinds and axes as it says: axes of one letter are equally long. What is optional
    and missing is left out.

    Args:
        path: the file.
        schema: every array but the version; the first that has an axis sets its length.
        version: of the schema.
        document: where a user finds it.

    Raises:
        ValueError: the file is missing, unreadable, or not in the schema.
    """
    try:
        arrays = read_arrays(path, version)
    except MissingVersionError as error:
        raise ValueError(f"{error}: {document} lists the arrays of the file") from error
    require_known(arrays, schema)
    if missing := [name for name, field in schema.items() if not field.optional and name not in arrays]:
        raise ValueError(f"missing {', '.join(missing)}: {document} lists the arrays of the file")
    _check_shapes(arrays, schema)
    return arrays


class MissingVersionError(ValueError):
    """An .npz file, but none that `write_archive` has written."""


def read_arrays(
    path: Path, version: int, only: Collection[str] | None = None, others: Collection[str] = ()
) -> dict[str, np.ndarray]:
    """The arrays of a file of `write_archive`, of whatever shapes and types they are. Nothing is unpickled.

    Args:
        path: the file.
        version: of its schema.
        only: names of those that are read; without it, all.
        others: names of those that may be there as well, if `only` is given.

    Raises:
        ValueError: the file is missing, unreadable, damaged anywhere that matters, larger in memory than a file of its
            size may be, of another version, lacks an array that is asked for or has one that is not known.
        MissingVersionError: it says no version.
    """
    _require_sound(path)
    with np.load(path, allow_pickle=False) as file:
        given = _array(file, VERSION)
        require_version(VERSION, given.item() if given.ndim == 0 else given.tolist(), version)
        if only is not None:
            if missing := set(only) - set(file.files):
                raise ValueError(f"missing {', '.join(sorted(missing))}")
            require_known(file.files, (VERSION, *only, *others))
        return {name: _array(file, name) for name in only or file.files if name != VERSION}


def require_known(given: Iterable[str], known: Collection[str]) -> None:
    """Raises ValueError if one of the arrays `given` is not `known`."""
    for name in given:
        if name not in known:
            nearest = difflib.get_close_matches(name, known, n=1, cutoff=0)[0]
            raise ValueError(f"unknown array '{name}', the nearest known one is '{nearest}'")


def read_into(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Fill contiguous `arrays` with those of these names in a file that `read_arrays` has read others of. Block by
    block: nothing is in memory twice.

    Raises:
        ValueError: one is missing, or of another shape or type; then none has changed.
    """
    with zipfile.ZipFile(path) as archive, ExitStack() as opened:
        members = {}
        for name, array in arrays.items():
            if f"{name}.npy" not in archive.namelist():
                raise ValueError(f"missing {name}")
            members[name] = opened.enter_context(archive.open(f"{name}.npy"))
            shape, dtype, columns_first = _header(members[name], name)
            if columns_first:
                raise ValueError(f"{name} has its columns first: save it in C order")
            if shape != array.shape or dtype != array.dtype:
                raise ValueError(f"{name} is {dtype} of shape {shape}, expected {array.dtype} of shape {array.shape}")
        for name, array in arrays.items():
            content = array.reshape(-1).view(np.uint8)
            for start in range(0, len(content), BLOCK):
                block = content[start : start + BLOCK]
                read = members[name].read(len(block))
                if len(read) != len(block):
                    raise ValueError(f"{name} is shorter than its shape {array.shape}")
                block[:] = np.frombuffer(read, np.uint8)


def _memory_allowed(path: Path) -> int:
    """Bytes that an archive may take when it is unpacked."""
    return FREE_MEMORY + MEMORY_PER_BYTE * path.stat().st_size


def _unpacked_size(path: Path) -> int:
    with zipfile.ZipFile(path) as archive:
        return sum(member.file_size for member in archive.infolist())


def check_zip(path: Path) -> None:
    """Check the size and then the checksums of everything in a zip archive.

    Raises:
        SizeError: unpacked, it would take more memory than a file of its size may.
        Exception: it cannot be read, or is damaged; a damaged file makes zipfile raise anything.
    """
    require_size("its content", _unpacked_size(path), _memory_allowed(path))
    with zipfile.ZipFile(path) as archive:
        if damaged := archive.testzip():
            raise zipfile.BadZipFile(f"bad checksum of {damaged}")


def _require_sound(path: Path) -> None:
    """Raises ValueError unless `path` is a whole zip archive of arrays as large as they say, before any is read."""
    if not path.exists():
        raise ValueError("no such file")
    if not path.is_file():
        raise ValueError("cannot be read: it is not a file")
    with path.open("rb") as file:
        signature = file.read(2)
    if not signature:
        raise ValueError("the file is empty: record it again")
    if signature != b"PK":
        raise ValueError("not an .npz file: write it with softflow.data or numpy.savez")
    try:
        check_zip(path)
    except (OSError, SizeError):
        raise
    except Exception as error:  # whatever a damaged file makes zipfile stumble over
        raise ValueError(f"the file is truncated or corrupt ({one_line(error)}): copy or record it again") from error
    with zipfile.ZipFile(path) as archive:
        if f"{VERSION}.npy" not in archive.namelist():
            raise MissingVersionError(f"missing {VERSION}")
        for member in archive.infolist():
            with archive.open(member) as content:
                shape, dtype, _ = _header(content, member.filename.removesuffix(".npy"))
                if not dtype.hasobject and math.prod(shape) * dtype.itemsize != member.file_size - content.tell():
                    raise ValueError(
                        f"{member.filename} has {member.file_size:,} bytes, which {dtype} of shape {shape} does not fit"
                    )


def _header(member: IO[bytes], name: str) -> tuple[tuple[int, ...], np.dtype, bool]:
    """Shape and type of an array whose content comes next, and whether it comes in columns first."""
    try:
        version = np.lib.format.read_magic(member)
        if version == (1, 0):
            shape, columns_first, dtype = np.lib.format.read_array_header_1_0(member)
        else:
            shape, columns_first, dtype = np.lib.format.read_array_header_2_0(member)
    except Exception as error:  # whatever numpy stumbles over
        raise ValueError(f"{name} cannot be read ({one_line(error)})") from error
    return shape, dtype, columns_first


def _array(arrays: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    try:
        return np.asarray(arrays[name])
    except Exception as error:  # Python objects, or a header that numpy cannot follow
        raise ValueError(f"{name} cannot be read ({one_line(error)}): save a plain array of numbers") from error


def _check_shapes(arrays: Mapping[str, np.ndarray], schema: Schema) -> None:
    sizes: dict[str, tuple[int, str]] = {}
    for name, array in arrays.items():
        field = schema[name]
        if array.dtype.kind not in _KINDS[field.kind] or array.ndim != len(field.axes):
            raise ValueError(
                f"{name} must be {field.kind}s of shape {field.shape}, got {array.dtype} of shape {array.shape}"
            )
        for axis, size in zip(field.axes, array.shape, strict=True):
            expected, source = sizes.setdefault(axis, (size, name))
            if size != expected:
                raise ValueError(f"{name} has {axis} = {size}, but {source} has {axis} = {expected}")
        if array.size == 0:
            raise ValueError(f"{name} is empty, of shape {array.shape}: record at least one step")
