"""Arrays with a schema in one .npz file, which is written atomically and read without unpickling anything."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from softflow.errors import UserError, did_you_mean, one_line, require_version
from softflow.files import FREE_MEMORY, MEMORY_PER_BYTE, SizeError, require_size, written_whole

VERSION = "schema_version"
"""The name of the scalar integer array that every file contains."""
BLOCK = 2**24
"""Bytes that `read_into` reads at once."""


class Field(NamedTuple):
    """The specification of an array: its axes (one letter each), its kind, and whether it may be missing."""

    axes: str
    kind: str
    optional: bool = False

    @property
    def shape(self) -> str:
        return f"({self.axes},)" if len(self.axes) == 1 else f"({', '.join(self.axes)})"


Schema = Mapping[str, Field]
_KINDS = {"number": "iuf", "bool": "b", "integer": "iu", "text": "U"}  # as numpy's dtype.kind


class Pieces(NamedTuple):
    """Arrays (rows, ...) that are written one after another as one array, without being in memory at once."""

    arrays: Sequence[np.ndarray]


def write_archive(path: Path, arrays: Mapping[str, np.ndarray | Pieces], version: int, compress: bool = False) -> None:
    """Write `arrays` and the version to `path`. An existing file is replaced only once the new one is complete.

    Raises:
        WriteError: The file cannot be written.
    """
    whole = {**arrays, VERSION: np.array(version)}
    with written_whole(path) as unfinished:
        if compress:
            _write(unfinished, whole, zipfile.ZIP_DEFLATED)
            if _unpacked_size(unfinished) <= _memory_allowed(unfinished):
                return
        # A file that compresses even better would be rejected as a decompression bomb when it is read.
        _write(unfinished, whole, zipfile.ZIP_STORED)


def _write(path: Path, arrays: Mapping[str, np.ndarray | Pieces], compression: int) -> None:
    """Write what `numpy.savez` would."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                if isinstance(array, np.ndarray):
                    np.lib.format.write_array(member, array, allow_pickle=False)
                    continue
                first, rows = array.arrays[0], sum(map(len, array.arrays))
                header = np.lib.format.header_data_from_array_1_0(first) | {"fortran_order": False}
                np.lib.format.write_array_header_1_0(member, header | {"shape": (rows, *first.shape[1:])})
                for piece in array.arrays:
                    member.write(np.ascontiguousarray(piece).data)


class ArchiveRows:
    """Rows (N, O) of bytes in an archive, which are read in their order, without being in memory at once."""

    dtype, ndim = np.dtype(np.uint8), 2

    def __init__(self, path: Path, name: str, shape: tuple[int, ...]) -> None:
        self._path, self._name = path, name
        self.shape, self.size = shape, math.prod(shape)
        self._next = 0

    @classmethod
    def find(cls, path: Path, name: str) -> ArchiveRows | None:
        """Return the rows of an array in an archive that was checked. None if it is missing or has no rows of bytes."""
        with zipfile.ZipFile(path) as archive:
            if f"{name}.npy" not in archive.namelist():
                return None
            with archive.open(f"{name}.npy") as member:
                shape, dtype, columns_first = _header(member, name)
        is_rows = len(shape) == cls.ndim and dtype == cls.dtype and not columns_first
        return cls(path, name, shape) if is_rows else None

    @cached_property
    def _member(self) -> IO[bytes]:
        member = zipfile.ZipFile(self._path).open(f"{self._name}.npy")
        _header(member, self._name)
        return member

    def __getitem__(self, rows: slice) -> np.ndarray:
        """Return the next rows."""
        if rows.start != self._next:
            raise IndexError(f"row {self._next} is the next one to read, not {rows.start}")
        self._next = rows.stop
        count, size = rows.stop - rows.start, self.shape[1]
        return np.frombuffer(self._member.read(count * size), np.uint8).reshape(count, size)


def read_archive(
    path: Path, schema: Schema, version: int, document: str, in_order: Collection[str] = ()
) -> dict[str, Any]:
    """Read the arrays of `schema` and check their kinds and axes. Axes with the same letter must have the same length.

    Optional arrays that are missing are left out.

    Args:
        path: The file.
        schema: The specification of every array except the version. The first array with an axis sets its length.
        version: The version of the schema.
        document: The document that describes the schema, for error messages.
        in_order: The names of arrays that become `ArchiveRows` where they are rows of bytes.

    Raises:
        ValueError: The file is missing, unreadable, or does not match the schema.
    """
    try:
        arrays = read_arrays(path, version, in_order=in_order)
    except MissingVersionError as error:
        raise ValueError(f"{error}: {document} lists the arrays of the file") from error
    require_known(arrays, schema)
    if missing := [name for name, field in schema.items() if not field.optional and name not in arrays]:
        raise ValueError(f"missing {', '.join(missing)}: {document} lists the arrays of the file")
    _check_shapes(arrays, schema)
    return arrays


class MissingVersionError(ValueError):
    """An .npz file was not written by `write_archive`."""


