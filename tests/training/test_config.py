"""Settings of a run that are refused."""

from __future__ import annotations

from typing import Any

import pytest

from softflow.training.config import RunConfig


@pytest.mark.parametrize(
    "setting", ["num_envs", "num_demos", "eval_every", "log_every", "collect_steps", "threads", "publish_every"]
)
def test_settings_of_zero_are_refused(setting: str) -> None:
    with pytest.raises(ValueError, match=f"{setting} must be at least 1, got 0"):
        RunConfig(**{setting: 0})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"actors": -1}, "actors must be at least 0, got -1"),
        ({"eval_episodes": -1}, "eval_episodes must be at least 0, got -1"),
        ({"actor_resources": {"CPU": -1.0}}, "actor_resources.CPU must be 0 or more, got -1.0"),
        ({"actors": 2, "robots": "spool", "reward": "sparse"}, "actors and robots both act"),
        ({"robots": "spool"}, "robots know whether an episode succeeded"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RunConfig(**settings)
