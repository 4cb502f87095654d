"""softflow-robot on simulated robots, and on a robot of one's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from softflow.cli import train
from softflow.data import Episode, read_dataset, save_demonstrations
from softflow.policies import ChunkGuard
from softflow.training.evaluation import HELD_OUT_SEEDS, OTHER_SEEDS
from tests.cli.conftest import SMALL

PATIENT = "--patience 20 --stall 9 --json"
"""What lets a slow machine run the episodes, and the report as JSON."""
LINE = "softflow-robot run run --robot Pendulum-v1 --episodes 2 --robot-options.max-episode-steps 9"
MY_ROBOT = """
import numpy as np
from softflow.robot import Robot

class Arm(Robot):
    def __init__(self, steps=5):
        self.steps = steps
    def reset(self):
        self.count = 0
    def observe(self):
        return {"observation": np.zeros(3)}
    def command(self, action):
        assert action["action"].shape == (1,) and abs(action["action"][0]) <= 2
        self.count += 1
    def stop(self):
        open("stopped", "a").write("x")
    def is_success(self):
        return self.count == self.steps
    def has_ended(self):
        return self.count == self.steps
"""


@pytest.mark.parametrize("mode", ["", "--synchronous", "--late extend --lead 2"])
def test_episodes_of_an_environment(mode: str, small_run: Path, command: Any) -> None:
    result = command(f"{LINE} {PATIENT} --out hour.rec {mode}")
    assert result.status == 0, result.err
    report = json.loads(result.out)
    assert report["episodes"] == 2 and report["success_rate"] == 0 and report["rate"] == 20
    assert report["deadlines"] <= 18  # fewer if the machine was too slow, for the world does not wait
    assert report["jitter_ms"]["p50"] >= 0 and report["latency_ms"]["p99"] > 0
    episodes, task = read_dataset("hour.rec")
    assert sum(map(len, episodes)) == report["deadlines"] and task is not None and task.name == "Pendulum-v1"
    assert np.abs(np.concatenate([episode.action for episode in episodes])).max() <= 1
    assert command("softflow-data convert hour.rec hour.npz").status == 0


def test_the_episodes_of_a_simulated_robot_are_not_those_of_evaluations(small_run: Path, command: Any) -> None:
    """The best policy was chosen on some of those, and a policy may learn from what its robot records."""
    assert command(f"{LINE} {PATIENT} --clock simulated --out hour.rec").status == 0
    starts = [episode.observation[0] for episode in read_dataset("hour.rec").episodes]
    environment = gymnasium.make("Pendulum-v1")
    evaluated = [environment.reset(seed=seed + i)[0] for seed in (HELD_OUT_SEEDS, OTHER_SEEDS) for i in range(2)]
    assert len(starts) == 2 and not np.equal(starts[0], starts[1]).all()
    assert not any(np.allclose(start, one, atol=1e-6) for start in starts for one in evaluated)


def test_the_report_in_words(small_run: Path, command: Any) -> None:
    lines = command(f"{LINE} {PATIENT} --no-json").out.splitlines()
    assert lines[0] == "2 episodes at 20 Hz, success 0.00 [0.00, 0.66]"
    assert [line.split(" ", 3)[-1] for line in lines[1:2]] == ["deadlines missed"]
    assert lines[3].startswith("delay of commands: ") and lines[4].startswith("from observation to command: ")


def test_two_routes(tmp_path: Path, command: Any) -> None:
    settings = ["--env", "two_routes", "--config", "small.yaml", "--run-dir", "routes", "--algo", "imitation"]
    (tmp_path / "small.yaml").write_text(SMALL.partition("critic")[0] + "imitation: {updates: 4}\n")
    assert train.main(settings) == 0
    result = command(
        "softflow-robot run routes --robot two_routes --episodes 1 --rate 50 --lead 1 --patience 20 --stall 9 --json"
    )
    assert result.status == 0 and json.loads(result.out)["episodes"] == 1


def test_a_robot_of_ones_own(small_run: Path, command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_arm.py").write_text(MY_ROBOT)
    monkeypatch.syspath_prepend(tmp_path)
    line = f"softflow-robot run run --robot my_arm:Arm --episodes 3 {PATIENT}"
    report = json.loads(command(f"{line} --robot-options.steps 4").out)
    assert (report["episodes"], report["success_rate"], report["deadlines"]) == (3, 1, 12)
    assert Path("stopped").read_text() == "xxx"
    assert "stepz" in command(f"{line} --robot-options.stepz 4").error()


def test_a_guard_judges_and_limits(small_run: Path, command: Any) -> None:
    rng = np.random.default_rng(1)
    seen, actions = rng.normal(size=(31, 3)), rng.uniform(-1, 1, (30, 1))
    save_demonstrations("held_out.npz", [Episode(seen, actions, np.ones(30), False, True, False)])
    assert command("softflow-guard run --demos held_out.npz --out guard --quantile 0.2 --rate-factor 0.01").status == 0
    report = json.loads(command(f"{LINE} {PATIENT} --guard guard --out hour.rec").out)
    assert report["guard"]["chunks"] >= 2
    rate = ChunkGuard.load("guard").limits.rate.item()
    for one in read_dataset("hour.rec").episodes:
        assert np.abs(np.diff(one.action, axis=0)).max() <= rate * (1 + 1e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("walk run --robot Pendulum-v1", "unknown command 'walk'"),
        ("run run", "--robot"),
        ("run nowhere --robot Pendulum-v1", "nowhere: no such run folder: give the folder of a run or, to learn"),
        ("run run --robot Pendulun-v1", "Pendulun-v1"),
        ("run run --robot nowhere:Arm", "cannot import 'nowhere'"),
        ("run run --robot wrong_mode --out hour.rec", "the robot has another task than the policy"),
        ("run run --robot Pendulum-v1 --episodes 0", "episodes must be at least 1, got 0"),
        ("run run --robot Pendulum-v1 --rate 0", "rate must be a positive number of hertz, got 0"),
        ("run run --robot Pendulum-v1 --lead -1", "lead must be at least 0"),
        ("run run --robot Pendulum-v1 --late never", "late"),
        ("run run --robot Pendulum-v1 --out small.yaml", "small.yaml exists; choose another --out"),
        ("run run --robot Pendulum-v1 --guard nowhere", "guard.json: no such file"),
    ],
)
def test_bad_input_is_refused(arguments: str, message: str, small_run: Path, command: Any, snapshot: Any) -> None:
    before = snapshot()
    assert message in command(f"softflow-robot {arguments}").error()
    assert snapshot() == before
