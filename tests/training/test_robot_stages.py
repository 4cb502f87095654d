"""Robots that go on delivering episodes while the stages of a run change."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from softflow.algos.filtered_imitation import CollectionConfig, FilteredImitation, FilteredImitationConfig
from softflow.algos.settings import ImitationConfig
from softflow.data import Episode, Replay
from softflow.training import robots
from softflow.training.config import RunConfig
from softflow.training.loop import Trainer
from softflow.training.run_folder import RunFolder
from softflow.training.spool import Spool
from tests.robot.scripted import TASK
from tests.training.test_robots import LENGTH, record
from tests.training.vectors import side_by_side

ROUNDS = 2


def demonstration() -> Episode:
    action = np.random.default_rng(0).uniform(-1, 1, (10, 2))
    reward = np.array([*[-1.0] * 9, 0.0])
    return Episode(np.arange(11.0)[:, None], action, reward, True, False, True)


def make_trainer(path: Path, spool: Spool, counting: Any, resume: bool = False) -> Trainer:
    """Two rounds of collecting one episode, with a retraining after each."""
    torch.manual_seed(0)
    config = FilteredImitationConfig(
        flow="gaussian",
        flow_options={"width": 8, "depth": 1},
        horizon=2,
        n_action_steps=1,
        batch_size=8,
        imitation=ImitationConfig(updates=1),
        collection=CollectionConfig(rounds=ROUNDS, steps=LENGTH, updates=1),
    )
    algorithm = FilteredImitation(config, 1, 2)
    algorithm.fit_normalizer(torch.zeros(1), torch.ones(1))
    algorithm.fit_actions([demonstration()])
    algorithm.deployed.task = TASK
    run = RunConfig(env="none", robots=str(spool.path), reward="steps", eval_episodes=0, imitate="success")
    folder = RunFolder(path) if resume else RunFolder.create(path.parent, "toy", "filtered", seed=0, run_dir=path)
    vectors = (side_by_side([counting()], 1) for _ in range(2))
    trainer = Trainer(algorithm, [demonstration()], *vectors, folder, run, elsewhere=spool)
    if resume:
        trainer.resume()
    return trainer


@pytest.fixture
def spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Spool:
    monkeypatch.setattr(robots, "POLL", 0.001)
    return Spool(tmp_path / "spool")


@pytest.fixture
def learnt(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The seeds of the episodes that enter the replay of own ones."""
    seeds, add = list[int](), Replay.add_episode

    def noted(replay: Replay, episode: Episode) -> None:
        if episode.seed is not None:
            seeds.append(episode.seed)
        add(replay, episode)

    monkeypatch.setattr(Replay, "add_episode", noted)
    return seeds


def bring_one_before_each_retraining(trainer: Trainer, spool: Spool) -> None:
    """`b-1.rec` comes while the run retrains for the first time, `b-2.rec` in the second."""
    learner = trainer.algorithm.policy_learner  # type: ignore[attr-defined]
    reinitialize, number = learner.reinitialize, count(1)

    def begin() -> None:
        record(spool, f"b-{next(number)}.rec")
        reinitialize()

    learner.reinitialize = begin


def test_each_episode_is_learnt_in_one_stage(tmp_path: Path, spool: Spool, counting: Any, learnt: list[int]) -> None:
    record(spool, "a-1.rec")
    trainer = make_trainer(tmp_path / "run", spool, counting)
    bring_one_before_each_retraining(trainer, spool)
    trainer.run()
    assert len(learnt) == ROUNDS and trainer.data.online.steps == ROUNDS * LENGTH
    assert spool.episodes() == ["b-2.rec"], "the others are in a checkpoint"
    assert spool.published().updates == 2, "the second round acts with what the first retraining has learnt"


def test_a_learner_that_died_between_two_stages_learns_no_episode_twice(
    tmp_path: Path, spool: Spool, counting: Any, learnt: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its checkpoint has the episode, but the file is still where it was."""
    record(spool, "a-1.rec")
    trainer, keep = make_trainer(tmp_path / "run", spool, counting), Spool.keep

    def die(spool: Spool, names: Sequence[str]) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Spool, "keep", die)
    with pytest.raises(KeyboardInterrupt):
        trainer.run()
    assert spool.episodes() == ["a-1.rec"] and trainer.progress.stage == 2
    monkeypatch.setattr(Spool, "keep", keep)
    resumed = make_trainer(tmp_path / "run", spool, counting, resume=True)
    assert spool.episodes() == []
    bring_one_before_each_retraining(resumed, spool)
    resumed.run()
    assert len(learnt) == ROUNDS and resumed.data.online.steps == ROUNDS * LENGTH
