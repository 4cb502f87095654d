"""What a robot loads from the folder of a learner."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from softflow.errors import UserError
from softflow.policies import ChunkGuard
from softflow.runs.assembly import make_environment
from softflow.runs.served_learner import serve_learner, settings_of_learner
from softflow.settings.fields import to_dict
from softflow.task import TaskSpec
from softflow.training.spool import Published, Spool
from tests.runs.test_actor import configuration, learner


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    """A folder in which a learner has published."""
    config = configuration("softflow")
    spool = Spool(tmp_path / "spool")
    spool.describe(to_dict(config), TaskSpec.from_env(make_environment(config.run)))
    spool.publish(Published(learner(config, 0).acting(), [0, 1], 0))
    return spool


def test_a_robot_acts_by_the_newest_networks_from_one_episode_to_the_next(spool: Spool) -> None:
    config, task = settings_of_learner(str(spool.path))
    served, serve = serve_learner(str(spool.path), "cpu", None, seed=0)
    assert served.task == task and served.limits is None
    row, action = np.zeros(task.row_size, np.float32), np.zeros(task.action_dim)

    def drawn(previous: np.ndarray | None) -> np.ndarray:
        torch.manual_seed(0)
        proposal = serve(row, previous, 0).proposal
        np.testing.assert_array_equal(proposal.actions, task.native_actions(proposal.drawn))
        return proposal.drawn  # type: ignore[return-value]

    first = drawn(None)
    spool.publish(Published(learner(config, 1).acting(), [0], 10))
    np.testing.assert_array_equal(drawn(action), first)  # within the episode
    assert not np.array_equal(drawn(None), first)
    (spool.path / "acting.safetensors").unlink()
    drawn(None)  # the robot goes on with the networks that it has


def test_a_guard_of_another_task_is_refused(spool: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, task = settings_of_learner(str(spool.path))
    guards = []

    class Guard:
        def require_fit(self, deployed: object, name: str) -> None:
            guards.append((deployed.task, name))  # type: ignore[attr-defined]
            raise UserError("the guard is of another task than the policy")

    monkeypatch.setattr(ChunkGuard, "load", lambda folder, device: Guard())
    with pytest.raises(UserError, match="of another task"):
        serve_learner(str(spool.path), "cpu", "guard", seed=0)
    assert guards == [(task, "the guard")]
