"""The pages for newcomers work when they are followed literally; only budgets are smaller here."""

from __future__ import annotations

import re
from pathlib import Path

import h5py
import numpy as np
import pytest

from softflow.data import load_dataset
from tests.cli.conftest import Command, Result

START = Path(__file__).parents[2] / "docs" / "start"
IMITATION = """\
num_envs: 2
num_demos: 3
eval_episodes: 2
threads: 1
horizon: 4
n_action_steps: 2
batch_size: 16
flow_options: {layers: 2, width: 8, components: 2}
imitation: {updates: 4}
"""
BUDGETS = re.compile(r" --(imitation\.updates|preset|num-demos|online\.steps) \S+")


def follow(page: Path, command: Command) -> dict[str, Result]:
    """Run the softflow commands of a page in order. Options in quotes are kept together."""
    Path("imitation.yaml").write_text(IMITATION)
    results = {}
    for line in re.findall(r"^\$ (softflow-.*?)(?: *#.*)?$", page.read_text(encoding="utf-8"), re.MULTILINE):
        words = [word.strip('"') for word in re.findall(r'"[^"]*"|\S+', BUDGETS.sub("", line).partition(" | ")[0])]
        settings = "imitation.yaml" if "imitation" in words else "small.yaml"
        small = ["--config", settings] if words[0] == "softflow-train" else []
        results[line] = command(words[0], *["3" if word in ("50", "100", "20") else word for word in words[1:]], *small)
        assert results[line].status == 0, (line, results[line].err)
    return results


def test_your_data(command: Command) -> None:
    results = follow(START / "your-data.md", command)
    assert results["softflow-data check data.npz --env two_routes"].out.endswith("nothing is wrong\n")
    assert Path("runs/robot/checkpoints/last").is_file()


def test_a_dataset_in_the_units_of_a_robot_is_described_by_hand(command: Command) -> None:
    rng = np.random.default_rng(0)
    with h5py.File("arm.hdf5", "w") as file:
        for number in range(3):
            arrays = {"actions": 7, "obs/joints": 6, "obs/goal": 6, "next_obs/joints": 6, "next_obs/goal": 6}
            for name, size in arrays.items():
                file[f"data/demo_{number}/{name}"] = rng.uniform(0, 0.08 if name == "actions" else 3, (20, size))
            file[f"data/demo_{number}/actions"][:, :6] *= 30
            for name in ("rewards", "dones"):
                file[f"data/demo_{number}/{name}"] = np.arange(20) == 19
    refused = command("softflow-data info arm.hdf5").error()
    assert "actions reach" in refused and "or describe the robot with a TaskSpec (docs/start/your-data.md)" in refused
    [code] = re.findall(r"```python\n(.*?)```", (START / "your-data.md").read_text(), re.DOTALL)
    exec(code, {})
    told = command("softflow-data info described.npz")
    assert told.status == 0 and "gripper" in told.out and "task: without a name, 20 Hz" in told.out, told
    Path("imitation.yaml").write_text(IMITATION)
    trained = command(
        "softflow-train --algo imitation --env none --demos described.npz --config imitation.yaml --run-dir run"
    )
    assert trained.status == 0, trained.err


def test_your_environment(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = START / "your-environment.md"
    (tmp_path / "my_task.py").write_text("\n".join(re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)))
    monkeypatch.syspath_prepend(tmp_path)
    results = follow(page, command)
    assert results["softflow-data check reach.npz --env my_task:Reach-v0"].out.endswith("nothing is wrong\n")
    assert [episode.is_success for episode in load_dataset("reach.npz").episodes] == [True] * 3
    assert Path("reach.mp4").is_file()
