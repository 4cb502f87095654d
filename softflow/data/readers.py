"""Datasets by format: what a file or folder holds is read into episodes and a description of their task.

Another format is one class with two methods. Another package brings it with the decorator, or with an entry point of
the group `softflow.readers`:

>>> @register_reader("my_format")
... class MyReader(DatasetReader):
...     def recognizes(self, path): return path.suffix == ".mine"
...     def read(self, path): return Dataset([Episode.from_native(task, ...), ...], task)
"""

from __future__ import annotations

import os
import zipfile
from abc import ABC, abstractmethod
from pathlib import Path

from flows.plugins import Registry
from softflow.data.demonstrations import Dataset, DemonstrationError, load_dataset


class DatasetReader(ABC):
    """Reads one format."""

    @abstractmethod
    def recognizes(self, path: Path) -> bool:
        """Whether the file or folder is of this format, judged by its content; it exists."""

    @abstractmethod
    def read(self, path: Path) -> Dataset:
        """Read the episodes and their task.

        Raises:
            DemonstrationError: The content cannot be used; the message names the path and says why.
        """


_READERS: Registry[type[DatasetReader]] = Registry("dataset format", "softflow.readers", DatasetReader)
register_reader = _READERS.decorator


def available_readers() -> list[str]:
    """Names of the formats that `read_dataset` knows, sorted."""
    return _READERS.names()


def read_dataset(path: str | os.PathLike[str], format: str | None = None) -> Dataset:
    """Read a dataset of any known format.

    Args:
        path: A file or folder.
        format: One of `available_readers()`; without it the format is recognised by the content.

    Raises:
        DemonstrationError: There is nothing at the path, no format is recognised or more than one, or the content
            cannot be used.
    """
    path = Path(path)
    if not path.exists():
        raise DemonstrationError(f"{path}: no such file or folder")
    if format is not None:
        return _find(path, format)().read(path)
    formats = available_readers()
    found = [name for name in formats if _find(path, name)().recognizes(path)]
    if len(found) != 1:
        what = f"could be {' or '.join(found)}" if found else "is of no known format"
        raise DemonstrationError(f"{path}: it {what}: say which one it is, of {', '.join(formats)}")
    return _find(path, found[0])().read(path)


def _find(path: Path, format: str) -> type[DatasetReader]:
    try:
        return _READERS.find(format)
    except (ValueError, ImportError) as error:
        raise DemonstrationError(f"{path}: {error}") from error


@register_reader("npz")
class ArchiveReader(DatasetReader):
    """The format of softflow itself: one .npz file, see docs/demonstrations.md."""

    def recognizes(self, path: Path) -> bool:
        return path.suffix == ".npz" or (path.is_file() and zipfile.is_zipfile(path))

    def read(self, path: Path) -> Dataset:
        return load_dataset(path)
