"""Rounds of takeovers, from softflow-demo to softflow-train."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from softflow.data import load_demonstrations, save_demonstrations
from softflow.envs import tasks
from softflow.training.checkpoint import load_policy
from softflow.training.run_folder import RunFolder
from tests.cli.test_correct import PendulumSupervisor
from tests.cli.training_runs import stages_of

SMALL = "--num-envs 2 --num-demos 4 --eval-episodes 2 --threads 1 --n-action-steps 2 --batch-size 16"
HG_DAGGER = f"softflow-train --algo hg_dagger {SMALL} --imitation.updates 3"
RL = f"softflow-train --algo takeover_rl {SMALL} --critic-width 8 --warmup.updates 2 --offline.updates 2"
SOLVED = "--success return>=-1e9"


@pytest.fixture(autouse=True)
def supervisor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(tasks._tasks, "Pendulum-v1", tasks.Task("Pendulum-v1", supervisor=PendulumSupervisor))


def test_a_second_round_takes_over_from_the_policy_of_the_first(small_run: Path, command: Any) -> None:
    """Its run keeps the episodes of both rounds, and can be resumed without their files."""
    record = f"softflow-demo {SOLVED} --episodes 2"
    assert command(f"{record} --corrections run --out round1.npz").status == 0
    first = command(f"{HG_DAGGER} --base run --corrections round1.npz --run-dir first")
    assert first.status == 0 and "round1.npz: 2 of 2 episodes were taken over" in first.err + first.out, first
    assert command(f"{record} --corrections first --out round2.npz --seed 1").status == 0
    second = command(f"{RL} --base first --corrections round1.npz round2.npz --run-dir second")
    assert second.status == 0, second
    kept, rounds = load_demonstrations("second/corrections.npz"), ("round1.npz", "round2.npz")
    recorded = [episode for path in rounds for episode in load_demonstrations(path)]
    assert [episode.seed for episode in kept] == [5_000_000, 5_000_001, 5_010_000, 5_010_001]
    for one, other in zip(kept, recorded, strict=True):
        np.testing.assert_array_equal(one.human, other.human)
        np.testing.assert_array_equal(one.action, other.action)
    assert stages_of("second") == ["critic_warmup", "offline"]


def test_corrections_of_two_rounds_are_resumed_to_the_bit(
    small_run: Path, command: Any, demonstrations: Path, takeovers: Path
) -> None:
    shutil.copy(takeovers, "second.npz")
    line = f"softflow-train --algo correction {SMALL} --base run --corrections {takeovers} second.npz"
    assert command(f"{line} --correction.updates 6 --run-dir whole").status == 0
    shutil.copytree("whole", "resumed")
    first = sorted(Path("resumed/checkpoints").glob("[0-9]*"))[0]
    (Path("resumed/checkpoints") / "last").write_text(first.name)
    shutil.rmtree("run")
    takeovers.unlink()
    assert command("softflow-train --resume resumed").status == 0
    whole, resumed = (
        load_policy(RunFolder.open(run).last_checkpoint()).policy.state_dict() for run in ("whole", "resumed")
    )
    assert all(torch.equal(tensor, whole[name]) for name, tensor in resumed.items())


def test_takeovers_are_demonstrations_as_well(command: Any, small_run: Path) -> None:
    """With the chunks that the policy proposed, which are not imitated."""
    assert command(f"softflow-demo {SOLVED} --episodes 2 --corrections run --out t.npz").status == 0
    line = f"softflow-train --algo imitation {SMALL} --env Pendulum-v1 --demos t.npz --horizon 4 --imitate success"
    result = command(f"{line} --imitation.updates 2 --flow-options.width 8 --run-dir shown")
    assert result.status == 0, result
    kept = load_demonstrations("shown/demonstrations.npz")
    assert all(episode.human.any() and episode.proposals is not None for episode in kept)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--corrections none.npz", "none.npz: no such file"),
        ("--corrections t.npz nobody.npz", "corrections nobody.npz: nobody took over in its 3 episodes"),
        ("--corrections failed.npz", "corrections failed.npz: none of them ended in success"),
        ("--corrections c.npz", "corrections c.npz: they are decisions alone: give whole episodes"),
        ("--corrections t.npz --human-share 2", "human_share must be in (0, 1], got 2"),
        ("", "--corrections"),
    ],
)
def test_what_cannot_be_learnt_from(
    flags: str, message: str, corrections: Path, takeovers: Path, command: Any, snapshot: Callable
) -> None:
    episodes = load_demonstrations(takeovers)
    save_demonstrations("failed.npz", [episode for episode in episodes if not episode.is_success])
    save_demonstrations("nobody.npz", [replace(episode, human=None) for episode in episodes])
    before = snapshot()
    assert message in command(f"{HG_DAGGER} --base run --run-dir new {flags}").error()
    assert snapshot() == before
