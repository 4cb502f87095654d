"""Readers of dataset formats, which are registered by name and can recognise a file or folder."""

from __future__ import annotations

import os
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from softflow.data.archive import VERSION
from softflow.data.demonstrations import Dataset, DemonstrationError, load_dataset
from softflow.errors import UserError, one_line

if TYPE_CHECKING:
    from flows.plugins import Registry


class DatasetReader(ABC):
    """Reads one format of recorded episodes. Its constructor takes no arguments.

    `Episode` checks the data, and `Episode.from_native` does most of the conversion. A reader must provide the names,
    shapes and dtypes of the parts, the native bounds of the actions, and the ends of episodes.
    """

    @abstractmethod
    def recognizes(self, path: Path) -> bool:
        """Return whether the content of an existing file or folder has this format."""

    @abstractmethod
    def read(self, path: Path) -> Dataset:
        """Read all episodes and their task.

        Raises:
            ValueError, OSError: The dataset cannot be read. `read_dataset` puts the path before the message.
        """


ReaderT = TypeVar("ReaderT", bound=type[DatasetReader])


def register_reader(name: str) -> Callable[[ReaderT], ReaderT]:
    """Return a decorator that registers a `DatasetReader` under the name of its format.

    Raises:
        ValueError: Another reader has this name.
    """
    return readers().decorator(name)


class NpzReader(DatasetReader):
    """Reads the files of `save_demonstrations`."""

    def recognizes(self, path: Path) -> bool:
        try:
            with zipfile.ZipFile(path) as archive:
                return f"{VERSION}.npy" in archive.namelist()
        except Exception:  # zipfile raises errors of many types for damaged files; `read` reports what is wrong
            return path.suffix == ".npz" and path.is_file()

    def read(self, path: Path) -> Dataset:
        return load_dataset(path)


@cache
def readers() -> Registry[type[DatasetReader]]:
    """Readers by the names of their formats; installed packages bring theirs by entry points."""
    from flows.plugins import Registry  # here, because it brings torch, which processes of environments do without

    registry: Registry[type[DatasetReader]] = Registry("dataset format", "softflow.readers", base=DatasetReader)
    registry.register("npz", NpzReader)
    return registry


def read_dataset(path: str | os.PathLike[str], format: str | None = None) -> Dataset:
    """Read recorded episodes of any registered format.

    Args:
        path: A file or folder.
        format: The name of its format. By default, the format is recognised by the content.

    Raises:
        DemonstrationError: There is nothing at the path, no format is recognised, or the dataset cannot be read.
        UserError: The format is not known, or the package that provides it cannot be imported.
    """
    path = Path(path)
    if not path.exists():
        raise DemonstrationError(f"{path}: no such file")
    reader = _find(format) if format is not None else _recognize(path)
    try:
        dataset = reader.read(path)
    except UserError:
        raise
    except (ValueError, OSError) as error:
        raise DemonstrationError(f"{path}: {one_line(error)}") from error
    except Exception as error:  # a bug of the reader
        raise DemonstrationError(f"{path}: {type(reader).__name__} fails: {error!r}") from error
    if not dataset.episodes:
        raise DemonstrationError(f"{path}: no episodes")
    return dataset


def _recognize(path: Path) -> DatasetReader:
    own = NpzReader()
    if own.recognizes(path):  # checked first, so that reading our own files imports no other packages
        return own
    names, broken = readers().names(), []
    for name in names:
        try:
            reader = _find(name)
            if reader.recognizes(path):
                return reader
        except Exception as error:  # the reader of another package costs no other format
            broken.append(f"; {name} cannot be asked: {one_line(error)}")
    raise DemonstrationError(
        f"{path}: not recognised as a dataset (known formats: {', '.join(names)}){''.join(broken)}: "
        "softflow.data.save_demonstrations writes npz, docs/demonstrations.md says how a format is registered"
    )


def _find(name: str) -> DatasetReader:
    try:
        return readers().find(name)()
    except (ValueError, ImportError) as error:
        raise UserError(one_line(error)) from error
