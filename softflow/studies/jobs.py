"""A run of `softflow-train` and the evaluations after it, which a later call skips or goes on with."""

from __future__ import annotations

import ctypes
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from shlex import join
from tempfile import TemporaryFile
from typing import IO

from softflow.files import written_whole
from softflow.training.run_folder import RunFolder

FINISHED, STOPPED = "finished in", "stopped after"
TRAIN, EVALUATE = ([sys.executable, "-m", f"softflow.cli.{module}"] for module in ("train", "evaluate"))
"""The commands, which need not be on the path."""
POLL = 0.1
"""Seconds between two looks at whether a process has ended."""


@dataclass(eq=False)
class Job:
    """One run, in the folder `run_dir`. Its output goes to a .log file next to the folder.

    Each evaluation goes to a .json file there. Its episodes are others than those by which the run chose its policy.
    """

    run_dir: Path
    arguments: Sequence[str]
    """Flags of `softflow-train`, without `--run-dir`."""
    evaluated: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """The policies to evaluate, each with the flags of `softflow-eval` that choose it."""
    episodes: int = 100
    """Number of held-out episodes of each evaluation."""
    _process: int | None = field(default=None, init=False)
    _is_stopped: bool = field(default=False, init=False)

    @property
    def name(self) -> str:
        """What messages call the run."""
        return f"{self.run_dir.parent.name}/{self.run_dir.name}"

    @property
    def log(self) -> Path:
        return self.run_dir.with_name(f"{self.run_dir.name}.log")

    def evaluation(self, policy: str) -> Path:
        """Return the file of the evaluation of a policy."""
        return self.run_dir.with_name(f"{self.run_dir.name}.{policy}.json")

    @property
    def finished(self) -> bool:
        """Whether the run has finished and its policies are evaluated."""
        return self.has_trained and all(map(self._is_evaluated, self.evaluated))

    @property
    def has_trained(self) -> bool:
        """Whether the run has finished and its folder is still there. A run whose folder was deleted starts anew."""
        finished = re.search(rf"^{FINISHED} \d+ s\b", self._text, re.MULTILINE)
        return finished is not None and (self.run_dir / "config.yaml").is_file()

    @property
    def minutes(self) -> float:
        """Wall time in minutes, summed over the parts of an interrupted run."""
        return self._seconds("") / 60

    @property
    def cpu_minutes(self) -> float:
        """CPU time in minutes of the run and its processes, summed over the parts of an interrupted run.

        A part that was killed together with the study is not counted, because nobody measured it.
        """
        return self._seconds(r"\d+ s, ") / 60

    def last_lines(self, number: int = 5) -> list[str]:
        """Return the last lines that the run printed."""
        lines = self._text.splitlines()
        printed = [line for line in lines if line.strip() and not line.startswith(("$ ", FINISHED, STOPPED))]
        return printed[-number:]

    def run(self) -> bool:
        """Start or resume the run, evaluate its policies, and return whether all of that has finished.

        Raises:
            UserError: What an earlier attempt has left is in use by another process.
            OSError: A file cannot be written.
        """
        return (self.has_trained or self._train()) and all(map(self._evaluate, self.evaluated))

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Send a signal to the process that runs, if any, and start no other one."""
        self._is_stopped = True
        if (process := self._process) is not None:
            with suppress(ProcessLookupError):
                os.kill(process, number)

    @property
    def _text(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace") if self.log.is_file() else ""

    def _seconds(self, before: str) -> int:
        pattern = rf"^(?:{FINISHED}|{STOPPED}) {before}(\d+) s\b"
        return sum(map(int, re.findall(pattern, self._text, re.MULTILINE)))

    def _train(self) -> bool:
        if (self.run_dir / "checkpoints" / "last").is_file():
            flags = ["--resume", str(self.run_dir)]
        else:
            self._remove_remains()
            flags = ["--run-dir", str(self.run_dir), *self.arguments]
        self.run_dir.parent.mkdir(parents=True, exist_ok=True)
        start = time.monotonic()
        with self.log.open("a", encoding="utf-8") as log:
            log.write(f"$ {join(['softflow-train', *flags])}\n")
            log.flush()
            status, cpu = self._call([*TRAIN, *flags], log, log)
            log.write(f"{STOPPED if status else FINISHED} {time.monotonic() - start:.0f} s, {cpu:.0f} s of CPU\n")
        return status == 0

    def _remove_remains(self) -> None:
        """Remove what a run left that was killed before its first checkpoint, or whose folder was deleted."""
        if (self.run_dir / "config.yaml").is_file():
            with RunFolder.resume(self.run_dir):  # no other process uses it
                shutil.rmtree(self.run_dir)
        for file in (self.log, *map(self.evaluation, self.evaluated)):
            file.unlink(missing_ok=True)

    def _is_evaluated(self, policy: str) -> bool:
        """Return whether an evaluation is there, and no one has lengthened the run since."""
        file, checkpoint = self.evaluation(policy), self._checkpoint
        if not file.is_file():
            return False
        result = json.loads(file.read_text(encoding="utf-8"))
        return result["episodes"] == self.episodes and checkpoint in (None, result.get("checkpoint"))

    @property
    def _checkpoint(self) -> str | None:
        """The name of the newest checkpoint. None if the checkpoints were removed."""
        last = self.run_dir / "checkpoints" / "last"
        return last.read_text(encoding="utf-8") if last.is_file() else None

    def _evaluate(self, policy: str) -> bool:
        if self._is_evaluated(policy):
            return True
        command = [*EVALUATE, str(self.run_dir), "--json", "--num-envs", "10", *self.evaluated[policy]]
        command += ["--episodes", str(self.episodes)]
        with TemporaryFile("w+", encoding="utf-8") as result, self.log.open("a", encoding="utf-8") as log:
            status, _ = self._call(command, result, log)
            result.seek(0)
            if status == 0:
                evaluated = {"checkpoint": self._checkpoint, **json.load(result)}
                with written_whole(self.evaluation(policy)) as file:
                    file.write_text(json.dumps(evaluated, indent=1), encoding="utf-8")
        return status == 0

    def _call(self, command: Sequence[str], out: IO[str], err: IO[str]) -> tuple[int, float]:
        """Run a process to its end, and return its exit status and its CPU time in seconds."""
        if self._is_stopped:
            return -signal.SIGTERM, 0.0
        # In a session of its own, so that ^C in a terminal reaches only the study, which then stops its runs in order.
        process = subprocess.Popen(command, stdout=out, stderr=err, start_new_session=True, preexec_fn=_end_with_parent)
        self._process = process.pid
        if self._is_stopped:
            self.stop()
        try:
            # Unlike `wait`, it also tells the CPU time. Ray interrupts a task only between two of its instructions.
            while not (ended := os.wait4(process.pid, os.WNOHANG))[0]:
                time.sleep(POLL)
        except KeyboardInterrupt:  # of a task of Ray
            self.stop()
            ended = os.wait4(process.pid, 0)
        finally:
            self._process, process.returncode = None, 0  # nobody else waits for it
        return os.waitstatus_to_exitcode(ended[1]), ended[2].ru_utime + ended[2].ru_stime


_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
_PR_SET_PDEATHSIG = 1


def _end_with_parent() -> None:
    """Let Linux send SIGTERM to this process when the study is killed, so that the run saves a checkpoint and ends."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
