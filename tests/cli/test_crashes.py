"""Killed at any moment, ended by a signal, or out of disk space: a run goes on from its last checkpoint, to the bit."""

from __future__ import annotations

import itertools
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from softflow.algos import SoftFlow
from softflow.errors import UserError
from softflow.training.checkpoint import load_policy
from softflow.training.run_folder import RunFolder
from tests.cli.server import Server, in_group, saved_at, wait_for
from tests.cli.training_runs import assert_same_run, interrupted, stages_of
from tests.damage import full_disk

TRAIN = (
    "--env two_routes --num-envs 2 --num-demos 6 --eval-episodes 2 --collect-steps 20 --eval-every 110 --threads 1 "
    "--log-every 1 --replay-capacity 5000 --horizon 4 --n-action-steps 2 --flow-options.width 8 --batch-size 8 "
    "--critic-width 8 --imitation.updates 8 --warmup.updates 2 --offline.updates 2 --online.steps 320 "
    "--online.updates-per-step 0.05 --save-minutes 0"
)
"""A checkpoint after each of some thirty rounds."""


def half_written(run: Path) -> bool:
    return any((run / "checkpoints").glob(".*.*"))


def assert_recoverable(run: Path) -> None:
    """Every checkpoint is whole, and of what was logged at most one round came after the last."""
    folder = RunFolder.open(run)
    last = folder.last_checkpoint()
    for checkpoint in (path for path in folder.checkpoints_path.iterdir() if path.name.isdigit()):
        load_policy(checkpoint)
    offset = torch.load(last / "training.pt", weights_only=True)["state"]["metrics_offset"]
    lines = folder.metrics_path.read_text()[offset:].splitlines()
    assert len({tuple(line.split(",")[:2]) for line in lines}) <= 1, lines


def events(run: Path) -> dict[str, list[tuple[int, float]]]:
    read = {stage: EventAccumulator(str(run / "tb" / stage)).Reload() for stage in stages_of(str(run))}
    return {stage: [(e.step, e.value) for e in log.Scalars("train/n_updates")] for stage, log in read.items()}


@pytest.mark.parametrize("storage", ["memory", pytest.param("disk", marks=pytest.mark.slow)])
@pytest.mark.parametrize("kills", [3, pytest.param(50, marks=pytest.mark.slow)])
def test_killed_at_any_moment(kills: int, storage: str, server: Server, tmp_path: Path) -> None:
    """On disk with a ring so small that every round overwrites some of it."""
    train = TRAIN if storage == "memory" else f"{TRAIN} --replay-storage disk --replay-capacity 90"
    start, run, rng = f"{train} --run-dir run", tmp_path / "run", random.Random(kills)
    assert server.run(tmp_path, f"{train} --run-dir whole") == 0
    moments = {"before the first checkpoint": 0, "while one was written": 0, "elsewhere": 0, "too late": 0}
    for number in range(kills):
        before = saved_at(run)
        process = server.start(tmp_path, "--resume run" if before else start)
        if rng.random() < 0.8:  # else while it starts; one that was killed at its very end has nothing left to save
            wait_for(lambda before=before, process=process: saved_at(run) != before or not in_group(process))
        time.sleep(rng.uniform(0, 0.5))
        until = time.monotonic() + 2
        while number % 2 and time.monotonic() < until and not half_written(run):
            time.sleep(0.001)
        os.kill(process, signal.SIGKILL)
        if server.status() == 0:
            moments["too late"] += 1
            assert_same_run(tmp_path / "whole", run)
            shutil.rmtree(run)
        elif not saved_at(run):
            moments["before the first checkpoint"] += 1
            with pytest.raises(UserError, match=r"no checkpoint|no such run|not a run folder"):
                RunFolder.open(run).last_checkpoint()
            shutil.rmtree(run, ignore_errors=True)
        else:
            moments["while one was written" if half_written(run) else "elsewhere"] += 1
            assert_recoverable(run)
    print(moments)
    assert sum(moments.values()) == kills and moments["while one was written"]
    assert server.run(tmp_path, "--resume run" if run.exists() else start) == 0
    assert_same_run(tmp_path / "whole", run)
    assert events(run) == events(tmp_path / "whole")


