"""A run folder that several commands want at once, and commands that are ended before they train."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from softflow.algos import SoftFlow
from tests.cli.conftest import contents
from tests.cli.server import Server, saved_at, wait_for
from tests.cli.test_crashes import TRAIN
from tests.cli.training_runs import interrupted

PENDULUM = "--demos pendulum.npz --config small.yaml --run-dir run"
GATE = """
import os
import gymnasium
from gymnasium.envs.classic_control import PendulumEnv

class Gate(PendulumEnv):
    def __init__(self, **options):
        super().__init__(**options)
        open("reached", "w").close()
        open("gate").read()  # nobody ever writes to it

gymnasium.register("Gate-v0", entry_point=Gate, max_episode_steps=30)
"""
"""An environment that is never made."""
WANDERER = """
import os
import gymnasium
from gymnasium.envs.classic_control import PendulumEnv

class Wanderer(PendulumEnv):
    def __init__(self, **options):
        super().__init__(**options)
        os.chdir(os.path.join(os.path.dirname(__file__), "elsewhere"))

gymnasium.register("Wanderer-v0", entry_point=Wanderer, max_episode_steps=30)
"""
"""One that changes the current folder."""


def stopped(process: int) -> bool:
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "T"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="whether a process has stopped is read from /proc")
def test_a_run_that_trains_is_read_but_not_resumed(server: Server, command: Any, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = server.start(tmp_path, f"{TRAIN} --run-dir run --online.steps 9000")
    wait_for(lambda: saved_at(run))
    os.kill(process, signal.SIGSTOP)  # in the middle of whatever it does
    wait_for(lambda: stopped(process))
    before = contents(run)
    error = command("softflow-train --resume run").error()
    assert f"error: run is in use by process {process} on " in error and "wait until it has ended, or stop it" in error
    assert "run exists; choose another --run-dir" in command(f"softflow-train {TRAIN} --run-dir run").error()
    assert command("softflow-eval run --episodes 2").status == 0
    assert contents(run) == before
    os.kill(process, signal.SIGKILL)
    assert server.status() == -signal.SIGKILL
    with interrupted(SoftFlow, at=1):
        assert command("softflow-train --resume run").status == 130  # it was taken over
    assert not (run / "lock").exists() and saved_at(run)


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """A file that is there when `gate:Gate-v0` is being made."""
    (tmp_path / "gate.py").write_text(GATE)
    os.mkfifo(tmp_path / "gate")
    return tmp_path / "reached"


@pytest.mark.parametrize("is_there", [True, False])
def test_of_two_starts_with_one_folder_one_gets_it(
    is_there: bool, gate: Path, server: Server, command: Any, demonstrations: Path, tmp_path: Path
) -> None:
    """Before either has written anything; and the one that is ended before it trains leaves nothing."""
    if is_there:
        (tmp_path / "run").mkdir()
    before = contents(tmp_path) | {"reached": b"", "output.txt": b"interrupted\n"}
    process = server.start(tmp_path, f"--env gate:Gate-v0 {PENDULUM}")
    wait_for(gate.exists)
    error = command(f"softflow-train --env Pendulum-v1 {PENDULUM}").error()
    assert f"run is in use by process {process} on " in error
    os.kill(process, signal.SIGTERM)
    assert server.status() == 128 + signal.SIGTERM
    after = {name: content for name, content in contents(tmp_path).items() if "__pycache__" not in name}
    assert after == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_resumed_run_that_is_ended_before_it_trains_is_as_it_was(
    number: int, gate: Path, server: Server, small_run: Path, command: Any, tmp_path: Path
) -> None:
    settings = small_run / "config.yaml"
    settings.write_text(settings.read_text().replace("env: Pendulum-v1", "env: gate:Gate-v0"))
    before = contents(small_run)
    process = server.start(tmp_path, "--resume run --online.steps 900")
    wait_for(gate.exists)
    os.kill(process, number)
    assert server.status() == (143 if number == signal.SIGTERM else -number)
    after = contents(small_run)
    assert {name for name in after if not name.startswith("lock")} == set(before)
    assert {name: after[name] for name in before} == before
    settings.write_text(settings.read_text().replace("env: gate:Gate-v0", "env: Pendulum-v1"))
    assert command("softflow-train --resume run").status == 0
    assert not (small_run / "lock").exists()


@pytest.mark.parametrize("algo", ["softflow", "latent_steering --base base"])
def test_a_run_does_not_depend_on_the_current_folder(
    algo: str, command: Any, demonstrations: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither what it writes nor what it reads."""
    (tmp_path / "wanderer.py").write_text(WANDERER)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "base").symlink_to(finished)
    small = (tmp_path / "small.yaml").read_text()
    if "steering" in algo:  # what it has no settings for
        dropped = "horizon", "flow_options", "imitation", "warmup", "offline"
        small = "".join(line for line in small.splitlines(True) if not line.startswith(dropped))
        small += "base_rollouts: {steps: 100, updates_per_step: 0.01}\n"
    (tmp_path / "small.yaml").write_text(small.replace("steps: 420", "steps: 100"))
    result = command(f"softflow-train --algo {algo} --env wanderer:Wanderer-v0 {PENDULUM}")
    assert result.status == 0 and "run folder: run\n" in result.out, result
    monkeypatch.chdir(tmp_path)
    before = contents(tmp_path / "run")
    assert command("softflow-train --resume run").status == 0
    assert contents(tmp_path / "run") == before and "checkpoints/last" in before and "lock" not in before
    assert not any((tmp_path / "elsewhere").iterdir())


def test_a_run_that_fails_before_it_trains_leaves_nothing(command: Any, demonstrations: Path, snapshot: Any) -> None:
    before = snapshot()
    refused = command("softflow-train --env Pendulum-v1 --demos pendulum.npz --config small.yaml --env-options.gg 3")
    assert refused.status == 2
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("softflow.runs.given_demonstrations.save_demonstrations", fail)
        full = command("softflow-train --env Pendulum-v1 --demos pendulum.npz --config small.yaml --runs deep/runs")
    assert "No space left on device): make room, then start again" in full.error()
    assert snapshot() == before


def fail(*_: Any) -> None:
    raise OSError(28, "No space left on device")
