"""The formats in which commands write datasets, and the flags that choose one."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from softflow.data import Dataset, save_demonstrations
from softflow.errors import UserError
from softflow.runs.assembly import require_new_file
from softflow.task import TaskSpec


@dataclass
class OutputConfig:
    """How a dataset is written."""

    to: Literal["npz", "lerobot"] = "npz"
    """Format to write: `npz`, softflow's own file, or `lerobot`, a folder of LeRobot 3.0."""
    rate: float | None = None
    """Control rate in hertz, for LeRobot. It is required if neither the source nor the environment contains it."""
    text: str | None = None
    """Description of the task in words, for LeRobot. By default, the name of the task."""

    def new(self, name: str) -> Path:
        """Check in advance that the format can be written to a file or folder of this name."""
        if self.to == "npz":
            if (self.rate, self.text) != (None, None):
                raise UserError(
                    "--rate and --text are stored in LeRobot datasets only: add --to lerobot, or leave them out"
                )
            if Path(name).suffix != ".npz":
                raise UserError(f"{name} must end in .npz, or be a folder with --to lerobot")
            return new_file(name)
        if Path(name).suffix == ".npz":
            raise UserError(f"{name} is the name of a file, --to lerobot writes a folder: leave out .npz")
        require_new_file(Path(name), "folder", make_folder=True)
        with lerobot_needed("--to lerobot"):
            import softflow.formats.lerobot.writer  # noqa: F401 (whether its packages are there)
        return Path(name)

    def require_rate(self, task: TaskSpec) -> None:
        """Check in advance that the control rate of a task is known, and that LeRobot can store it."""
        from softflow.formats.lerobot.writer import with_rate

        try:
            with_rate(task, self.rate)
        except ValueError as error:
            raise UserError(f"--to lerobot: {error}") from error

    def write(self, target: Path, dataset: Dataset) -> None:
        if self.to == "npz":
            save_demonstrations(target, *dataset)
            return
        from softflow.formats.lerobot.writer import write_lerobot

        write_lerobot(target, dataset, self.rate, self.text)

    def command(self, source: Path, target: Path) -> str:
        """Return the command that writes the target of another file."""
        flags = [] if self.rate is None else ["--rate", f"{self.rate:g}"]
        flags += [] if self.text is None else ["--text", self.text]
        return shlex.join(["softflow-data", "convert", str(source), str(target), "--to", self.to, *flags])


def new_file(name: str, suffix: str = ".npz") -> Path:
    """Check in advance that a file can be written."""
    path = Path(name)
    if path.suffix != suffix:
        raise UserError(f"{path} must end in {suffix}, the format that is written")
    require_new_file(path, "file", make_folder=True)
    return path


@contextmanager
def lerobot_needed(what: str) -> Iterator[None]:
    """Name the extra if an import in the block fails. It needs pyarrow and av, which other commands do without."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise UserError(f'{what} needs the package {error.name!r}: pip install "softflow[lerobot]"') from error
