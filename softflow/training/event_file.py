"""Scalars in a file that TensorBoard reads.

Written where they are logged. torch's `SummaryWriter` writes in a thread of its own: if the disk is full, that thread
prints a traceback and training goes on for some hundred scalars before it is told. It also names its files by the
second, so that TensorBoard may read those of a run that is resumed at once in the wrong order.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

_VERSION = "brain.Event:2"


class EventFile:
    """A new file in `folder`; TensorBoard reads a folder's files in the order in which they were made.

    Args:
        folder: made if it is not there.
        purge_step: on resuming, what earlier files hold from this step on is not shown.
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

    def flush(self) -> None:
        """Make what was written visible to readers."""
        self._file.flush()

    def close(self) -> None:
        self._file.close()

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        self._records.write(event.SerializeToString())