@pytest.mark.parametrize(
    ("number", "to_all", "status"),
    [
        pytest.param(signal.SIGINT, True, 130, marks=pytest.mark.slow),
        (signal.SIGTERM, True, 143),
        pytest.param(signal.SIGTERM, False, 143, marks=pytest.mark.slow),
        (signal.SIGKILL, False, -9),
    ],
)
def test_no_process_stays_behind(number: int, to_all: bool, status: int, server: Server, tmp_path: Path) -> None:
    """Environments in processes of their own, signalled as well, as ^C and many a scheduler do, or not."""
    run = tmp_path / "run"
    process = server.start(tmp_path, f"{TRAIN} --run-dir run --vectorization-mode async --online.steps 9000")
    wait_for(lambda: saved_at(run) and "online" in (run / "metrics.csv").read_text())
    others = min(2, os.cpu_count() or 1) - 1  # of the environments that act, and as many of those held out
    assert len(in_group(process)) == 1 + 2 * others
    (os.killpg if to_all else os.kill)(process, number)
    assert server.status() == status
    wait_for(lambda: not in_group(process), 20)
    assert_recoverable(run)
    if status > 0:
        lines = (tmp_path / "output.txt").read_text().splitlines()
        assert lines[-2:] == ["continue with: softflow-train --resume run", "interrupted"]
        assert not any(line.startswith("Traceback") for line in lines)


def test_a_file_that_may_not_grow(command: Any, tmp_path: Path) -> None:
    """By a limit on the size of files, which each of several is the first to meet."""
    run = tmp_path / "run"
    assert command(f"softflow-train {TRAIN} --run-dir whole").status == 0
    with interrupted(SoftFlow, at=16):
        assert command(f"softflow-train {TRAIN} --run-dir run").status == 130
    last = RunFolder.open("whole").last_checkpoint()
    sizes = [(last / name).stat().st_size for name in ("policy.safetensors", "training.pt")]
    for limit in (Path("run/metrics.csv").stat().st_size + 5, *(size - 1 for size in sizes)):
        with full_disk(limit):
            result = command("softflow-train --resume run")
        assert result.status == 2
        expected = (
            "error: run cannot be written (File too large): allow larger files (`ulimit -f`), then continue with: "
        )
        assert result.err.splitlines()[-1] == f"{expected}softflow-train --resume run"
        assert_recoverable(run)
    assert command("softflow-train --resume run").status == 0
    assert_same_run("whole", "run")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("only root may mount a small disk")
    yield disk
    subprocess.run(["umount", disk], check=True)


@pytest.mark.slow
def test_a_full_disk(command: Any, small_disk: Path) -> None:
    """With next to nothing free, and a little more each time, until the run is finished."""
    run, ballast = small_disk / "run", small_disk / "ballast"
    assert command(f"softflow-train {TRAIN} --run-dir whole").status == 0
    with interrupted(SoftFlow, at=16):
        assert command(f"softflow-train {TRAIN} --run-dir {run}").status == 130
    statuses = list[int]()
    for number in itertools.count():
        left = 4096 * int(1.6**number - 1)  # a file takes whole pages
        ballast.write_bytes(bytes(max(shutil.disk_usage(small_disk).free - left, 0)))
        result = command(f"softflow-train --resume {run}")
        ballast.unlink()
        statuses.append(result.status)
        if not result.status:
            break
        expected = f"error: {run} cannot be written (No space left on device): make room, then continue with: "
        assert result.err.splitlines()[-1] == f"{expected}softflow-train --resume {run}"
        assert "Traceback" not in result.err and "Exception" not in result.err
        assert_recoverable(run)
    print(statuses)
    assert set(statuses[:-1]) == {2} and len(statuses) > 5
    assert_same_run("whole", run)
