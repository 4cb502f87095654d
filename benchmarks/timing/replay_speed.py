"""Measure how long replays take to sample a batch, and to save and load a checkpoint, in memory and in files.

    python -m benchmarks.timing.replay_speed --rows 1e4 1e5 1e6 1e7 --folder runs/replay_speed

Rows have 97 and 15 numbers, and a batch has 256 windows of 8 steps. The sampling times of all sizes are interleaved and
reported as medians in milliseconds; saving and loading are in seconds. Replays of more than 1e6 rows are measured only
in files; one larger than the memory shows the cost of disk access. The files are deleted.
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.timing.interleaved import interleaved
from softflow.data import Episode, Replay

OBSERVATION, ACTION, STEPS = 97, 15, 200
IN_MEMORY = 10**6
TURNS, BATCHES = 20, 10


def filled(rows: int, folder: Path | None) -> Replay:
    rng = np.random.default_rng(0)
    replay = Replay(rows, OBSERVATION, ACTION, folder=folder)
    observation, action = rng.normal(size=(STEPS + 1, OBSERVATION)), rng.uniform(-1, 1, (STEPS, ACTION))
    episodes = [Episode(observation, action, np.full(STEPS, number % 2), True, False, True) for number in range(2)]
    for number in range(rows // (STEPS + 1)):
        replay.add_episode(episodes[number % 2])
    return replay


def seconds(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=float, nargs="+", default=[1e4, 1e5, 1e6], help="sizes of the replays in rows")
    parser.add_argument("--folder", type=Path, default=Path("runs/replay_speed"), help="new folder for the files")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True)
    replays = {}
    for rows in map(int, arguments.rows):
        if rows <= IN_MEMORY:
            replays[f"{rows:>10,} rows in memory"] = filled(rows, None)
        replays[f"{rows:>10,} rows in files "] = filled(rows, arguments.folder / f"{rows}")

    rng = np.random.default_rng(1)
    kinds = [(name, imitable) for name in replays for imitable in (False, True)]
    calls = {(name, imitable): partial(replays[name].sample, 256, 8, rng, imitable) for name, imitable in kinds}
    times = interleaved(calls, TURNS, warm_up=0, repeats=BATCHES, clock=time.perf_counter)
    for name, replay in replays.items():
        medians = [np.median(times[name, imitable]) for imitable in (False, True)]
        file = arguments.folder / "replay.npz"
        save, load = seconds(lambda: replay.save(file)), seconds(lambda: replay.load(file))  # noqa: B023
        print(
            f"{name}: sample {medians[0]:.2f} ms, imitable {medians[1]:.2f} ms; save {save:.2f} s, load {load:.2f} s, "
            f"{file.stat().st_size / 1e6:,.1f} MB"
        )
    shutil.rmtree(arguments.folder)


if __name__ == "__main__":
    main()
