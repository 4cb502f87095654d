"""softflow-robot on a robot of LeRobot, by its type. The packages are small ones with lerobot's interface."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import gymnasium
import numpy as np
import pytest

from softflow.data import Episode, read_dataset, save_demonstrations
from tests.cli.conftest import SMALL, Command
from tests.robot.lerobot_arm import write_packages

NAMES = "{observation: [lift.pos, pan.pos, grip.pos], action: [wheel.vel, pan.pos, lift.pos, grip.pos]}"
LINE = "softflow-robot run run --rate 20 --lead 1 --seconds 0.5 --episodes 2 --patience 20 --stall 9 --json --robot"
FOUR_ACTIONS = """
import gymnasium
import numpy as np

class Joints(gymnasium.Env):
    metadata = {"render_modes": [], "control_rate": 20}
    observation_space = gymnasium.spaces.Box(-1, 1, (3,))
    action_space = gymnasium.spaces.Box(-90, 90, (4,))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(3, np.float32), {}

    def step(self, action):
        return np.zeros(3, np.float32), 0.0, False, False, {"is_success": False}

gymnasium.register("Joints-v0", "joints_task:Joints", max_episode_steps=5)
"""


@pytest.fixture(autouse=True)
def lerobot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Packages in place of lerobot, and a person who answers each question with y."""
    write_packages(tmp_path / "packages")
    (tmp_path / "packages" / "joints_task.py").write_text(FOUR_ACTIONS)
    monkeypatch.syspath_prepend(tmp_path / "packages")
    present = set(sys.modules)
    reader, writer = os.pipe()

    def remark(text: str) -> None:
        print(text, file=sys.stderr)
        if text.endswith("Enter"):
            os.write(writer, b"y\n")

    with os.fdopen(reader) as stdin, os.fdopen(writer, "wb"):
        monkeypatch.setattr("sys.stdin", stdin)
        monkeypatch.setattr("softflow.robot.person.remark", remark)
        yield
    gymnasium.registry.pop("Joints-v0", None)
    for name in set(sys.modules) - present:
        if name.partition(".")[0] in ("lerobot", "draccus", "joints_task"):
            del sys.modules[name]


@pytest.fixture
def run(command: Command) -> None:
    rng = np.random.default_rng(0)
    episodes = [
        Episode(rng.normal(size=(6, 3)), rng.uniform(-1, 1, (5, 4)), np.zeros(5), False, True, False) for _ in range(4)
    ]
    save_demonstrations("demos.npz", episodes)
    Path("imitate.yaml").write_text(SMALL.partition("critic")[0] + "imitation: {updates: 4}\n")
    settings = "--env joints_task:Joints-v0 --config imitate.yaml --algo imitation --run-dir run --demos demos.npz"
    assert command(f"softflow-train {settings}").status == 0


@pytest.mark.parametrize("kind", ["small_arm", "plugin_arm"])
def test_episodes_on_a_robot_of_lerobot(kind: str, run: None, command: Command) -> None:
    options = ("--robot-options.names", NAMES, "--robot-options.log", "sent.txt")
    result = command(f"{LINE} lerobot:{kind} --out hour.rec", *options)
    assert result.status == 0, result.err
    report = json.loads(result.out)
    assert report["episodes"] == 2 and report["success_rate"] == 1 and report["deadlines"] == 20
    episodes, task = read_dataset("hour.rec")
    assert task is not None and [len(episode) for episode in episodes] == [10, 10]
    sent = [json.loads(line) for line in Path("sent.txt").read_text().splitlines()]
    assert len(sent) == 22  # with one more at each stop
    native = task.native_actions(episodes[0].action)
    for action, commanded in zip(native, sent, strict=False):
        names = ("wheel.vel", "pan.pos", "lift.pos", "grip.pos")
        assert [commanded[name] for name in names] == pytest.approx(action.tolist(), rel=1e-5, abs=1e-4)
    assert sent[10] == sent[9] | {"wheel.vel": 0.0}


@pytest.mark.parametrize(
    ("robot", "options", "message"),
    [
        ("small_arn", (), "lerobot has no robot 'small_arn': did you mean 'small_arm'?"),
        ("small_arm", ("--robot-options.prt", "x"), "robot 'lerobot:small_arm': The fields `prt` are not valid"),
        ("small_arm", (), "observation 'observation' has 3 numbers, but none of them has a name: give the robot's"),
    ],
)
def test_bad_input_is_refused(robot: str, options: tuple[str, ...], message: str, run: None, command: Command) -> None:
    assert message in command(f"{LINE} lerobot:{robot}", *options).error()
