"""Environments that fail, by the commands: one line that says where, or `--on-env-error restart`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from softflow.data import load_demonstrations
from softflow.envs.diagnostics.tasks import TwoRoutesEnv

TRAIN = "softflow-train --env Pendulum-v1 --demos pendulum.npz --config small.yaml --run-dir run"


def last_line(result: Any) -> str:
    assert result.status == 2 and "Traceback" not in result.err, result
    line = result.err.splitlines()[-1]
    assert line.startswith("error: ")
    return line


def test_an_option_that_fails_in_a_step(command: Any, demonstrations: Path, small_run: Path) -> None:
    line = last_line(command(f"softflow-eval {small_run} --episodes 2 --env-options.g abc"))
    assert "environment 0, step 1 of the episode with seed 2000000: " in line and "pendulum.py" in line
    line = last_line(command(f"{TRAIN.replace('run-dir run', 'run-dir new')} --env-options.g abc --num-envs 1"))
    assert "pendulum.py" in line and "the last checkpoint, new/checkpoints/0, is from before" in line
    assert "pendulum.py" in Path("new/environment_errors.txt").read_text()


def test_a_time_limit_needs_processes(command: Any, demonstrations: Path, small_run: Path, snapshot: Any) -> None:
    before = snapshot()
    assert "env_time_limit needs vectorization_mode async" in command(f"{TRAIN} --env-time-limit 1").error()
    assert "env_time_limit must be above 0" in command(f"softflow-eval {small_run} --env-time-limit 0").error()
    assert snapshot() == before


@pytest.fixture
def flaky(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every third episode of `two_routes` fails in its second step."""
    reset, step = TwoRoutesEnv.reset, TwoRoutesEnv.step

    def noting(self: Any, *, seed: int | None = None, options: Any = None) -> Any:
        self.episode, self.made = seed, 0
        return reset(self, seed=seed, options=options)

    def failing(self: Any, action: Any) -> Any:
        self.made += 1
        if self.made == 2 and self.episode % 3 == 1:
            raise KeyError("joint_7")
        return step(self, action)

    monkeypatch.setattr(TwoRoutesEnv, "reset", noting)
    monkeypatch.setattr(TwoRoutesEnv, "step", failing)


@pytest.mark.filterwarnings("ignore:an episode was dropped")
def test_demonstrations_are_made_up_for(command: Any, flaky: None) -> None:
    demo = "softflow-demo --env two_routes --episodes 5 --json"
    line = last_line(command(f"{demo} --out stopped.npz"))
    assert "step 2 of the demonstration with seed 1: KeyError" in line and not Path("stopped.npz").exists()
    told = []
    for number in (1, 2):
        result = command(f"{demo} --on-env-error restart --num-envs {number} --out {number}.npz")
        assert result.status == 0, result
        told.append(json.loads(result.out))
    assert [(one["episodes"], one["errors"]) for one in told] == [(5, 2), (5, 2)]
    assert len(load_demonstrations("1.npz")) == 5
    assert Path("1.npz").read_bytes() == Path("2.npz").read_bytes()


@pytest.mark.filterwarnings("ignore:an episode was dropped")
def test_a_run_that_stopped_is_resumed_without_such_episodes(command: Any, demonstrations: Path, flaky: None) -> None:
    assert command("softflow-demo --env two_routes --episodes 4 --on-env-error restart --out d.npz").status == 0
    run = "softflow-train --env two_routes --demos d.npz --config small.yaml --run-dir run"
    line = last_line(command(run))
    assert "step 2 of the episode with seed 1000000: KeyError" in line  # 1000000 = 3 * 333333 + 1
    result = command("softflow-train --resume run --on-env-error restart")
    assert result.status == 0 and "1 lost, 1 to errors of their environment" in result.out, result
    assert "own episodes lost to errors of their environment: " in result.out
    assert (
        "1 lost episode counted as no success, 1 of them lost to errors"
        in command("softflow-eval run --episodes 3 --on-env-error restart").out
    )