def read_arrays(
    path: Path,
    version: int,
    only: Collection[str] | None = None,
    optional: Collection[str] = (),
    others: Collection[str] = (),
    in_order: Collection[str] = (),
) -> dict[str, Any]:
    """Read arrays of any shapes and types from a file that `write_archive` wrote. Nothing is unpickled.

    Args:
        path: The file.
        version: The version of its schema.
        only: The names of the arrays to read; all by default.
        optional: The names of further arrays to read if the file contains them, if `only` is given.
        others: The names of arrays that the file may contain as well, if `only` is given.
        in_order: The names of arrays that become `ArchiveRows` where they are rows of bytes, if `only` is not given.

    Raises:
        ValueError: The file is missing, unreadable, damaged or of another version, or it needs more memory than a file
            of its size may. Or it lacks an array of `only`, or contains an unknown one.
        MissingVersionError: The file contains no version.
    """
    _require_intact(path)
    with zipfile.ZipFile(path) as archive:
        if f"{VERSION}.npy" not in archive.namelist():
            raise MissingVersionError(f"missing {VERSION}")
    _require_arrays(path)
    with np.load(path, allow_pickle=False) as file:
        given = _array(file, VERSION)
        require_version(VERSION, given.item() if given.ndim == 0 else given.tolist(), version)
        if only is not None:
            if missing := set(only) - set(file.files):
                raise ValueError(f"missing {', '.join(sorted(missing))}")
            require_known(file.files, (VERSION, *only, *optional, *others))
            return {name: _array(file, name) for name in (*only, *optional) if name in file.files}
        rows = {name: found for name in in_order if (found := ArchiveRows.find(path, name)) is not None}
        return {name: rows[name] if name in rows else _array(file, name) for name in file.files if name != VERSION}


def read_foreign_arrays(path: Path, names: Collection[str]) -> dict[str, np.ndarray]:
    """Read those of the named arrays that an .npz file of any program contains. Nothing is unpickled.

    Raises:
        ValueError: The file is missing, unreadable or damaged, or it needs more memory than a file of its size may.
    """
    _require_intact(path)
    _require_arrays(path)
    with np.load(path, allow_pickle=False) as file:
        return {name: _array(file, name) for name in names if name in file.files}


def require_known(given: Iterable[str], known: Collection[str]) -> None:
    """Raise `ValueError` if a name in `given` is not `known`."""
    for name in given:
        if name not in known:
            raise ValueError(f"unknown array {name!r}: {did_you_mean(name, known)}")


def read_into(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Fill contiguous `arrays` with the arrays of the same names in a file that `read_arrays` has checked.

    The file is read in blocks, so that nothing is in memory twice.

    Raises:
        ValueError: An array is missing, or has another shape or type; then no array has changed.
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
    """Return how many bytes an archive may take when it is unpacked."""
    return FREE_MEMORY + MEMORY_PER_BYTE * path.stat().st_size


def _unpacked_size(path: Path) -> int:
    with zipfile.ZipFile(path) as archive:
        return sum(member.file_size for member in archive.infolist())


def check_zip(path: Path) -> None:
    """Check the unpacked size of a zip archive, then the checksums of its members.

    Raises:
        SizeError: The archive would take more memory than a file of its size may.
        Exception: The archive is unreadable or damaged. zipfile raises errors of many types for damaged files.
    """
    require_size("its content", _unpacked_size(path), _memory_allowed(path))
    with zipfile.ZipFile(path) as archive:
        if damaged := archive.testzip():
            raise zipfile.BadZipFile(f"bad checksum of {damaged}")


def _require_intact(path: Path) -> None:
    """Raise `ValueError` unless `path` is an intact zip archive of modest size."""
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
    except (OSError, SizeError, UserError):
        raise
    except Exception as error:  # zipfile raises errors of many types for damaged files
        raise ValueError(f"the file is truncated or corrupt ({one_line(error)}): copy or record it again") from error


def _require_arrays(path: Path) -> None:
    """Raise `ValueError` unless a zip archive contains arrays alone, whose sizes match their headers."""
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            with archive.open(member) as content:
                shape, dtype, _ = _header(content, member.filename.removesuffix(".npy"))
                if not dtype.hasobject and math.prod(shape) * dtype.itemsize != member.file_size - content.tell():
                    raise ValueError(
                        f"{member.filename} has {member.file_size:,} bytes, which {dtype} of shape {shape} does not fit"
                    )


def _header(member: IO[bytes], name: str) -> tuple[tuple[int, ...], np.dtype, bool]:
    """Read the header of an array: its shape, its dtype, and whether it is in Fortran order."""
    try:
        version = np.lib.format.read_magic(member)
        if version == (1, 0):
            shape, columns_first, dtype = np.lib.format.read_array_header_1_0(member)
        else:
            shape, columns_first, dtype = np.lib.format.read_array_header_2_0(member)
    except Exception as error:  # numpy raises errors of many types for damaged headers
        raise ValueError(f"{name} cannot be read ({one_line(error)})") from error
    return shape, dtype, columns_first


def _array(arrays: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    try:
        return np.asarray(arrays[name])
    except Exception as error:  # pickled objects, or a header that numpy cannot parse
        raise ValueError(f"{name} cannot be read ({one_line(error)}): save a plain array of numbers") from error


def _check_shapes(arrays: Mapping[str, Any], schema: Schema) -> None:
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
