"""Runs with actors, here of this process, with which they begin, end, and go on."""

from __future__ import annotations

from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest

from softflow.data import Replay
from softflow.runs import training
from softflow.runs.actor import Actor
from softflow.training.fleet import Crew, CrewFailed
from softflow.training.interruption import Interrupted
from softflow.training.loop import TRAINING_SEEDS, Trainer

RUN = "softflow-train --env two_routes --config small.yaml --run-dir run --online.steps 300 --num-envs 4"


class HereCrew(Crew):
    """An actor of this process. It fails after some bouts."""

    episodes_per_bout = 2

    def __init__(self, config, observation_dim, action_dim, bouts):
        self.actor, self.left = Actor(config, observation_dim, action_dim, 2), bouts
        self.given, self.numbers = {}, count()

    def publish(self, acting):
        self.acting = acting

    def vacancies(self):
        return 2 - len(self.given)

    def hand_out(self, bout):
        self.given[number := next(self.numbers)] = bout
        return number

    def wait(self, seconds):
        if not self.left:
            raise CrewFailed("no actor is left")
        self.left -= 1
        number = min(self.given)
        return [(number, self.actor.execute(self.given.pop(number), self.acting))]


@pytest.fixture
def seeds(monkeypatch):
    """Replaces Ray by `HereCrew`, and lists the episodes that enter the replay by their seeds."""
    entered, add = [], Replay.add_episode

    def noted(replay, episode):
        if episode.seed is not None and episode.seed >= TRAINING_SEEDS:
            entered.append(episode.seed - TRAINING_SEEDS)
        return add(replay, episode)

    monkeypatch.setattr(Replay, "add_episode", noted)
    return entered


@pytest.fixture
def actors(monkeypatch):
    """The actors of the next runs fail after so many bouts."""

    def limit(bouts):
        @contextmanager
        def crew_for(config, *sizes):
            yield HereCrew(config, *sizes, bouts) if config.run.actors else None

        monkeypatch.setattr(training, "crew_for", crew_for)

    return limit


def test_a_run_that_loses_its_actors_goes_on_without_them(command, actors, seeds):
    actors(bouts=3)
    failed = command(f"{RUN} --actors 1")
    assert failed.status == 2
    assert failed.err.endswith("error: no actor is left; then --resume run\n")
    entered = len(seeds)
    assert entered <= 6
    resumed = command("softflow-train --resume run --actors 0")
    assert resumed.status == 0, resumed
    assert "unfinished episodes are begun anew" in resumed.out
    assert sorted(seeds) == list(range(len(seeds))) and len(seeds) > entered


def test_a_run_that_is_interrupted_goes_on_with_actors(command, actors, seeds, monkeypatch):
    actors(bouts=100)

    def interrupt(trainer, between=Trainer._between_rounds):
        between(trainer)
        if trainer.progress.steps >= 100:
            raise Interrupted(2)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_between_rounds", interrupt)
        assert command(RUN).status == 130
    resumed = command("softflow-train --resume run --actors 2 --publish-every 2")
    assert resumed.status == 0, resumed
    assert "unfinished episodes are begun anew: actors execute whole episodes" in resumed.out
    assert "actors/staleness" in Path("run/metrics.csv").read_text()
    assert len(set(seeds)) == len(seeds)


def test_what_an_actor_reserves_must_be_a_number_that_can_be_had(command):
    for number in ("-1", ".inf"):
        refused = command(f"{RUN} --actors 1 --actor-resources.robot {number}")
        assert "actor_resources.robot must be 0 or more" in refused.error()


def test_a_cluster_has_a_port(command):
    for cluster in ("head", "head:", "loacl"):
        refused = command(f"{RUN} --actors 1 --cluster {cluster}")
        assert f"cluster must be local, auto or HOST:PORT, got '{cluster}'" in refused.error()
