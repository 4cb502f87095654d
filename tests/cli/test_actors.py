"""Runs with actors, here of this process, with which they begin, end, and go on."""

from __future__ import annotations

import os
import socket
import sys
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from softflow.data import Replay
from softflow.errors import UserError
from softflow.runs import training
from softflow.runs.actor import Actor
from softflow.runs.ray_cluster import NO_CLUSTER
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
        monkeypatch.setattr(training, "require_cluster", lambda run: None)

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
    assert "unfinished episodes are restarted" in resumed.out
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
    assert "unfinished episodes are restarted, because actors execute whole episodes" in resumed.out
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


@pytest.fixture
def ray(monkeypatch):
    """Stands in for Ray, which is not connected, on a machine with two cores and no GPU."""
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    fake = SimpleNamespace(is_initialized=lambda: False, shutdown=lambda: None)
    monkeypatch.setitem(sys.modules, "ray", fake)
    return fake


def test_more_actors_than_environments_are_refused(command):
    refused = command(f"{RUN} --actors 1000")
    advice = "give --actors 4 or fewer, or --num-envs 1000 or more\n"
    assert refused.error() == f"error: 1000 actors share 4 environments, and each needs one at least: {advice}"
    assert not Path("run").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            "--actors 1 --actor-resources.robot 1",
            "--actors 1 reserves 1 robot, and this machine has 2 CPU, 0 GPU: leave out --actor-resources.robot, or "
            "join a cluster that has it, --cluster HOST:PORT",
        ),
        (
            "--actors 2 --actor-resources.CPU 1 --actor-resources.GPU 0.5",
            "--actors 2 reserves 1 GPU, and this machine has 2 CPU, 0 GPU: leave out --actor-resources.GPU, or join a "
            "cluster that has it, --cluster HOST:PORT",
        ),
        (
            "--actors 2 --actor-resources.GPU 1",
            "--actors 2 reserves 2 GPU, and this machine has 2 CPU, 1 GPU: give --actors 1 or fewer, or "
            "--actor-resources.GPU 0.5 or less, so that all fit",
        ),
        (
            "--actors 3 --actor-resources.CPU 0.5 --actor-resources.GPU 0.6",
            "--actors 3 reserves 1.8 GPU, and this machine has 2 CPU, 2 GPU: give --actors 2 or fewer, or "
            "--actor-resources.GPU 0.5 or less, so that all fit",
        ),
    ],
)
def test_actors_that_reserve_more_than_this_machine_has_are_refused(command, ray, monkeypatch, flags, message):
    gpus = int(message.partition("has 2 CPU, ")[2][0])
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert command(f"{RUN} {flags}").error() == f"error: {message}\n"


def test_more_actors_than_cores_take_turns(command, ray):
    def start(num_cpus, **options):
        raise RuntimeError(f"it would start with {num_cpus} cores")

    ray.init = start
    turns = "{} cores, and this machine has 2: they take turns\n"
    for flags, reserved, cores in (
        ("", 4, 4),
        ("--actor-resources.CPU 0.6", 2.4, 3),
        ("--actor-resources.CPU 0.5", 2, 2),
    ):
        refused = command(f"{RUN} --actors 4 {flags}")
        assert refused.err.endswith(f"error: cluster 'local' cannot be used: it would start with {cores} cores\n")
        assert (f"4 actors reserve {turns.format(reserved)}" in refused.err) == (reserved > 2)


def test_a_cluster_is_checked_before_demonstrations_are_recorded(command, ray, monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # it does not listen
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        refused = command(f"{RUN} --actors 1 --cluster {address}")
    assert f"cluster '{address}' cannot be used: [Errno 111] Connection refused" in refused.error()
    assert refused.out == ""
    monkeypatch.setitem(sys.modules, "ray", None)  # as if it were not installed
    refused = command(f"{RUN} --actors 1")
    assert refused.error() == "error: actors and clusters need Ray: pip install 'softflow[ray]'\n"
    assert refused.out == ""


def test_without_a_cluster_on_this_machine_the_error_names_our_flags(command, ray):
    def join(**options):
        raise ConnectionError(f"{NO_CLUSTER}. Please specify the one to connect to by setting `--address` flag")

    ray.init = join
    error = command(f"{RUN} --actors 1 --cluster auto").error()
    assert "no cluster of Ray runs on this machine: start one with ray start --head, give --cluster HOST:PORT" in error
    assert "or leave out --cluster" in error and "--address" not in error


def test_a_cluster_with_too_little_room_is_joined_and_the_lack_is_said(command, ray):
    """Machines may join it later."""
    nodes = [{"Alive": True, "Resources": {"CPU": 3.0}}, {"Alive": False, "Resources": {"CPU": 8.0}}]
    ray.init, ray.nodes = lambda **options: None, lambda: nodes

    def end(**options):
        raise UserError("the test ends here")

    ray.remote = end
    said = command(f"{RUN} --actors 4 --cluster auto").err
    assert said.startswith(
        "the cluster has room for 3 of 4 actors: each reserves 1 CPU, and all nodes together have 3 CPU; the others "
        "start when more nodes have joined\n"
    )
