"""Check for memory leaks: train on tape_cut with regular checkpoints and evaluations, and print the resident memory.

    python -m benchmarks.studies.soak --minutes 30 --settings '{run_dir: runs/soak}'

`own` is the private memory of this process, and `rows` is the part that the replay's rows take. Their difference must
not grow; the last line is its slope over the second half, by least squares.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

import softflow
from softflow.runs import training
from softflow.settings.strict_yaml import read_yaml
from softflow.training.loop import Trainer

TRAIN: dict[str, Any] = {
    "preset": "quick",
    "imitation": {"updates": 20},
    "warmup": {"updates": 10},
    "offline": {"updates": 10},
    "online": {"steps": 100_000_000},
    "eval_every": 20_000,
    "save_minutes": 1,
    "threads": 1,
}
LINES = 60
"""Number of measurements in a run."""


def own_memory() -> int:
    """Return the private resident memory of this process in bytes."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon")]
    return 1024 * int(line.split()[1])


class Soak(Trainer):
    """Trainer whose memory is sampled from the start, and which is interrupted after `minutes`."""

    minutes: float
    samples: list[tuple[float, int, int]]
    """Minutes passed, bytes of the process, and bytes of the rows of own episodes."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        start, passed = time.monotonic(), 0.0
        while passed < self.minutes:
            time.sleep(60 * self.minutes / LINES)
            passed = (time.monotonic() - start) / 60
            replay = self.data.online
            used = replay.used_rows()
            rows = sum(column.nbytes for column in used.values()) + len(used["reward"]) + 8 * replay.imitable_steps
            own = own_memory()
            self.samples.append((passed, own, rows))
            shown = f"own {own / 1e6:.1f} MB, rows {rows / 1e6:.1f} MB, the rest {(own - rows) / 1e6:.1f} MB"
            print(f"{passed:.2f} minutes, {self.progress.steps:,} steps: {shown}", flush=True)
        signal.raise_signal(signal.SIGTERM)  # not SIGINT, which background jobs ignore


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30, help="duration of the run in minutes")
    parser.add_argument("--settings", type=read_yaml, default={}, help="additional settings of softflow.train, as YAML")
    arguments = parser.parse_args()
    Soak.minutes, Soak.samples = arguments.minutes, []
    training.Trainer = Soak  # type: ignore[misc]
    with contextlib.suppress(KeyboardInterrupt):
        softflow.train(TRAIN, **arguments.settings)
    minutes, memory, rows = np.array(Soak.samples[LINES // 2 :]).T
    slope = np.polyfit(minutes, memory - rows, 1)[0]
    print(f"memory without the rows grows by {slope / 1e6:+.3f} MB per minute in the second half")


if __name__ == "__main__":
    main()
