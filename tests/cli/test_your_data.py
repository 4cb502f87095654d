"""The commands of docs/how-to/datasets.md and lerobot.md, from a dataset of each format to an evaluated policy."""

from __future__ import annotations

import json
import re
from pathlib import Path

import gymnasium
import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest

from softflow.data import Episode, load_dataset
from tests.cli.conftest import Command
from tests.formats.hdf5_datasets import columns, write_minari, write_robomimic

HOW_TO = Path(__file__).parents[2] / "docs/how-to"

ROBOT = """\
import gymnasium

for name in ("Reach-v0", "Lift-v0"):
    gymnasium.register(name, "softflow.envs.diagnostics.tasks:TwoRoutesEnv")
"""


def documented(heading: str) -> list[str]:
    """The commands of the first block under a heading, without the installation."""
    page = "lerobot.md" if heading == "# LeRobot datasets" else "datasets.md"
    text = "\n" + (HOW_TO / page).read_text()
    block = text.partition(f"\n{heading}\n")[2].split("```console\n")[1].split("```")[0]
    lines = [line.removeprefix("$ ") for line in block.splitlines()]
    return [line for line in lines if not line.startswith("pip ")]


def hops(number: int) -> list[Episode]:
    """Episodes of random actions of Hopper-v5, which end where it falls."""
    env, episodes = gymnasium.make("Hopper-v5"), list[Episode]()
    env.action_space.seed(0)
    for seed in range(number):
        observations, actions, rewards, terminated = [env.reset(seed=seed)[0]], [], [], False
        while not terminated:
            actions.append(env.action_space.sample())
            observation, reward, terminated, _, _ = env.step(actions[-1])
            observations.append(observation)
            rewards.append(float(reward))
        arrays = np.array(observations), np.array(actions), np.array(rewards)
        episodes.append(Episode(*arrays, terminated=True, truncated=False, is_success=False))
    return episodes


@pytest.fixture
def home(tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder with the datasets that the page speaks of, and the user's package of environments."""
    (tmp_path / "my_robot.py").write_text(ROBOT)
    monkeypatch.syspath_prepend(tmp_path)
    assert command("softflow-demo --env two_routes --episodes 4 --out d.npz").status == 0
    assert command("softflow-data convert d.npz datasets/reach --to lerobot --rate 10").status == 0
    Path("lift").mkdir()
    write_robomimic(Path("lift/low_dim.hdf5"), load_dataset("d.npz").episodes)
    write_minari(tmp_path / ".minari/datasets/mujoco/hopper/expert-v0", hops(4))
    with h5py.File("hopper_medium-v2.hdf5", "w") as file:
        file.update(columns(hops(4)))
    return tmp_path


def test_successes_are_marked_by_hand(command: Command, home: Path) -> None:
    """lerobot-record stores no column of successes. Those who know them say which episodes failed."""
    for path in Path("datasets/reach").rglob("*.parquet"):
        table = pq.read_table(path)
        pq.write_table(table.drop_columns([name for name in table.column_names if name.startswith("next.")]), path)
    about = json.loads(Path("datasets/reach/meta/info.json").read_text())
    about["features"] = {name: one for name, one in about["features"].items() if not name.startswith("next.")}
    Path("datasets/reach/meta/info.json").write_text(json.dumps(about))
    assert "0 successes" in command("softflow-data info datasets/reach").out
    _, code, _ = re.findall(r"```python\n(.*?)```", (HOW_TO / "lerobot.md").read_text(), re.DOTALL)
    exec(code, {})
    assert [episode.is_success for episode in load_dataset("marked.npz").episodes] == [True, True, True, False]
    train = "softflow-train --algo imitation --env my_robot:Reach-v0 --demos marked.npz --reward sparse --run-dir run"
    result = command(f"{train} --imitation.updates 2 --eval-episodes 0 --flow-options.width 8")
    assert result.status == 0 and "3 of 4 demonstrations are successes" in result.out, result


@pytest.mark.parametrize("heading", ["# LeRobot datasets", "## D4RL", "## robomimic", "## Minari"])
def test_a_dataset_becomes_an_evaluated_policy(heading: str, command: Command, home: Path) -> None:
    train, evaluate = documented(heading)
    words = [word.replace("~", str(home)) for word in re.findall(r'"([^"]*)"|(\S+)', train) for word in word if word]
    result = command(words[0], *words[1:], "--config", "small.yaml")
    assert result.status == 0, result
    result = command(evaluate.replace("100", "3"))
    assert result.status == 0 and "on 3 held-out episodes" in result.out, result
