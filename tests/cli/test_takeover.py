"""softflow-robot run --takeover: a supervisor, a person with keys, and what the recording says of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from softflow.cli import train
from softflow.data import read_dataset
from softflow.policies import ChunkGuard
from softflow.teleop import Command, Device, display
from tests.cli.conftest import SMALL, pendulum_demonstrations

ROOT = Path(__file__).parents[2]
PATIENT = "--patience 60 --stall 9"
PENDULUM = f"softflow-robot run run --robot Pendulum-v1 --robot-options.max-episode-steps 30 {PATIENT} --episodes"
HERE = "tests.cli.test_takeover"


class Button(Device):
    """Takes over before the step `begin`, and gives back before the step `end`, with the same action all the time."""

    def __init__(self, task: Any, begin: int = 0, end: int = 0, action: float = 0.25) -> None:
        super().__init__(task)
        self._commands, self._action = {begin: Command.TAKE_OVER, end: Command.GIVE_BACK}, action
        self.last: Any = None

    def reset(self) -> None:
        self._step = -1  # the window is asked once more before the first step

    def listen(self, events: Sequence[Any]) -> list[Command]:
        self._step += 1
        return [self._commands[self._step - 1]] if self._step - 1 in self._commands else []

    def take_over(self, last: np.ndarray) -> None:
        assert last.shape == (1,) and np.abs(last) <= 1

    def act(self) -> np.ndarray:
        return np.float32([self._action])


@pytest.fixture
def person(small_run: Path, command: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """`person("--takeover ...", script)` runs two episodes with a window that nobody sees."""
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    monkeypatch.setattr(display, "UNSEEN", ())
    return lambda flags, *more: command(f"{PENDULUM} 2 {flags}", *more)


def test_a_device_takes_over_and_gives_back(person: Any, command: Any) -> None:
    device = f"--takeover {HERE}:Button --takeover-options.begin 7 --takeover-options.end 12"
    result = person(f"{device} --clock simulated --out hour.rec --json")
    assert result.status == 0, result.err
    report = json.loads(result.out)
    assert (report["takeovers"], report["human_steps"], report["deadlines"]) == (2, 10, 60)
    for episode in read_dataset("hour.rec").episodes:
        assert episode.human is not None and np.flatnonzero(episode.human).tolist() == [7, 8, 9, 10, 11]
        np.testing.assert_allclose(episode.action[7:12], 0.25, atol=1e-6)
        assert episode.proposals is not None
        assert episode.proposals.step.tolist() == [0, 2, 4, 6, 12, 14, 16, 18, 20, 22, 24, 26, 28]
        assert episode.proposals.own.tolist() == [True] * 3 + [False] + [True] * 9

    assert command("softflow-data filter hour.rec kept.npz --min-length 2").status == 0
    kept = read_dataset("kept.npz").episodes
    assert all(episode.human is not None and episode.human.sum() == 5 for episode in kept)
    shown = command("softflow-data info kept.npz").out
    assert "takeovers: in 2 of 2 episodes; a person acted at 16.7% of the steps" in shown
    assert train.main("--env Pendulum-v1 --demos hour.rec --config small.yaml --run-dir again".split()) == 0


def test_keys_take_over_and_closing_the_window_stops_the_robot(person: Any) -> None:
    script = "-q||space q|" + "|" * 8
    flags = "--takeover tests.teleop.scripted:Scripted --out hour.rec --takeover-options.script"
    result = person(flags, script)
    assert result.status == 2 and result.err.rstrip().endswith("the robot was stopped: a person quit")
    assert "you act" in result.err
    [episode] = read_dataset("hour.rec").episodes
    assert episode.human is not None and episode.human[-1] and not episode.human[:2].any()
    assert episode.action[-1] == 0.5  # half of the way to the bound, while the key is held


def test_limits_of_a_guard_hold_for_a_person(person: Any, command: Any) -> None:
    pendulum_demonstrations(Path("held_out.npz"), reward=1.0, seed=1)
    line = "softflow-guard run --demos held_out.npz --out guard --quantile 0.2 --rate-factor 0.01"
    assert command(line).status == 0
    device = f"--takeover {HERE}:Button --takeover-options.begin 3 --takeover-options.end 9 --takeover-options.action 1"
    assert person(f"{device} --clock simulated --guard guard --out hour.rec").status == 0
    rate = ChunkGuard.load("guard").limits.rate.item()
    for episode in read_dataset("hour.rec").episodes:
        assert episode.human is not None and episode.human.sum() == 6
        assert np.abs(np.diff(episode.action, axis=0)).max() <= rate * (1 + 1e-3)


@pytest.fixture(scope="module")
def tape(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy of tape_cut that has hardly learnt anything."""
    folder = tmp_path_factory.mktemp("tape")
    (folder / "small.yaml").write_text(
        SMALL.partition("critic")[0] + "flow_options: {width: 8}\nimitation: {updates: 2}\n"
    )
    line = (
        f"--algo imitation --config {folder / 'small.yaml'} --num-demos 1 --eval-episodes 1 --run-dir {folder / 'run'}"
    )
    assert train.main(line.split()) == 0
    return folder / "run"


