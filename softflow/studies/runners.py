"""Execution of jobs: what a place to run them is, processes on this machine, and the queue with its retries."""

from __future__ import annotations

import signal
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TypeVar

from softflow.console import note, remark
from softflow.errors import UserError, described, one_line
from softflow.studies.jobs import Job
from softflow.training.interruption import Interrupted


class Runner(ABC):
    """A place where jobs run."""

    @abstractmethod
    def submit(self, job: Job) -> Future[bool]:
        """Run a job as soon as there is room, and return the future result of `Job.run`."""

    @abstractmethod
    def close(self) -> None:
        """Start no further job, let the running ones save a checkpoint and end, and wait for that."""


class LocalRunner(Runner):
    """Processes on this machine.

    Args:
        parallel: How many jobs run at a time.
    """

    def __init__(self, parallel: int) -> None:
        self._pool = ThreadPoolExecutor(parallel)
        self._given: list[tuple[Job, Future[bool]]] = []

    def submit(self, job: Job) -> Future[bool]:
        future = self._pool.submit(job.run)
        self._given.append((job, future))
        return future

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
        try:
            self._stop(signal.SIGTERM)
        except KeyboardInterrupt:
            self._stop(signal.SIGKILL)
            raise

    def _stop(self, number: int) -> None:
        for job, _ in self._given:
            job.stop(number)
        wait([future for _, future in self._given if not future.cancelled()])


JobT = TypeVar("JobT", bound=Job)


def run_jobs(jobs: Iterable[JobT], runner: Runner, finished: Callable[[JobT], object], retries: int = 0) -> list[JobT]:
    """Run the unfinished jobs, started in the given order, and return those that failed.

    Args:
        jobs: The runs.
        runner: Where they run. It is closed.
        finished: Called after each run that has finished.
        retries: How often a run that has failed goes on from its last checkpoint.
    """
    failed, failures = list[JobT](), Counter[JobT]()
    try:
        running = {runner.submit(job): job for job in jobs if not job.finished}
        while running:
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                job = running.pop(future)
                error = future.exception()
                if error is None and future.result():
                    note(f"{job.name}: {job.minutes:.1f} minutes")
                    finished(job)
                    continue
                failures[job] += 1
                if failures[job] <= retries:
                    note(f"{job.name}: failed, and is tried again; see {job.log}")
                    running[runner.submit(job)] = job
                else:
                    failed.append(job)
                    why = [f"{job.log} ends with", *job.last_lines()] if error is None else [_reason(error)]
                    note("\n    ".join([f"{job.name}: failed; {why[0]}", *why[1:]]))
    except KeyboardInterrupt as stop:
        by_key = not (isinstance(stop, Interrupted) and stop.number == signal.SIGTERM)
        again = "; press ^C again to stop them at once" if by_key else ""
        remark(f"stopping: the runs save a checkpoint first{again}")
        raise
    finally:
        runner.close()
    return failed


def _reason(error: BaseException) -> str:
    return one_line(error) if isinstance(error, UserError | OSError) else described(error)
