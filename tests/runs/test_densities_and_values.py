"""What the page about policies shows of densities and values of chunks, on a small run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import softflow

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "policies.md"
SMALL: dict[str, Any] = {
    "num_envs": 2, "num_demos": 4, "eval_episodes": 2, "collect_steps": 40, "threads": 1, "batch_size": 16,
    "critic_width": 8, "flow_options": {"layers": 2, "width": 8, "components": 2}, "imitation": {"updates": 4},
    "warmup": {"updates": 2}, "offline": {"updates": 2}, "online": {"steps": 40},
}  # fmt: skip


def test_the_example_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    softflow.train("softflow", env="two_routes", run_dir="runs/two_routes", **SMALL)
    [code] = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(code, "policies.md", "exec"), names)
    flow_policy, critic, chunks = names["flow_policy"], names["critic"], names["chunks"]
    horizon = flow_policy.horizon
    assert chunks.shape == (2, 16, horizon, 2) and critic.horizon < horizon
    assert names["log_prob"].shape == (2, 16) and names["q"].shape == (critic.members, 2, 16)
    back = names["policy"].task.unit_actions(names["actions"])
    np.testing.assert_allclose(back, chunks.clamp(-1, 1), atol=1e-5)
    features = flow_policy.features(names["observation"])
    torch.testing.assert_close(names["log_prob"], flow_policy.flow.log_prob(chunks, features))
