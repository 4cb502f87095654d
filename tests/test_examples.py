"""The examples run as they are; here with the smallest budgets."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SHORT = ["--updates", "2", "--steps", "50", "--episodes", "1"]

COMMANDS = {
    "guarded_policy.py": ["--quick", "--episodes", "1"],
    "human_corrections.py": ["--quick", "--episodes", "2"],
    "train_tape_cut.py": ["--demonstrations", "2", "--updates", "8", "--steps", "200", "--episodes", "1"],
    "custom_environment.py": SHORT,
    "custom_flow.py": [*SHORT, "--demonstrations", "2"],
    "custom_algorithm.py": [*SHORT, "--demonstrations", "2"],
    "steer_frozen_policy.py": ["--steps", "50", "--episodes", "1"],
}
RUNS = {"human_corrections.py": 3, "steer_frozen_policy.py": 2}  # of any other, one


@pytest.mark.slow
@pytest.mark.parametrize("example", sorted(path.name for path in (ROOT / "examples").glob("*.py")))
def test_an_example_runs_as_it_is(example: str, tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    result = subprocess.run(
        [sys.executable, ROOT / "examples" / example, *COMMANDS[example]],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    checkpoints = list(tmp_path.glob("runs/**/checkpoints/last"))
    assert len(checkpoints) == RUNS.get(example, 1)
    for checkpoint in checkpoints:
        assert (checkpoint.parent / checkpoint.read_text().strip() / "policy.safetensors").is_file()
