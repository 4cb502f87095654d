"""The loop with own episodes of different lengths: order, arms, proposals, and checkpoints of earlier versions."""

from __future__ import annotations

from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from softflow.algos import Stage
from softflow.data import Decision, Episode
from softflow.training.interruption import Interrupted
from softflow.training.loop import TRAINING_SEEDS
from softflow.training.run_folder import RunFolder
from tests.training.test_loop import IMITATION, OFFLINE, WARMUP, Run, assert_the_same_run, before_updates, interrupt_at

LENGTHS = (14, 3, 5, 4)
"""Lengths of own episodes by their seed."""


class Uneven(Run):
    """Own episodes of different lengths, of which the short ones end first. Those with an even seed succeed."""

    def __init__(self, counting: Any, path: Path, **settings: Any) -> None:
        super().__init__(counting, path, **settings)
        self.environments = [counting(lambda seed: LENGTHS[seed % len(LENGTHS)]) for _ in range(3)]


def test_episodes_are_received_in_the_order_of_their_start_and_stored_at_once(counting: Any, tmp_path: Path) -> None:
    run = Uneven(counting, tmp_path / "run")
    trainer = run.trainer()
    received, stored = list[Episode](), []

    def receive(episodes: list[Episode]) -> None:
        received.extend(episodes)
        stored.append(trainer.data.online.steps - sum(map(len, received)))

    trainer.algorithm.receive = receive  # type: ignore[method-assign]
    updates = []
    before_updates(trainer.algorithm, lambda: updates.append(len(received)))
    trainer.run()
    seeds = [episode.seed for episode in received]
    assert seeds == list(range(TRAINING_SEEDS, TRAINING_SEEDS + len(seeds))) and len(seeds) > 10
    assert max(stored) > 0 and min(stored) == 0  # some were held back, but not from the replay
    assert updates[IMITATION + WARMUP + OFFLINE] > 0  # no update before the first
    averaged = [value for stage, _, name, value in run.metrics() if name == "rollout/ep_len_mean"]
    assert TRAINING_SEEDS % len(LENGTHS) == 0 and averaged[0] == np.mean(LENGTHS)  # the short ones waited for the first


@pytest.mark.parametrize("update", [0, 12])
def test_interrupted_with_episodes_held_back_and_resumed_is_the_same_to_the_bit(
    update: int, restorable: Any, tmp_path: Path
) -> None:
    whole = Uneven(restorable, tmp_path / "whole")
    evaluations = whole.trainer().run()
    trainer = Uneven(restorable, tmp_path / "parted").trainer()
    interrupt_at(trainer.algorithm, IMITATION + WARMUP + OFFLINE + update)
    with pytest.raises(Interrupted):
        trainer.run()
    parted = Uneven(restorable, tmp_path / "parted")
    resumed = parted.trainer(resume=True, weights_seed=9)
    assert resumed.data.online.proposals == trainer.data.online.proposals > 0
    assert resumed.run() == evaluations
    assert_the_same_run(parted, whole)


def test_one_long_round_of_learning_goes_from_the_start_of_the_stage_to_its_end(counting: Any, tmp_path: Path) -> None:
    """All steps of the stage and a few more are executed before its first update."""
    trainer, progress = Uneven(counting, tmp_path / "run", collect_steps=120, eval_every=1000).trainer(), list[float]()
    schedule = trainer.algorithm.schedule

    def noting(stage: Stage) -> Stage:
        return replace(stage, update=lambda data, done: (progress.append(done), stage.update(data, done))[1])

    trainer.algorithm.schedule = lambda: list(map(noting, schedule()))  # type: ignore[method-assign]
    trainer.run()
    online = progress[IMITATION + WARMUP + OFFLINE :]
    assert len(online) >= 30 and online[0] < 0.05 and 0.9 < online[-1] < 1
    assert np.allclose(np.diff(online), 1 / len(online), atol=2e-3)


