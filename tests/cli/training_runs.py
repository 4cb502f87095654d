"""What tests of the commands ask about runs, how they compare them, and how they interrupt one."""

from __future__ import annotations

import csv
import itertools
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from softflow.algos import Algorithm, Stage
from softflow.training.run_folder import RunFolder


def stages_of(run: str) -> list[str]:
    """The stages that a run has been through."""
    with open(f"{run}/metrics.csv", newline="") as file:
        return list(dict.fromkeys(row["stage"] for row in csv.DictReader(file)))


def assert_same_run(one: str | Path, other: str | Path) -> None:
    """The same metrics, episodes and last checkpoint, all of it: what deploys and what resumes, to the bit."""
    runs = [RunFolder.open(run) for run in (one, other)]
    first, second = (run.metrics_path.read_bytes() for run in runs)
    assert first == second
    first, second = (run.episodes_path.read_bytes() for run in runs)
    assert first == second
    first, second = (run.last_checkpoint() for run in runs)
    assert first.name == second.name
    for name in ("policy.json", "policy.safetensors"):
        assert (first / name).read_bytes() == (second / name).read_bytes(), name
    expected, replay = (_replay(run, path) for run, path in zip(runs, (first, second), strict=True))
    assert_same(expected, replay, "replay")
    assert_same(*(torch.load(path / "training.pt", weights_only=True) for path in (first, second)), "training")


def _replay(run: RunFolder, checkpoint: Path) -> dict[str, np.ndarray]:
    """What a checkpoint says of the replay, and the rows in use, wherever they are."""
    with np.load(checkpoint / "replay.npz") as saved:
        arrays = dict(saved)
    columns = {file.stem: np.load(file)[: arrays["written"]] for file in sorted(run.replay_path.glob("*.npy"))}
    return arrays | columns


def assert_same(first: Any, second: Any, where: str) -> None:
    """Nested dicts and sequences of tensors, arrays and plain values."""
    assert type(first) is type(second), where
    if isinstance(first, dict):
        assert list(first) == list(second), where
        for key in first:
            assert_same(first[key], second[key], f"{where}.{key}")
    elif isinstance(first, list | tuple):
        assert len(first) == len(second), where
        for index, values in enumerate(zip(first, second, strict=True)):
            assert_same(*values, f"{where}.{index}")
    elif isinstance(first, torch.Tensor | np.ndarray):
        np.testing.assert_array_equal(first, second, err_msg=where)
    else:
        assert first == second, where


@contextmanager
def interrupted(algorithm: type[Algorithm], at: int, by: BaseException | None = None) -> Iterator[None]:
    """In the update of this number, whoever trains by `algorithm` gets a SIGINT, or crashes with `by`."""
    schedule, updates = algorithm.schedule, itertools.count(1)

    def interrupting(stage: Stage) -> Stage:
        def update(*arguments: Any) -> Any:
            if next(updates) == at:
                if by is not None:
                    raise by
                signal.raise_signal(signal.SIGINT)
            return stage.update(*arguments)

        return replace(stage, update=update)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(algorithm, "schedule", lambda self: list(map(interrupting, schedule(self))))
        yield
