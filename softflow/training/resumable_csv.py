"""CSV files that a resumed run continues from where its checkpoint was."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from softflow.errors import UserError
from softflow.training.run_folder import RunFolder


class ResumableCsv:
    """A CSV file of a run.

    Args:
        run_folder: The folder of the run.
        path: The file.
        header: The names of its columns.
        resume_at: In a resumed run, the `offset()` stored in the checkpoint. Later rows are dropped. At 0 there need be
            no file, because an earlier version saved the checkpoint.

    Raises:
        UserError: The file cannot be written, in any method. In a resumed run, it is missing or shorter than at the
            checkpoint.
    """

    def __init__(self, run_folder: RunFolder, path: Path, header: Sequence[str], resume_at: int | None = None) -> None:
        self._run_folder = run_folder
        if resume_at:
            if not path.is_file() or path.stat().st_size < resume_at:
                raise UserError(f"{path} is missing or shorter than at the checkpoint: restore it, or start again")
            with run_folder.writing():
                os.truncate(path, resume_at)
        mode = "x" if resume_at is None else "a" if resume_at else "w"
        with run_folder.writing():
            self._file = path.open(mode, newline="", encoding="utf-8")
        self._csv = csv.writer(self._file, lineterminator="\n")
        if not resume_at:
            self._csv.writerow(header)

    def write(self, rows: Iterable[Sequence[object]]) -> None:
        """Write rows, and make them visible to readers."""
        with self._run_folder.writing():
            self._csv.writerows(rows)
            self._file.flush()

    def offset(self) -> int:
        """Flush the file to the disk and return its length in bytes, for the checkpoint."""
        with self._run_folder.writing():
            self._file.flush()
            os.fsync(self._file.fileno())
            return os.fstat(self._file.fileno()).st_size

    def close(self) -> None:
        """Flush and close the file."""
        with self._run_folder.writing():
            self._file.close()
