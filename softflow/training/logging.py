"""Logging of scalars to TensorBoard and to `metrics.csv`, and of episodes to `episodes.csv`.

`metrics.csv` is in long format with one row per scalar, so that a scalar that appears later needs no new column:

    stage,step,name,value
    imitation,500,flow/nll,-1.4375

    table = pandas.read_csv("metrics.csv").pivot(index=["stage", "step"], columns="name", values="value")

It only contains scalars that the seed determines. Two runs with the same seed, or a run that was interrupted and
resumed, write the same bytes. Wall-clock scalars (`time/...`) would break this, so they only go to TensorBoard.

TensorBoard shows each stage as a separate run (`tb/<stage>/`), because stages count their steps differently:
imitation and the offline stages count updates, the online stage counts primitive environment steps. Two further runs
have one axis on which the stages follow one another: `tb/all_stages/` with all scalars, and `tb/settings/` with the
evaluations, the configuration as a text, and the settings for the tab HParams.
"""

from __future__ import annotations

import csv
import math
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from types import TracebackType
from typing import Any

import yaml

from softflow.errors import UserError
from softflow.training.episode_table import HEADER, EpisodeRow, as_text
from softflow.training.event_file import EventFile
from softflow.training.resumable_csv import ResumableCsv
from softflow.training.run_folder import RunFolder

_HEADER = ["stage", "step", "name", "value"]
_FLUSH_SECONDS = 30
"""Interval in seconds at which logged scalars become visible to TensorBoard."""
ALL_STAGES, SETTINGS = _OVERVIEWS = "all_stages", "settings"
"""Runs of TensorBoard beside those of the stages."""
_LOSS = re.compile(r"^train/.*loss")


class MetricLogger:
    """Writes the scalars of a run. Use it as a context manager, or call `close`.

    Args:
        run_folder: The folder of the run.
        resume_at: In a resumed run, the `offset()` stored in the checkpoint. Later rows are dropped.
        episodes_resume_at: The same of `episodes_offset()`. 0 if an earlier version saved the checkpoint.

    Attributes:
        names: The names of the scalars that the run has logged so far.

    Raises:
        UserError: A file cannot be written, in any method. In a resumed run, a file is missing or shorter than at the
            checkpoint.
    """

    def __init__(self, run_folder: RunFolder, resume_at: int | None = None, episodes_resume_at: int = 0) -> None:
        self._run_folder = run_folder
        self._event_files: dict[str, EventFile] = {}
        self._last_step: dict[str, int] | None = None
        self._flushed = time.monotonic()
        self.names: set[str] = set()
        self._lengths: dict[str, int] = {}
        path = run_folder.metrics_path
        episodes_at = None if resume_at is None else episodes_resume_at
        self._scalars = ResumableCsv(run_folder, path, _HEADER, resume_at)
        self._episodes = ResumableCsv(run_folder, run_folder.episodes_path, HEADER, episodes_at)
        if resume_at is not None:
            with path.open(newline="", encoding="utf-8") as file:
                for row in csv.DictReader(file):
                    self._lengths[row["stage"]] = int(row["step"])
                    self.names.add(row["name"])
            self._last_step = {**self._lengths, **dict.fromkeys(_OVERVIEWS, sum(self._lengths.values()))}

    def log(self, step: int, stage: str, scalars: Mapping[str, float]) -> None:
        """Write the scalars of one step.

        Args:
            step: The number of updates in the imitation and offline stages, of primitive environment steps online.
            stage: The name of the stage.
            scalars: The values by name, such as `train/critic_loss`.

        Raises:
            FloatingPointError: A `train/*loss*` is NaN or infinite. All scalars are written first.
        """
        numbers = {name: float(value) for name, value in scalars.items()}
        if not self._event_files:  # not earlier: resuming a finished run changes nothing
            self._write_settings()
        self._lengths[stage] = step
        place = sum(self._lengths.values())  # earlier stages have ended
        with self._run_folder.writing():
            for name, value in numbers.items():
                self._event_file(stage).add_scalar(name, value, step)
                self._event_file(ALL_STAGES).add_scalar(name, value, place)
                if name.startswith("eval/"):
                    self._event_file(SETTINGS).add_scalar(name, value, place)
        kept = {name: value for name, value in numbers.items() if not name.startswith("time/")}
        self._scalars.write([stage, step, name, repr(value)] for name, value in kept.items())
        self.names |= kept.keys()
        if time.monotonic() - self._flushed > _FLUSH_SECONDS:
            self.flush()
        for name, value in numbers.items():
            if _LOSS.match(name) and not math.isfinite(value):
                self.flush()
                raise FloatingPointError(
                    f"{name} is {value} at step {step} of the stage {stage!r}: training diverged. "
                    "Look at the scalars before it; a smaller learning rate or stronger regularisation may help."
                )

    def log_film(self, step: int, stage: str, gif: bytes) -> None:
        """Write a film of held-out episodes, a GIF, to TensorBoard."""
        with self._run_folder.writing():
            self._event_file(stage).add_gif("eval/films", gif, step)

    def offset(self) -> int:
        """Flush all scalars to the disk and return the length of `metrics.csv` in bytes, for the checkpoint."""
        self.flush()
        return self._scalars.offset()

    def log_episodes(self, rows: Sequence[EpisodeRow]) -> None:
        """Write rows of `episodes.csv`."""
        self._episodes.write(as_text(row) for row in rows)

    def episodes_offset(self) -> int:
        """Return the length of `episodes.csv` in bytes, for the checkpoint."""
        return self._episodes.offset()

    def flush(self) -> None:
        """Make the scalars logged so far visible to readers."""
        with self._run_folder.writing():
            for file in self._event_files.values():
                file.flush()
        self._flushed = time.monotonic()

    def close(self) -> None:
        """Flush and close the files."""
        self._scalars.close()
        self._episodes.close()
        with self._run_folder.writing():
            for file in self._event_files.values():
                file.close()

    def __enter__(self) -> MetricLogger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with suppress(UserError) if error is not None else nullcontext():  # a full disk makes this fail as well
            self.close()

    def _write_settings(self) -> None:
        """Write the configuration, if there is one, to TensorBoard."""
        if not self._run_folder.config_path.is_file():
            return
        text = self._run_folder.config_path.read_text(encoding="utf-8")
        with self._run_folder.writing():
            file = self._event_file(SETTINGS)
            file.add_text("config", text)
            file.add_settings(dict(_plain(yaml.safe_load(text))))

    def _event_file(self, stage: str) -> EventFile:
        if stage not in self._event_files:
            # In a resumed run, TensorBoard hides what the interrupted run logged after its checkpoint.
            purge = None if self._last_step is None else self._last_step.get(stage, -1) + 1
            self._event_files[stage] = EventFile(self._run_folder.tensorboard_path / stage, purge)
        return self._event_files[stage]


def _plain(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, bool | float | str]]:
    """Yield nested settings by their dotted names, and what is no number as a text."""
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _plain(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value if isinstance(value, bool | int | float | str) else str(value)
