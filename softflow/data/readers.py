"""Readers of dataset formats, which are registered by name and can recognise a file or folder."""

from __future__ import annotations

import inspect
import os
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from softflow.console import remark
from softflow.data.archive import VERSION
from softflow.data.demonstrations import Dataset, DemonstrationError, load_dataset
from softflow.data.part_names import RecordedParts, Renaming, in_names_of_dataset, in_names_of_task, left_out
from softflow.data.row_file import rows_in_file
from softflow.errors import UserError, one_line
from softflow.task import TaskSpec

if TYPE_CHECKING:
    from flows.plugins import Registry

BUILT_IN = {
    "d4rl": "softflow.formats.d4rl:D4RLReader",
    "lerobot": "softflow.formats.lerobot.reader:LeRobotReader",
    "minari": "softflow.formats.minari.reader:MinariReader",
    "ogbench": "softflow.formats.ogbench:OGBenchReader",
    "robomimic": "softflow.formats.robomimic:RobomimicReader",
}
"""The readers of other projects' formats, by name. Each has an extra of the same name if it needs other packages."""


class DatasetReader(ABC):
    """Reads one format of recorded episodes. Its constructor takes no arguments.

    `Episode` checks the data, and `Episode.from_native` does most of the conversion. A reader must provide the names,
    shapes and dtypes of the parts, the native bounds of the actions, and the ends of episodes.
    """

    SIGN = ""
    """By what a dataset of this format is recognised, in a few words, for the error about one of no known format."""

    @abstractmethod
    def recognizes(self, path: Path) -> bool:
        """Return whether the content of an existing file or folder has this format."""

    @abstractmethod
    def read(self, path: Path, wanted: TaskSpec | None = None) -> Dataset:
        """Read all episodes and their task.

        A reader of a format with one way to read a dataset may leave out the argument `wanted`.

        Args:
            path: The file or folder.
            wanted: The task that is to be learnt, if it is known: the names and bounds by which a reader chooses parts,
                and the control rate of a dataset that does not say it.

        Raises:
            ValueError, OSError: The dataset cannot be read. `read_dataset` puts the path before the message.
            ModuleNotFoundError: A package that the format needs is not installed.
        """

    def recorded_parts(self, path: Path) -> RecordedParts:
        """Return the parts of the dataset, by whose names a user may choose them.

        By default those of the task of the dataset, which is read for it. A reader whose parts are described apart, or
        that cannot read a dataset without a task, provides its own. Errors are those of `read`.
        """
        return RecordedParts.of(self.read(path).task)


ReaderT = TypeVar("ReaderT", bound=type[DatasetReader])


def register_reader(name: str) -> Callable[[ReaderT], ReaderT]:
    """Return a decorator that registers a `DatasetReader` under the name of its format.

    Raises:
        ValueError: Another reader has this name.
    """
    return readers().decorator(name)


class NpzReader(DatasetReader):
    """Reads the files of `save_demonstrations`."""

    SIGN = "an .npz file of softflow"

    def recognizes(self, path: Path) -> bool:
        try:
            with zipfile.ZipFile(path) as archive:
                return f"{VERSION}.npy" in archive.namelist()
        except Exception:  # zipfile raises errors of many types for damaged files; `read` reports what is wrong
            return path.suffix == ".npz" and path.is_file()

    def read(self, path: Path, wanted: TaskSpec | None = None) -> Dataset:
        return load_dataset(path)


@cache
def readers() -> Registry[type[DatasetReader]]:
    """Readers by the names of their formats; installed packages bring theirs by entry points."""
    from flows.plugins import Registry  # here, because it brings torch, which processes of environments do without

    registry: Registry[type[DatasetReader]] = Registry("dataset format", "softflow.readers", base=DatasetReader)
    registry.register("npz", NpzReader)
    registry.register("recording", "softflow.data.recording:RecordingReader")
    for name, reader in BUILT_IN.items():
        registry.register(name, reader)
    return registry


