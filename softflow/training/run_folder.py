"""The folder of a run, with its configuration, metrics, videos and checkpoints.

runs/<env>/<algo>/<time>_s<seed>/
    config.yaml               the resolved configuration, written before training starts
    metrics.csv, tb/          scalars (see `softflow.training.logging`)
    videos/
    replay/                   own episodes, if they are not kept in memory
    checkpoints/<step>/       a complete checkpoint, written under another name and renamed
    checkpoints/last          a text file with the name of the newest checkpoint
    lock/                     present while a run uses the folder (see `softflow.training.run_lock`)
"""

from __future__ import annotations

import errno
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from shlex import quote
from types import TracebackType
from typing import TypeVar

from softflow.errors import UserError
from softflow.files import UNFINISHED, force_to_disk, written_whole
from softflow.training.run_lock import RunLock, is_lock

T = TypeVar("T")
READ_ATTEMPTS = 100
"""Number of times that a reader looks for the newest checkpoint while the run saves others."""


class RunFolder:
    """The paths and checkpoints of a run.

    `create` and `resume` lock the folder until `close`, or until the end of a `with` block. `open` is for readers,
    which change nothing in the folder and may read it while a run writes to it.

    Attributes:
        path: The absolute path, because environments may change the current directory.
        given: The path as the user gave it, for messages.
    """

    def __init__(self, path: str | Path) -> None:
        self.given = str(path)
        self.path = Path(path).absolute()
        self.config_path = self.path / "config.yaml"
        self.metrics_path = self.path / "metrics.csv"
        self.tensorboard_path = self.path / "tb"
        self.videos_path = self.path / "videos"
        self.replay_path = self.path / "replay"
        self.checkpoints_path = self.path / "checkpoints"
        self._last_path = self.checkpoints_path / "last"
        self._lock = RunLock(self.path, self.given)
        self._made: list[Path] = []
        self._is_new = self._has_saved = False

    @classmethod
    def create(cls, root: str | Path, env: str, algo: str, seed: int, run_dir: str | Path | None = None) -> RunFolder:
        """Create and lock a new run folder: `root/<env>/<algo>/<time>_s<seed>`, or exactly `run_dir` if it is given.

        If its `with` block raises an error before there is a checkpoint, everything that was created is removed.

        Raises:
            UserError: `run_dir` is not empty, another run uses it, or it cannot be created. Nothing is overwritten.
        """
        if run_dir is not None:
            folder = cls(run_dir)
            if not folder._make():
                raise UserError(f"{run_dir} exists; choose another --run-dir or continue it with --resume {run_dir}")
            return folder
        parent = Path(root) / _path_safe(env) / _path_safe(algo)
        name = f"{datetime.now():%Y-%m-%d_%H-%M-%S}_s{seed}"
        for suffix in ("", *(f"_{copy}" for copy in range(2, 100))):  # for runs with the same seed and second
            folder = cls(parent / f"{name}{suffix}")
            if folder._make(must_be_new=True):
                return folder
        raise UserError(f"{parent / name}: too many runs in one second; choose a --run-dir")

    @classmethod
    def resume(cls, path: str | Path) -> RunFolder:
        """Open and lock the folder of an earlier run to continue it.

        Raises:
            UserError: `path` is not a run folder, another run uses it, or it cannot be written.
        """
        folder = cls.open(path)
        with folder.writing():
            folder._lock.acquire()
        return folder

    @classmethod
    def open(cls, path: str | Path) -> RunFolder:
        """Open the folder of a run to read it. Raise `UserError` if it is not a run folder."""
        folder = cls(path)
        if not folder.path.is_dir():
            raise UserError(f"{path}: no such run folder")
        if not folder.config_path.is_file():
            raise UserError(f"{path} is not a run folder: it has no config.yaml")
        return folder

    def close(self) -> None:
        """Unlock the folder, if it is locked."""
        self._lock.release()

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        failed = error is not None and self._is_new and not self._has_saved
        if failed:
            self._remove_contents()
        self.close()
        if failed:
            self._remove_made()

    @property
    def has_checkpoint(self) -> bool:
        """Whether a checkpoint has been saved."""
        return self._last_path.is_file()

    def save_checkpoint(self, step: int, write: Callable[[Path], None], keep: int = 2) -> Path:
        """Save a checkpoint atomically: a crash at any moment leaves either this one or the previous one complete.

        Args:
            step: The name of the checkpoint, a count that grows during the run. An existing checkpoint is replaced.
            write: A function that fills the empty folder that it is given.
            keep: The number of newest checkpoints to keep.

        Returns:
            The folder `checkpoints/<step>`.

        Raises:
            UserError: The checkpoint cannot be written. The previous one is kept.
        """
        if keep < 1:
            raise ValueError(f"keep must be at least 1, got {keep}")
        with self.writing():
            saved = self._save_checkpoint(step, write, keep)
        self._has_saved = True
        return saved

    def _save_checkpoint(self, step: int, write: Callable[[Path], None], keep: int) -> Path:
        final = self.checkpoints_path / str(step)
        part, replaced = self._aside(str(step), "part"), self._aside(str(step), "replaced")
        self.checkpoints_path.mkdir(exist_ok=True)
        leftovers = *self.checkpoints_path.glob(".*.part"), *self.checkpoints_path.glob(f"{UNFINISHED}*")
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
        force_to_disk(self.checkpoints_path, with_content=False)
        self._point_to(final)
        older = sorted((c for c in self._checkpoints() if c != final), key=lambda c: int(c.name), reverse=True)
        for unneeded in older[keep - 1 :]:  # renamed first, so that no checkpoint is ever incomplete
            unneeded.rename(self._aside(unneeded.name, "replaced"))
        for unneeded in self.checkpoints_path.glob(".*.replaced"):
            shutil.rmtree(unneeded, ignore_errors=True)  # a reader may hold it open; the next save tries again
        return final

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Convert an OSError inside the block, which must come from a file of the run, to a UserError with advice.

        Raises:
            UserError: A file cannot be written, for instance because the disk is full.
        """
        try:
            yield
        except OSError as error:
            advice = next((do for numbers, do in _ADVICE.items() if error.errno in numbers), "see to that")
            goes_on = self.has_checkpoint or error.errno in _GONE
            again = f"continue with: softflow-train --resume {quote(self.given)}" if goes_on else "start again"
            reason = error.strerror or error
            raise UserError(f"{self.given} cannot be written ({reason}): {advice}, then {again}") from error

    def save_settings(self, write: Callable[[Path], None]) -> None:
        """Replace the configuration atomically by what `write` writes to the path that it is given.

        Raises:
            UserError: The file cannot be written.
        """
        with self.writing(), written_whole(self.config_path) as file:
            write(file)

    def last_checkpoint(self) -> Path:
        """Return the folder of the newest complete checkpoint. Raise `UserError` if there is none."""
        for _ in range(READ_ATTEMPTS):
            if not self.has_checkpoint:
                break
            name = self._last_path.read_text(encoding="utf-8", errors="replace").strip()
            if not name.isdecimal():
                raise UserError(
                    f"{self._last_path} does not name a checkpoint: replace its text by the name of the newest folder"
                )
            for path in (self.checkpoints_path / name, self._aside(name, "replaced")):
                if path.is_dir():  # a checkpoint is moved aside until its replacement is in place
                    return path
        raise UserError(f"{self.given} has no checkpoint yet: if its run has ended, delete it and start again")

    def read_last(self, read: Callable[[Path], T]) -> T:
        """Return the result of `read` for the newest checkpoint. Retry if the run replaces or removes it meanwhile.

        Raises:
            UserError: There is no checkpoint. Errors of `read` are raised if the checkpoint has not changed.
        """
        for _ in range(READ_ATTEMPTS):
            path = self.last_checkpoint()
            before = _identity(path)
            try:
                return read(path)
            except (UserError, OSError):
                if before is not None and before == _identity(path):
                    raise
        raise UserError(f"{self.given}: its run replaces checkpoints faster than they can be read")

    def _checkpoints(self) -> list[Path]:
        return [path for path in self.checkpoints_path.iterdir() if path.is_dir() and path.name.isdigit()]

    def _aside(self, name: str, why: str) -> Path:
        return self.checkpoints_path / f".{name}.{why}"

    def _point_to(self, checkpoint: Path) -> None:
        # This is a text file and not a link, because some file systems and archives do not preserve links.
        with written_whole(self._last_path) as file:
            file.write_text(f"{checkpoint.name}\n", encoding="utf-8")
        force_to_disk(self.checkpoints_path, with_content=False)

    def _make(self, must_be_new: bool = False) -> bool:
        """Create and lock the folder. Return False if it is not empty, or if it exists but must be new.

        Raises:
            UserError: The folder cannot be created, or another run uses it.
        """
        try:
            with ExitStack() as undo:
                undo.callback(self._remove_made)
                for folder in reversed((self.path, *self.path.parents)):
                    if not folder.exists():
                        with suppress(FileExistsError):  # another run has just made it
                            folder.mkdir()
                            self._made.append(folder)
                if self._holds_something() or (must_be_new and self.path not in self._made):
                    return False
                self._lock.acquire()
                undo.callback(self.close)
                if self._holds_something():  # another run was faster
                    return False
                undo.pop_all()
        except OSError as error:
            raise UserError(f"cannot make the run folder {self.given}: {error.strerror}") from error
        self._is_new = True
        return True

    def _holds_something(self) -> bool:
        return any(not is_lock(path) for path in self.path.iterdir())

    def _remove_contents(self) -> None:
        with suppress(OSError):  # must not hide the error that is being raised
            for path in self.path.iterdir():
                if path.is_dir() and not is_lock(path):
                    shutil.rmtree(path, ignore_errors=True)
                elif not is_lock(path):
                    path.unlink(missing_ok=True)

    def _remove_made(self) -> None:
        """Remove the folders that were created, as far as they are empty."""
        with suppress(OSError):
            for folder in reversed(self._made):
                folder.rmdir()


_GONE = errno.ENOENT, errno.ENOTDIR, errno.ESTALE
_ADVICE = {
    (errno.ENOSPC, errno.EDQUOT): "make room",
    (errno.EFBIG,): "allow larger files (`ulimit -f`)",
    (errno.EACCES, errno.EPERM, errno.EROFS): "make it writable",
    _GONE: "put back what was moved or deleted of it",
    (errno.EMFILE, errno.ENFILE): "allow more open files (`ulimit -n`) or use fewer environments",
}
"""What the user can do about errors of the operating system."""


def _path_safe(name: str) -> str:
    return re.sub(r"[^\w.=+-]+", "_", name).strip(".")


def _identity(path: Path) -> tuple[int, int] | None:
    """Return values that distinguish a folder from another of the same name. None if there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns
