"""A thread that does one job after another, so that the control thread never waits for any of them."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from softflow.robot.stop_signal import StopSignal

T = TypeVar("T")

_END: Any = object()
"""The job after which a worker's thread ends."""


class Worker(Generic[T]):
    """Does jobs in a thread of its own, in the order in which they are submitted.

    The thread is a daemon: a job that never returns does not keep the process alive. An error in a job stops the robot.

    Args:
        name: What the worker does, for error messages.
        work: Does a job.
        stop: The signal that an error sets.
    """

    def __init__(self, name: str, work: Callable[[T], None], stop: StopSignal) -> None:
        self._name, self._work, self._stop = name, work, stop
        self._jobs: queue.SimpleQueue[T] = queue.SimpleQueue()
        self._submitted = deque[float]()  # times of the jobs that are not finished
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def submit(self, job: T) -> None:
        """Add a job. This returns at once."""
        self._submitted.append(time.perf_counter())
        self._jobs.put(job)

    @property
    def unfinished(self) -> int:
        """The number of jobs that are not finished, including the present one."""
        return len(self._submitted)

    def waiting(self) -> float:
        """Return how many seconds ago the oldest unfinished job was submitted. Zero if there is none."""
        try:
            return time.perf_counter() - self._submitted[0]
        except IndexError:
            return 0.0

    def close(self) -> None:
        """End the thread after the last job."""
        self._jobs.put(_END)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not _END:
            try:
                self._work(job)
            except BaseException as error:  # also SystemExit, which would end the thread without a word
                self._stop.fail(self._name, error)
            finally:
                self._submitted.popleft()