def read_dataset(
    path: str | os.PathLike[str],
    format: str | None = None,
    wanted: TaskSpec | None = None,
    names: Renaming | None = None,
) -> Dataset:
    """Read recorded episodes of any registered format. Observations with images lie in a temporary file, not in memory.

    Args:
        path: A file or folder.
        format: The name of its format. By default, the format is recognised by the content.
        wanted: The task that is to be learnt, such as `TaskSpec.from_env(env)`. Formats that do not say which parts are
            observed, the bounds of actions or the control rate, take them from it. What a dataset says of the control
            rate is kept. softflow's own files contain their task, and take nothing.
        names: What the dataset calls parts of the wanted task, such as `{"wrist": "observation.images.cam_high"}`.
            Single numbers of a part are `"joints[0]"` and so on, those of an action without names `"action[0]"`. Parts
            that are not wanted are left out. Without a wanted task, the observation consists of these parts alone, in
            this order, and a message lists the others.

    Raises:
        DemonstrationError: There is nothing at the path, no format is recognised, or the dataset cannot be read or has
            no such parts.
        UserError: The format is not known, the package that provides it cannot be imported, or the disk is full.
    """
    path = Path(path)
    if not path.exists():
        raise DemonstrationError(f"{path}: no such file")
    name, reader = (format, _find(format)) if format is not None else _recognize(path)
    try:
        dataset = _read(reader, path, wanted, names or {})
    except UserError:
        raise
    except ModuleNotFoundError as error:
        raise UserError(f"{path}: the format {name} {_missing(name, error)}") from error
    except (ValueError, OSError) as error:
        raise DemonstrationError(f"{path}: {why_unread(path, name, error)}") from error
    except Exception as error:  # a bug of the reader
        raise DemonstrationError(f"{path}: {type(reader).__name__} fails: {error!r}") from error
    if not dataset.episodes:
        raise DemonstrationError(f"{path}: no episodes")
    return dataset


def why_unread(path: Path, format: str, error: Exception) -> str:
    """Say in one line why a dataset cannot be read in a format: it is of another one, or what the error says."""
    try:
        other = None if _find(format).recognizes(path) else _recognize(path)[0]
    except Exception:  # it is of no format that is known, or cannot be looked at
        other = None
    return one_line(error) if other is None else f"this is no dataset of the format {format}, it looks like {other}"


def _read(reader: DatasetReader, path: Path, wanted: TaskSpec | None, names: Renaming) -> Dataset:
    asked, unnamed = wanted, list[str]()
    if names:
        there = reader.recorded_parts(path)
        asked = in_names_of_dataset(wanted, names, there)
        unnamed = left_out(names, there) if wanted is None else []
    takes_task = "wanted" in inspect.signature(reader.read).parameters
    with rows_in_file():
        dataset = reader.read(path, asked) if takes_task else reader.read(path)
    dataset = in_names_of_task(dataset, wanted, names) if names else dataset
    if unnamed:
        first, listed = unnamed[0], ", ".join(unnamed)
        remark(f"{path}: left out of the dataset: {listed}; to keep a part, name it too, such as {first}={first}")
    return dataset


def _recognize(path: Path) -> tuple[str, DatasetReader]:
    own = NpzReader()
    if own.recognizes(path):  # checked first, so that reading our own files imports no other packages
        return "npz", own
    names = readers().names()
    broken: dict[str, list[str]] = {}
    signs: list[str] = []
    for name in names:
        try:
            reader = _find(name)
            if reader.recognizes(path):
                return name, reader
            signs.append(f"{name} ({reader.SIGN})" if reader.SIGN else name)
        except ModuleNotFoundError as error:
            broken.setdefault(_missing(name, error), []).append(name)
        except Exception as error:  # the reader of another package costs no other format
            broken.setdefault(one_line(error), []).append(name)
    if (whole := _dataset_around(path)) is not None:
        raise DemonstrationError(f"{path}: this is a part of a dataset: name its folder, {whole}")
    # first, because it is likely the reason, and a long line is cut off at its end
    untried = "".join(f"{' and '.join(whom)} could not be tried: {why}; " for why, whom in broken.items())
    raise DemonstrationError(
        f"{path}: in no known format; {untried}known are {', '.join(signs)}: softflow.data.save_demonstrations "
        "writes npz, docs/how-to/demonstrations.md says how a format is registered"
    )


def _dataset_around(path: Path) -> Path | None:
    """Return the folder of a dataset, at most three levels above, of which the path is a part."""
    for folder in list(path.parents)[:3]:
        for name in readers().names():
            with suppress(Exception):  # a reader that fails costs no other format
                if _find(name).recognizes(folder):
                    return folder
    return None


def _missing(name: str, error: ModuleNotFoundError) -> str:
    extra = f'pip install "softflow[{name}]"' if name in BUILT_IN else f"pip install {error.name}"
    return f"needs the package {error.name!r}: {extra}"


def _find(name: str) -> DatasetReader:
    try:
        return readers().find(name)()
    except (ValueError, ImportError) as error:
        raise UserError(one_line(error)) from error
