"""The pages for newcomers work when they are followed literally; only budgets are smaller here."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from softflow.data import load_dataset
from tests.cli.conftest import Command, Result

START = Path(__file__).parents[2] / "docs" / "start"
IMITATION = """\
num_envs: 2
num_demos: 3
eval_episodes: 2
threads: 1
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


def test_your_environment(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = START / "your-environment.md"
    (tmp_path / "my_task.py").write_text("\n".join(re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)))
    monkeypatch.syspath_prepend(tmp_path)
    results = follow(page, command)
    assert results["softflow-data check reach.npz --env my_task:Reach-v0"].out.endswith("nothing is wrong\n")
    assert [episode.is_success for episode in load_dataset("reach.npz").episodes] == [True] * 3
