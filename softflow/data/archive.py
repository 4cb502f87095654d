"""One .npz file of arrays with a schema: written whole or not at all, read without unpickling anything."""

from __future__ import annotations

import difflib
import os
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

VERSION = "schema_version"
"""The array () that every file has, an integer."""


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
    """Write `arrays` and the version to `path`, replacing a file of that name only once the new one is complete."""
    write = np.savez_compressed if compress else np.savez
    whole: dict[str, Any] = {**arrays, VERSION: np.array(version)}
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with unfinished.open("wb") as file:
            write(file, **whole)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


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
    arrays = _read(path, {**schema, VERSION: Field("", "integer")}, document)
    given = arrays.pop(VERSION)
    if given.shape or given.dtype.kind not in "iu" or given != version:
        raise ValueError(f"{VERSION} is {given}, this version of softflow reads {version}")
    _check_shapes(arrays, schema)
    return arrays


def _read(path: Path, schema: Schema, document: str) -> dict[str, np.ndarray]:
    """The arrays of the file, of whatever shape and type they are."""
    if not path.exists():
        raise ValueError("no such file")
    try:
        with path.open("rb") as file:
            signature = file.read(2)
        if not signature:
            raise ValueError("the file is empty: record it again")
        if signature != b"PK":
            raise ValueError("not an .npz file: write it with softflow.data or numpy.savez")
        with zipfile.ZipFile(path) as archive:
            if damaged := archive.testzip():
                raise zipfile.BadZipFile(f"bad checksum of {damaged}")
            _check_names([name.removesuffix(".npy") for name in archive.namelist()], schema, document)
        with np.load(path, allow_pickle=False) as arrays:
            return {name: _array(arrays, name) for name in schema if name in arrays}
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        raise ValueError(f"the file is truncated or corrupt ({error}): copy or record it again") from error
    except OSError as error:
        raise ValueError(f"cannot be read ({error.strerror or error})") from error


def _array(arrays: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    try:
        return np.asarray(arrays[name])
    except ValueError as error:  # Python objects, or a damaged header
        raise ValueError(f"{name} cannot be read ({error}): save a plain array of numbers") from error


def _check_names(given: Sequence[str], schema: Schema, document: str) -> None:
    for name in given:
        if name not in schema:
            nearest = difflib.get_close_matches(name, schema, n=1, cutoff=0)[0]
            raise ValueError(f"unknown array '{name}', the nearest known one is '{nearest}'")
    if missing := [name for name, field in schema.items() if not field.optional and name not in given]:
        raise ValueError(f"missing {', '.join(missing)}: {document} lists the arrays of the file")


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
