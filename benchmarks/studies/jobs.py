"""Runs of `softflow-train` as processes that a later call skips if they have finished and resumes if they have not."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

FINISHED, STOPPED = "finished in", "stopped after"


@dataclass(frozen=True)
class Job:
    """One run, in the folder `run_dir`. Its output goes to a .log file next to the folder."""

    run_dir: Path
    arguments: Sequence[str]
    """Flags of `softflow-train`, without `--run-dir`."""

    @property
    def log(self) -> Path:
        return self.run_dir.with_name(f"{self.run_dir.name}.log")

    @property
    def finished(self) -> bool:
        return self.log.is_file() and FINISHED in self.log.read_text(encoding="utf-8")

    @property
    def minutes(self) -> float:
        """Wall time in minutes, summed over the parts of an interrupted run."""
        return self._seconds("") / 60

    @property
    def cpu_minutes(self) -> float:
        """CPU time in minutes of the run and its processes, summed over the parts of an interrupted run."""
        return self._seconds(r"\d+ s, ") / 60

    def _seconds(self, before: str) -> int:
        pattern = rf"^(?:{FINISHED}|{STOPPED}) {before}(\d+) s\b"
        return sum(map(int, re.findall(pattern, self.log.read_text(encoding="utf-8"), re.MULTILINE)))

    def run(self) -> bool:
        """Start or resume the run, and return whether it has finished."""
        command = [sys.executable, "-m", "softflow.cli.train"]
        if (self.run_dir / "checkpoints" / "last").is_file():
            command += ["--resume", str(self.run_dir)]
        else:
            command += ["--run-dir", str(self.run_dir), *self.arguments]
        self.run_dir.parent.mkdir(parents=True, exist_ok=True)
        start = time.monotonic()
        with self.log.open("a", encoding="utf-8") as log:
            process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
            _, status, usage = os.wait4(process.pid, 0)  # unlike `wait`, it also tells the CPU time
            process.returncode = os.waitstatus_to_exitcode(status)
            wall, cpu = time.monotonic() - start, usage.ru_utime + usage.ru_stime
            log.write(f"{STOPPED if process.returncode else FINISHED} {wall:.0f} s, {cpu:.0f} s of CPU\n")
        return process.returncode == 0


JobT = TypeVar("JobT", bound=Job)


def run_jobs(jobs: Sequence[JobT], parallel: int, finished: Callable[[JobT], object]) -> list[JobT]:
    """Run the unfinished jobs, started in the given order, and return those that failed.

    Args:
        jobs: The runs.
        parallel: How many of them run at a time.
        finished: Called after each run that has finished.
    """
    failed = []
    with ThreadPoolExecutor(parallel) as pool:
        running = {pool.submit(job.run): job for job in jobs if not job.finished}
        for future in as_completed(running):
            job = running[future]
            if future.result():
                print(f"{job.run_dir.name}: {job.minutes:.0f} minutes", flush=True)
                finished(job)
            else:
                failed.append(job)
                print(f"{job.run_dir.name}: failed, see {job.log}", flush=True)
    return failed
