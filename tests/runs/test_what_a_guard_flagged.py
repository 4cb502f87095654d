"""What docs/how-to/guard.md shows about the steps that a guard flags, on a recording of a small run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import softflow
from softflow.data.recording import Recording
from softflow.policies import ChunkGuard

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "guard.md"
SMALL: dict[str, Any] = {
    "num_envs": 2, "num_demos": 6, "eval_episodes": 2, "threads": 1, "batch_size": 16, "imitation": {"updates": 4},
    "flow_options": {"layers": 2, "width": 8, "components": 2},
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:the guard flags few chunks")  # hardly anything is imitated
def test_the_steps_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """In an episode that is a demonstration up to its end, where a sensor breaks."""
    monkeypatch.chdir(tmp_path)
    run = softflow.train("imitation", env="two_routes", run_dir="RUN", **SMALL)
    held_out = softflow.record_demonstrations("two_routes", 8, seed=1)
    run.make_guard(held_out).save("guard")
    policy, guard = softflow.load("RUN", guard="guard"), ChunkGuard.load("guard")
    assert policy.task is not None
    recording, episode = Recording("hour.rec", policy.task), held_out.episodes[0]
    broken = (len(episode) - 1) // policy.n_action_steps * policy.n_action_steps  # the last decision
    for step, action in enumerate(episode.action):
        recording.step(episode.observation[step] + np.float32([0, 1000 * (step == broken)]), action)
    recording.end(episode.observation[-1], terminated=True, is_success=True)
    recording.close()
    _, code = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    capsys.readouterr()
    exec(compile(code, "guard.md", "exec"), {})
    first, *lines = capsys.readouterr().out.splitlines()
    assert first.startswith(f"flagged below {guard.threshold:.1f} nats, unfamiliar beyond a distance of")
    found = {int(match[1]): match[2] for line in lines if (match := re.match(r"episode 0, step (\d+), .*: (.*)", line))}
    assert set(found) <= set(range(0, len(episode), policy.n_action_steps)) and "unfamiliar" in found[broken]
    assert re.match(r"  distance \d{3,}\.\d\d: observation\[1\] \+\d{3,}\.\d, observation\[0\] ", lines[-1])