def test_the_actor_imitates_what_was_proposed(counting: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All proposals are 1.5: so is the own half of the actor's batches, but nothing that the critic values."""
    trainer = Uneven(counting, tmp_path / "run").trainer()
    algorithm, imitated, valued = trainer.algorithm, [], []
    explore, loss, update_critic = algorithm.explore, algorithm.actor.bc_loss, algorithm.update_critic

    def marked(observation: torch.Tensor, arms: torch.Tensor) -> Decision[torch.Tensor]:
        proposed = torch.full((len(observation), 4, 1), 1.5)
        return explore(observation, arms)._replace(chunk=proposed[:, :2].clamp(-1, 1), proposed=proposed)

    def bc_loss(observation: torch.Tensor, chunk: torch.Tensor, *rest: Any) -> torch.Tensor:
        imitated.append((chunk == 1.5).flatten(1).all(1).tolist())
        return loss(observation, chunk, *rest)

    def update(batch: Any) -> Any:
        valued.append(float(batch.chunk.max()))
        return update_critic(batch)

    def target_value(observation: torch.Tensor, chunks: torch.Tensor) -> torch.Tensor:
        valued.append(float(chunks.max()))
        return value(observation, chunks)

    value = algorithm.critic_learner.target_value
    monkeypatch.setattr(algorithm.critic_learner, "target_value", target_value)
    monkeypatch.setattr(algorithm, "explore", marked)
    monkeypatch.setattr(algorithm.actor, "bc_loss", bc_loss)
    monkeypatch.setattr(algorithm, "update_critic", update)
    trainer.run()
    assert imitated[-1] == [False] * 8 + [True] * 8
    assert max(valued) == 1.0


def test_arms_are_assigned_by_the_method(counting: Any, tmp_path: Path) -> None:
    trainer = Uneven(counting, tmp_path / "run").trainer()
    algorithm, numbers, received, asked = trainer.algorithm, count(), list[Episode](), set()
    explore = algorithm.explore

    def exploring(observation: torch.Tensor, arms: torch.Tensor) -> Any:
        assert arms.dtype == torch.int64
        asked.update(zip(observation[:, 0].int().tolist(), arms.tolist(), strict=True))
        return explore(observation, arms)

    algorithm.assign = lambda: next(numbers) % 3  # type: ignore[method-assign]
    algorithm.explore = exploring  # type: ignore[method-assign]
    algorithm.receive = received.extend  # type: ignore[method-assign]
    trainer.run()
    assert [episode.arm for episode in received] == [number % 3 for number in range(len(received))]
    assert {(episode.seed, episode.arm) for episode in received} <= asked


def test_a_run_of_an_earlier_version_goes_on(
    restorable: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its checkpoint has no proposals, arms, or episodes held back."""
    run = Uneven(restorable, tmp_path / "run")
    trainer = run.trainer()
    interrupt_at(trainer.algorithm, IMITATION + WARMUP + OFFLINE + 8)
    with pytest.raises(Interrupted):
        trainer.run()
    folder = RunFolder(run.path).last_checkpoint()
    saved = torch.load(folder / "training.pt", weights_only=True)
    state = saved["state"]
    state["recent"] = state.pop("own_episodes")["recent"]
    for episode in state["rollout"]:
        del episode["arm"], episode["episode"]["proposed_at"], episode["episode"]["proposed"], episode["episode"]["own"]
    torch.save(saved, folder / "training.pt")
    with np.load(folder / "replay.npz") as replay:
        arrays = {name: array for name, array in replay.items() if not name.startswith(("proposal", "imitable"))}
    np.savez(folder / "replay.npz", **arrays)

    resumed = Uneven(restorable, run.path).trainer(resume=True)
    assert "its own episodes so far are imitated as they were executed" in capsys.readouterr().out
    steps = resumed.data.online.steps
    assert resumed.data.online.imitable_steps == steps > 0 and resumed.data.online.proposals == 0
    resumed.run()
    assert resumed.progress.steps >= 120
    assert resumed.data.online.proposals > 0  # of the episodes since
