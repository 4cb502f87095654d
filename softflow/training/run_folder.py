"""The folder of one run: configuration, metrics, videos and checkpoints, and how they are named.

runs/<env>/<algo>/<time>_s<seed>/
    config.yaml               the resolved configuration, written before training starts
    metrics.csv, tb/          scalars (see `softflow.training.logging`)
    videos/
    replay/                   own episodes, if they are not kept in memory
    checkpoints/<step>/       complete, or absent: written under another name and renamed
    checkpoints/last          a text file: the name of the newest checkpoint
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from softflow.errors import UserError


class RunFolder:
    """Paths of a run, and its checkpoints. Made by `create` or `open`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config_path = path / "config.yaml"
        self.metrics_path = path / "metrics.csv"
        self.tensorboard_path = path / "tb"
        self.videos_path = path / "videos"
        self.replay_path = path / "replay"
        self.checkpoints_path = path / "checkpoints"

    @classmethod
    def create(cls, root: str | Path, env: str, algo: str, seed: int, run_dir: str | Path | None = None) -> RunFolder:
        """Make a new run folder: `root/<env>/<algo>/<time>_s<seed>`, or exactly `run_dir` if one is given.

        Raises:
            UserError: `run_dir` holds something already, or cannot be made. Nothing is overwritten.
        """
        if run_dir is not None:
            return cls(_make_empty(Path(run_dir)))
        name = f"{datetime.now():%Y-%m-%d_%H-%M-%S}_s{seed}"
        parent = Path(root) / _path_safe(env) / _path_safe(algo)
        path = parent / name
        for copy in range(2, 100):  # runs of one second and one seed: a sweep over something else
            try:
                path.mkdir(parents=True)
                return cls(path)
            except FileExistsError:
                path = parent / f"{name}_{copy}"
            except OSError as error:
                raise UserError(f"cannot make the run folder {path}: {error.strerror}") from error
        raise UserError(f"{parent / name}: too many runs in one second; choose a --run-dir")

    @classmethod
    def open(cls, path: str | Path) -> RunFolder:
        """Open the folder of an earlier run. Raises `UserError` if it is none."""
        folder = cls(Path(path))
        if not folder.path.is_dir():
            raise UserError(f"{path}: no such run folder")
        if not folder.config_path.is_file():
            raise UserError(f"{path} is not a run folder: it has no config.yaml")
        return folder

    def save_checkpoint(self, step: int, write: Callable[[Path], None], keep: int = 2) -> Path:
        """Save a checkpoint so that a crash at any moment leaves this one or the one before, whole.

        Args:
            step: The checkpoint's name, a count that grows through the run. One that exists is replaced.
            write: Called with an empty folder that it fills.
            keep: How many of the newest checkpoints stay.

        Returns:
            The folder `checkpoints/<step>`.

        Raises:
            UserError: It cannot be written; the one before stays.
        """
        if keep < 1:
            raise ValueError(f"keep must be at least 1, got {keep}")
        with self.writing():
            return self._save_checkpoint(step, write, keep)

    def _save_checkpoint(self, step: int, write: Callable[[Path], None], keep: int) -> Path:
        final = self.checkpoints_path / str(step)
        part, replaced = self._aside(str(step), "part"), self._aside(str(step), "replaced")
        self.checkpoints_path.mkdir(exist_ok=True)
        for leftover in self.checkpoints_path.glob(".*.part"):  # of a crash while writing
            shutil.rmtree(leftover)
        part.mkdir()
        try:
            write(part)
            for file in (*part.rglob("*"), part):
                _sync(file)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)  # it may be what fills the disk
            raise
        if final.exists():
            shutil.rmtree(replaced, ignore_errors=True)
            final.rename(replaced)
        part.rename(final)
        _sync(self.checkpoints_path)
        self._point_to(final)
        older = sorted((c for c in self._checkpoints() if c != final), key=lambda c: int(c.name), reverse=True)
        for unneeded in older[keep - 1 :]:  # renamed first, so that no checkpoint is ever half there
            unneeded.rename(self._aside(unneeded.name, "replaced"))
        for unneeded in self.checkpoints_path.glob(".*.replaced"):
            shutil.rmtree(unneeded)
        return final

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Inside it, an OSError is one of the run's files.

        Raises:
            UserError: a file cannot be written: the disk is full, for instance.
        """
        try:
            yield
        except OSError as error:
            begun = (self.checkpoints_path / "last").is_file()
            advice = f"continue with: softflow-train --resume {self.path}" if begun else "start again"
            reason = error.strerror or error
            raise UserError(f"{self.path} cannot be written ({reason}): make room, then {advice}") from error

    def last_checkpoint(self) -> Path:
        """The newest whole checkpoint. Raises `UserError` if there is none."""
        last = self.checkpoints_path / "last"
        if last.is_file():
            name = last.read_text(encoding="utf-8", errors="replace").strip()
            if not name.isdecimal():
                raise UserError(f"{last} names no checkpoint: write the number of the newest folder beside it there")
            path = self.checkpoints_path / name
            replaced = self._aside(path.name, "replaced")
            if replaced.is_dir() and not path.exists():  # a crash between the two renames of `save_checkpoint`
                replaced.rename(path)
            if path.is_dir():
                return path
        raise UserError(f"{self.path} has no checkpoint yet: if its run has ended, delete it and start again")

    def _checkpoints(self) -> list[Path]:
        return [path for path in self.checkpoints_path.iterdir() if path.is_dir() and path.name.isdigit()]

    def _aside(self, name: str, why: str) -> Path:
        return self.checkpoints_path / f".{name}.{why}"

    def _point_to(self, checkpoint: Path) -> None:
        # A text file and not a link, which some file systems and archives don't keep.
        part = self.checkpoints_path / "last.part"
        part.write_text(f"{checkpoint.name}\n", encoding="utf-8")
        _sync(part)
        part.replace(self.checkpoints_path / "last")
        _sync(self.checkpoints_path)


def require_unused(run_dir: str | Path | None) -> None:
    """Raises `UserError` if `RunFolder.create` would find something in `run_dir`: to know it early."""
    if run_dir is not None and Path(run_dir).is_dir() and any(Path(run_dir).iterdir()):
        raise UserError(f"{run_dir} exists; choose another --run-dir or continue it with --resume {run_dir}")


def _make_empty(path: Path) -> Path:
    require_unused(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the run folder {path}: {error.strerror}") from error
    return path


def _path_safe(name: str) -> str:
    return re.sub(r"[^\w.=+-]+", "_", name).strip(".")


def _sync(path: Path) -> None:
    """Have the operating system write the file or folder to the disk now."""
    if path.is_dir() and os.name == "nt":  # Windows has no folder handles to sync
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
