"""Scalars, texts, films and settings in event files for TensorBoard.

They are written in the thread that logs them. torch's `SummaryWriter` uses another thread: if the disk is full, that
thread prints a traceback, and training only notices some hundred scalars later. It also names its files by the second,
so that TensorBoard may read the files of a run that is resumed at once in the wrong order.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Mapping
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams.summary_v2 import hparams_pb
from tensorboard.plugins.text.summary_v2 import text_pb
from tensorboard.summary.writer.record_writer import RecordWriter

_VERSION = "brain.Event:2"


class EventFile:
    """A new event file in a folder. TensorBoard reads the files of a folder in the order in which they were created.

    Args:
        folder: The folder, which is created if it does not exist.
        purge_step: In a resumed run, the step from which TensorBoard hides scalars of earlier files.
    """

    def __init__(self, folder: Path, purge_step: int | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = (folder / f"events.out.tfevents.{time.time_ns()}.{os.getpid()}").open("xb")
        self._records = RecordWriter(self._file)
        self._write(Event(file_version=_VERSION))
        if purge_step is not None:
            self._write(Event(step=purge_step, session_log=SessionLog(status=SessionLog.START)))

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self._write(Event(step=step, summary=Summary(value=[Summary.Value(tag=name, simple_value=value)])))

    def add_text(self, name: str, text: str) -> None:
        """Write a text, which TensorBoard shows as it is."""
        lines = "\n".join(f"    {line}" for line in text.splitlines())  # in Markdown, indented lines are code
        self._write(Event(summary=text_pb(name, lines)))

    def add_settings(self, settings: Mapping[str, bool | float | str]) -> None:
        """Write the settings of the run, which TensorBoard compares with its scalars in the tab HParams."""
        shown = {
            name: value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value
            for name, value in settings.items()  # a path may hold bytes that are no text
        }
        self._write(Event(summary=hparams_pb(shown)))

    def add_gif(self, name: str, gif: bytes, step: int) -> None:
        """Write a film, which TensorBoard plays in the tab Images."""
        width, height = struct.unpack("<HH", gif[6:10])
        image = Summary.Image(width=width, height=height, colorspace=3, encoded_image_string=gif)
        self._write(Event(step=step, summary=Summary(value=[Summary.Value(tag=name, image=image)])))

    def flush(self) -> None:
        """Make the scalars written so far visible to readers."""
        self._file.flush()

    def close(self) -> None:
        self._file.close()

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        self._records.write(event.SerializeToString())
