"""The folders of checkpoints, which are whole at any moment, and the text files that name some of them."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from softflow.files import UNFINISHED, force_to_disk, written_whole

EVALUATION = "evaluation.json"
"""File name of the evaluation of a policy, in the folder of that policy."""


class CheckpointFolders:
    """The folders in `checkpoints`.

    A folder is written under another name and renamed, and renamed again before it is removed. A crash at any moment
    thus leaves no folder incomplete.

    Args:
        path: The folder that contains them. It is made when the first one is written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, name: str, write: Callable[[Path], None]) -> Path:
        """Let `write` fill the folder `name`, which replaces an existing one when it is whole."""
        final, part, replaced = self.path / name, self._aside(name, "part"), self._aside(name, "replaced")
        self.path.mkdir(exist_ok=True)
        leftovers = *self.path.glob(".*.part"), *self.path.glob(f"{UNFINISHED}*")
        for leftover in leftovers:  # left by a crash during writing
            shutil.rmtree(leftover)
        part.mkdir()
        try:
            write(part)
            force_to_disk(part)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)  # it may have filled the disk
            raise
        if final.exists():
            shutil.rmtree(replaced, ignore_errors=True)
            final.rename(replaced)
        part.rename(final)
        force_to_disk(self.path, with_content=False)
        return final

    def remove(self, unneeded: Iterable[Path]) -> None:
        """Remove these folders, and what earlier calls could not remove."""
        for folder in unneeded:  # renamed first, so that no checkpoint is ever incomplete
            folder.rename(self._aside(folder.name, "replaced"))
        for folder in self.path.glob(".*.replaced"):
            shutil.rmtree(folder, ignore_errors=True)  # a reader may hold it open; the next save tries again

    def find(self, name: str) -> Path | None:
        """Return the folder `name`, which is moved aside until its replacement is in place. None if there is none."""
        paths = (self.path / name, self._aside(name, "replaced")) if name and name == path_safe(name) else ()
        return next((path for path in paths if path.is_dir()), None)

    def point(self, pointer: str, name: str) -> None:
        """Write the name of a folder to the text file `pointer`."""
        # This is a text file and not a link, because some file systems and archives do not preserve links.
        with written_whole(self.path / pointer) as file:
            file.write_text(f"{name}\n", encoding="utf-8")
        force_to_disk(self.path, with_content=False)

    def pointed(self, pointer: str) -> str | None:
        """Return the text of the file `pointer`, which names a folder. None if there is no such file."""
        try:
            return (self.path / pointer).read_text(encoding="utf-8", errors="replace").strip()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None

    def numbered(self) -> list[Path]:
        """Return the checkpoints from which training can resume, in no particular order."""
        folders = self.path.iterdir() if self.path.is_dir() else ()
        return [path for path in folders if path.is_dir() and path.name.isdigit()]

    def policies(self) -> list[Path]:
        """Return the policies that are kept from evaluations, in no particular order."""
        folders = self.path.iterdir() if self.path.is_dir() else ()
        return [path for path in folders if (path / EVALUATION).is_file() and not path.name.startswith(".")]

    def _aside(self, name: str, why: str) -> Path:
        return self.path / f".{name}.{why}"


def path_safe(name: str) -> str:
    """Return a text as the name of a file: characters that file systems or shells treat specially become `_`."""
    return re.sub(r"[^\w.=+-]+", "_", name).strip(".")