def test_a_supervisor_takes_over_in_simulated_time(tape: Path, command: Any) -> None:
    line = f"softflow-robot run {tape} --robot tape_cut --takeover supervisor --clock simulated {PATIENT} --episodes 1"
    result = command(f"{line} --out whole.rec")
    assert result.status == 0, result.err
    assert "1 takeover: a person acted at " in result.out and "deadlines" not in result.out
    [whole] = read_dataset("whole.rec").episodes
    assert whole.human is not None
    begin = int(whole.human.argmax())
    assert begin >= 20 and whole.human[begin:].all()
    report = json.loads(command(f"{line} --takeover-steps 20 --out parts.rec --json").out)
    [parts] = read_dataset("parts.rec").episodes
    np.testing.assert_array_equal(parts.action[:begin], whole.action[:begin])
    assert parts.human is not None and parts.human[begin : begin + 20].all() and not parts.human[begin + 20]
    assert report["human_steps"] == parts.human.sum() and report["clock"] == "simulated"


def test_a_killed_process_keeps_who_acted(small_run: Path, tmp_path: Path) -> None:
    device = f"--takeover {HERE}:Button --takeover-options.begin 2 --takeover-options.end 1000"
    line = f"{PENDULUM} 1000 {device} --out killed.rec --clock simulated".split()[1:]
    environment = os.environ | {"SDL_VIDEODRIVER": "dummy", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    code = "import sys; from softflow.teleop import display; from softflow.cli import robot; display.UNSEEN = (); "
    code += "sys.exit(robot.main(sys.argv[1:]))"
    process = subprocess.Popen([sys.executable, "-c", code, *line], env=environment, cwd=tmp_path)
    path = tmp_path / "killed.rec"
    while not path.exists() or path.stat().st_size < 3_000:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    episodes, _ = read_dataset(path)
    for episode in episodes:
        assert (
            episode.human is None
            if len(episode) <= 2
            else episode.human.tolist() == [False] * 2 + [True] * (len(episode) - 2)
        )
    assert sum(map(len, episodes)) > 20


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--takeover keybord", "unknown device 'keybord': did you mean 'keyboard'?"),
        ("--takeover gamepad", "no gamepad: none is connected"),
        ("--takeover supervisor", "nothing in 'Pendulum-v1' can take over from a policy"),
        ("--takeover-options.speed 1", "takeover_options are those of a device or a supervisor"),
        ("--takeover keyboard --takeover-steps 3", "takeover_steps is at least 1, with takeover supervisor, got 3"),
        ("--takeover supervisor --takeover-steps 0", "takeover_steps is at least 1, with takeover supervisor, got 0"),
        ("--takeover keyboard --takeover-options.sped 1", "unexpected keyword argument 'sped'"),
        ("--clock fast", "clock"),
    ],
)
def test_bad_input_is_refused(person: Any, flags: str, message: str) -> None:
    assert message in person(f"{flags} --out hour.rec").error()
    assert not Path("hour.rec").exists()


def test_help_lists_the_options_of_who_takes_over(command: Any) -> None:
    shown = command("softflow-robot run run --robot tape_cut --takeover keyboard --help").out
    assert "Options of the device keyboard:" in shown and "--takeover-options.speed FLOAT" in shown
    shown = command("softflow-robot run run --robot tape_cut --takeover supervisor --help").out
    assert "Options of the supervisor of tape_cut:" in shown
