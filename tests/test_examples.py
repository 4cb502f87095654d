"""The examples run as they are; here with the smallest budgets."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SHORT = ["--updates", "2", "--steps", "50", "--episodes", "1"]
STEERING = ["--base-rollouts.steps", "50", "--online.steps", "50", "--num-envs", "2", "--eval-episodes", "1"]

COMMANDS = {
    "guarded_policy.py": ["--quick", "--episodes", "1"],
    "human_corrections.py": ["--quick", "--episodes", "2"],
    "train_tape_cut.py": ["--demonstrations", "2", "--updates", "8", "--steps", "200", "--episodes", "1"],
    "custom_environment.py": SHORT,
    "custom_flow.py": [*SHORT, "--demonstrations", "2"],
    "custom_algorithm.py": [*SHORT, "--demonstrations", "2"],
    "steer_frozen_policy.py": ["--steps", "50", "--episodes", "1"],
    "foreign_policy.py": ["--demos", "demos.npz", "--out", "foreign", "--updates", "2", "--width", "8"],
}
RUNS = {"human_corrections.py": 3, "steer_frozen_policy.py": 2, "foreign_policy.py": 0}
"""The number of runs of an example. Any other makes one."""


@pytest.mark.slow
@pytest.mark.parametrize("example", sorted(path.name for path in (ROOT / "examples").glob("*.py")))
def test_an_example_runs_as_it_is(example: str, tmp_path: Path) -> None:
    if "demos.npz" in COMMANDS[example]:
        run(tmp_path, "-m", "softflow", "demo", "--env", "two_routes", "--episodes", "2", "--out", "demos.npz")
    run(tmp_path, str(ROOT / "examples" / example), *COMMANDS[example])
    checkpoints = list(tmp_path.glob("runs/**/checkpoints/last"))
    assert len(checkpoints) == RUNS.get(example, 1)
    for checkpoint in checkpoints:
        assert (checkpoint.parent / checkpoint.read_text().strip() / "policy.safetensors").is_file()
    if example == "foreign_policy.py":
        steer = ["-m", "softflow", "train", "--env", "two_routes", "--demos", "demos.npz", "--horizon", "8", *STEERING]
        of_class = ["--base", "foreign_policy:Trained", "--base-options.file", "foreign/policy.pt"]
        for algo, base in (("rfs", of_class), ("residual", ["--base", "foreign/policy.onnx"])):
            run(tmp_path, *steer, "--algo", algo, "--run-dir", algo, *base)


def run(folder: Path, *arguments: str) -> None:
    paths = os.pathsep.join([str(ROOT), str(ROOT / "examples")])
    environment = os.environ | {"PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1"}
    result = subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
