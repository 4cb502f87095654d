"""The folder of a run, with its configuration, metrics, videos and checkpoints.

runs/<env>/<algo>/<time>_s<seed>/
    config.yaml               the resolved configuration, written before training starts
    from_data.json            the names of the settings that were not given, but follow from the demonstrations
    metrics.csv, tb/          scalars (see `softflow.training.logging`)
    episodes.csv              one row per episode (see `softflow.training.episode_table`)
    videos/
    replay/                   own episodes, if they are not kept in memory
    checkpoints/<step>/       a complete checkpoint, written under another name and renamed
    checkpoints/last          a text file with the name of the newest checkpoint
    checkpoints/<stage>_<n>/  the policy alone, as it was evaluated after n updates or steps of a stage
    checkpoints/base/         the policy of `--base`, from which the run started
    checkpoints/best          a text file with the name of the best of these (see `softflow.training.evaluated`)
    lock/                     present while a run uses the folder (see `softflow.training.run_lock`)
"""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from shlex import quote
from types import TracebackType
from typing import TypeVar

from softflow.errors import UserError
from softflow.files import written_whole
from softflow.training.checkpoint_folders import CheckpointFolders, path_safe
from softflow.training.run_lock import RunLock, is_lock

T = TypeVar("T")
LAST, BEST = "last", "best"
"""File names, in the folder of checkpoints, of the names of the newest checkpoint and of the best policy."""
READ_ATTEMPTS = 100
"""Number of times that a reader looks for a checkpoint while the run saves others."""


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
        self.from_data_path = self.path / "from_data.json"
        self.metrics_path = self.path / "metrics.csv"
        self.episodes_path = self.path / "episodes.csv"
        self.tensorboard_path = self.path / "tb"
        self.videos_path = self.path / "videos"
        self.replay_path = self.path / "replay"
        self.checkpoints_path = self.path / "checkpoints"
        self._checkpoints = CheckpointFolders(self.checkpoints_path)
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
        parent = Path(root) / path_safe(env) / path_safe(algo)
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
            raise UserError(f"{path} is not a run folder: it has no config.yaml{_runs_in(folder)}")
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
        return (self.checkpoints_path / LAST).is_file()

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
            saved = self._checkpoints.write(str(step), write)
            self._checkpoints.point(LAST, saved.name)
            others = sorted(set(self._checkpoints.numbered()) - {saved}, key=lambda c: int(c.name), reverse=True)
            self._checkpoints.remove(others[keep - 1 :])
        self._has_saved = True
        return saved

    def save_policy(self, name: str, write: Callable[[Path], None]) -> None:
        """Save the policy of an evaluation atomically in `checkpoints/<name>`, where it stays until `keep_policies`.

        Raises:
            UserError: The policy cannot be written.
        """
        with self.writing():
            self._checkpoints.write(name, write)

    def name_best(self, name: str) -> None:
        """Make the policy in `checkpoints/<name>` the best one."""
        with self.writing():
            self._checkpoints.point(BEST, name)

    def keep_policies(self, names: Collection[str]) -> None:
        """Remove all policies of evaluations but these."""
        with self.writing():
            self._checkpoints.remove(path for path in self.policies() if path.name not in names)

    def policies(self) -> list[Path]:
        """Return the folders of the policies that are kept from evaluations, in no particular order."""
        return self._checkpoints.policies()

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
            name = self._checkpoints.pointed(LAST)
            if name is None:
                break
            if not name.isdecimal():
                raise UserError(
                    f"{self.checkpoints_path / LAST} does not name a checkpoint: replace its text by the name of the "
                    "newest folder"
                )
            if (path := self._checkpoints.find(name)) is not None:
                return path
        if kept := sorted(int(path.name) for path in self._checkpoints.numbered()):
            raise UserError(
                f"{self.checkpoints_path / LAST} is missing, or names a folder that is: to go on from the newest "
                f"checkpoint, write {kept[-1]} into it"
            )
        raise UserError(f"{self.given} has no checkpoint yet: if its run has ended, delete it and start again")

    def best_checkpoint(self) -> Path:
        """Return the folder of the best policy or, if there has been no evaluation, of the newest complete checkpoint.

        In runs of earlier versions, which do not say which policy is the best, it is the newest checkpoint as well.

        Raises:
            UserError: There is no checkpoint, or the one that `checkpoints/best` names is missing.
        """
        for _ in range(READ_ATTEMPTS):
            name = self._checkpoints.pointed(BEST)
            if name is None:
                return self.last_checkpoint()
            if (path := self._checkpoints.find(name)) is not None:
                return path
        raise UserError(
            f"{self.checkpoints_path / BEST} does not name a checkpoint: remove this file to use the last checkpoint"
        )

    def read_best(self, read: Callable[[Path], T]) -> T:
        """Return the result of `read` for the best checkpoint. Retry if the run replaces or removes it meanwhile.

        Raises:
            UserError: There is no checkpoint. Errors of `read` are raised if the checkpoint has not changed.
        """
        for _ in range(READ_ATTEMPTS):
            path = self.best_checkpoint()
            before = _identity(path)
            try:
                return read(path)
            except (UserError, OSError):
                if before is not None and before == _identity(path):
                    raise
        raise UserError(f"{self.given}: its run replaces checkpoints faster than they can be read")

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


def _runs_in(folder: RunFolder) -> str:
    """Say which runs are in a folder that is not a run folder. Empty if there are none up to three levels below."""
    for level in ("*", "*/*", "*/*/*"):
        if runs := [config.parent for config in folder.path.glob(f"{level}/config.yaml")]:
            place = Path(folder.given)
            shown = place / level if len(runs) > 1 else place / runs[0].relative_to(folder.path)
            return f"; it contains {len(runs)} run{'s' * (len(runs) > 1)}: {shown}"
    return ""


def _identity(path: Path) -> tuple[int, int] | None:
    """Return values that distinguish a folder from another of the same name. None if there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns
