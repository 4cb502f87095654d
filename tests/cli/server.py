"""Runs of `softflow-train` in processes of their own, to be signalled and killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SERVER = """
import os, sys
from softflow.cli.train import main

for line in sys.stdin:
    folder, *argv = line.split()
    process = os.fork()
    if not process:
        os.setsid()
        os.chdir(folder)
        with open("output.txt", "w") as file:
            os.dup2(file.fileno(), 1), os.dup2(file.fileno(), 2)
        status = main(argv)
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(status)
    print(process, flush=True)
    sys.stdin.readline()  # until then the process can be signalled, even if it has ended
    print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)
"""
"""Runs `softflow-train` in a process of its own for each line, and is spared the seconds of its imports."""


class Server:
    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVER],
            env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.running: int | None = None

    def close(self) -> None:
        """End it, and a run that a failed test has left."""
        if self.running is not None:
            os.killpg(self.running, signal.SIGKILL)
        self.process.kill()
        self.process.communicate()

    def start(self, folder: Path, flags: str) -> int:
        """Begin a run from `folder`, where `output.txt` is; its process, which leads a group of its own."""
        print(folder, flags, file=self.process.stdin, flush=True)
        self.running = int(self._line())
        assert self.running > 1
        return self.running

    def status(self) -> int:
        """Wait for its end; minus the number of the signal that killed it, if one did."""
        print(file=self.process.stdin, flush=True)
        status = int(self._line())
        self.running = None
        return status

    def run(self, folder: Path, flags: str) -> int:
        self.start(folder, flags)
        return self.status()

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()


def in_group(group: int) -> list[str]:
    """The processes of a group that have not ended."""
    listed = subprocess.run(["ps", "-A", "-o", "pgid=,stat=,args="], capture_output=True, text=True, check=True).stdout
    rows = (line.split(None, 2) for line in listed.splitlines())
    return [command for pgid, state, command in rows if int(pgid) == group and not state.startswith("Z")]


def wait_for(condition: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.03)


def saved_at(run: Path) -> int:
    """When the last checkpoint was saved, in ns; 0 before the first."""
    last = run / "checkpoints" / "last"
    return last.stat().st_mtime_ns if last.is_file() else 0
