"""What a command writes is there as a whole or not at all, so that it can be asked for again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import pendulum_demonstrations
from tests.damage import full_disk

LINES = [
    "softflow-export run --format onnx --out policy.onnx",
    "softflow-export run --format torchscript --out policy.pt",
    "softflow-export run --format torch_export --out policy.pt2",
    "softflow-guard run --demos held_out.npz --out guard",
    "softflow-eval run --episodes 2 --csv episodes.csv",
    "softflow-demo --env two_routes --episodes 1 --out new/d.npz",
    "softflow-data convert held_out.npz new/c.npz",
]


@pytest.mark.parametrize("line", LINES)
def test_a_full_disk_leaves_nothing_and_the_file_is_named(
    line: str, small_run: Path, command: Any, snapshot: Callable[[], dict]
) -> None:
    pendulum_demonstrations(Path("held_out.npz"), reward=1.0, seed=1)
    Path("new").mkdir()
    before = snapshot()
    with full_disk():
        failed = command(line)
    output = line.split()[-1]
    assert failed.status == 2
    last = failed.err.splitlines()[-1]
    assert last.startswith("error: ") and last.endswith(f"{output}: cannot be written: File too large")
    assert snapshot() == before  # so that the same line will do when there is room
