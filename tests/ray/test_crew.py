"""Actors and nodes of a cluster are killed, full, or of another version."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import replace
from itertools import count

import pytest
import torch

from benchmarks.studies.kill_actors import ACTOR
from benchmarks.studies.processes import descendants
from softflow import __version__
from softflow.algos import Acting
from softflow.runs import ray_crew
from softflow.training.failures import EnvironmentErrors
from softflow.training.fleet import CrewFailed, Fleet
from tests.runs.learners import SIZES, configuration, learner

ray = pytest.importorskip("ray")


def crew_of(actors, **settings):
    config = configuration("softflow")
    run = replace(config.run, actors=actors, num_envs=2 * actors, threads=1, **settings)
    return ray_crew.RayCrew(ray, replace(config, run=run), *SIZES)


def fleet_of(crew):
    algorithm = learner(configuration("softflow"), 0)
    return Fleet(crew, count(7), algorithm, lambda: 0, 1, EnvironmentErrors(), lambda: None)


def actor_processes():
    return [one.number for one in descendants(os.getpid()) if one.command.startswith(ACTOR)]


def test_every_seed_is_returned_once_whatever_is_killed(cluster):
    node = cluster.add_node(num_cpus=2)
    crew = crew_of(actors=2)
    fleet, returned = fleet_of(crew), []

    def collect_until(condition):
        while not condition():
            returned.extend(episode.seed for episode in fleet.collect(1)[0])

    collect_until(lambda: len(returned) > 10 and crew.scalars()["actors/ready"] == 2)
    victim = actor_processes()[0]
    os.kill(victim, signal.SIGSTOP)
    enough = len(returned) + 10
    collect_until(lambda: len(returned) > enough)  # of the other; the victim keeps what it was given
    os.kill(victim, signal.SIGKILL)
    collect_until(lambda: crew.scalars()["actors/deaths"] == 1 and crew.scalars()["actors/ready"] == 2)
    assert 1 <= crew.scalars()["actors/lost_bouts"] <= 2
    cluster.remove_node(node, allow_graceful=False)
    node = cluster.add_node(num_cpus=2)
    enough = len(returned) + 10
    collect_until(lambda: crew.scalars()["actors/deaths"] == 3 and len(returned) > enough)
    last = max(returned + fleet.running_seeds)
    assert sorted(returned + fleet.running_seeds) == list(range(7, last + 1))
    crew.close()
    cluster.remove_node(node)


def test_a_node_that_is_cut_off_is_replaced_and_its_actor_ends(cluster):
    """Processes that are stopped do not answer, as if the network were cut."""
    node, crew = cluster.add_node(num_cpus=1), crew_of(actors=1)
    fleet = fleet_of(crew)
    returned = [episode.seed for episode in fleet.collect(1)[0]]
    (actor,) = (one for one in descendants(os.getpid()) if one.command.startswith(ACTOR))
    for number in (actor.parent, actor.number):
        os.kill(number, signal.SIGSTOP)
    other = cluster.add_node(num_cpus=1)
    while crew.scalars()["actors/deaths"] == 0:
        returned += [episode.seed for episode in fleet.collect(1)[0]]
    returned += [episode.seed for episode in fleet.collect(1)[0]]
    assert sorted(returned + fleet.running_seeds) == list(range(7, 7 + len(returned) + len(fleet.running_seeds)))
    for number in (actor.parent, actor.number):
        os.kill(number, signal.SIGCONT)
    end = time.monotonic() + 300
    while actor.number in actor_processes():
        assert time.monotonic() < end
        time.sleep(0.2)
    crew.close()
    cluster.remove_node(other)
    cluster.remove_node(node)


def test_without_room_for_an_actor_a_line_says_what_is_missing(cluster, monkeypatch, capsys):
    monkeypatch.setattr(ray_crew, "LONGEST_ABSENCE", 2.0)
    monkeypatch.setattr(ray_crew, "REMINDER", 0.5)
    missing = r"no actor was ready within 2 s; each needs 1 robot \(0 of 0 free\): set --actor-resources"
    with pytest.raises(CrewFailed, match=missing):
        crew_of(actors=1, actor_resources={"robot": 1.0})
    assert "waiting for the first actor; each needs 1 robot (0 of 0 free)\n" in capsys.readouterr().err


def test_networks_that_do_not_fit_into_the_store_are_refused(cluster, monkeypatch):
    node = cluster.add_node(num_cpus=1)
    crew = crew_of(actors=1)
    with pytest.raises(CrewFailed, match="the networks cannot be given to the actors"):
        crew.publish(Acting({"policy": {"weight": torch.zeros(50_000_000)}}, 1))
    monkeypatch.setattr(ray_crew, "__version__", "0.0.0")  # the actor that takes the place of another has another one
    os.kill(actor_processes()[0], signal.SIGKILL)
    with pytest.raises(CrewFailed, match=rf"has softflow {__version__}, but this run 0\.0\.0: install the same"):
        fleet_of(crew).collect(1)
    crew.close()
    cluster.remove_node(node)


def test_a_crew_whose_actors_die_again_and_again_gives_up(cluster, monkeypatch):
    node = cluster.add_node(num_cpus=1)
    monkeypatch.setattr(ray_crew, "DEATHS", 1)
    crew = crew_of(actors=1)
    hand_out = crew.hand_out

    def kill_first(bout):
        ray.kill(crew._ready[0])
        return hand_out(bout)

    monkeypatch.setattr(crew, "hand_out", kill_first)
    fleet = fleet_of(crew)
    with pytest.raises(CrewFailed, match="2 actors died without one whole bout"):
        fleet.collect(1)
    assert sorted(fleet.running_seeds) == [7, 8, 9, 10]  # nothing is lost: a checkpoint keeps them
    crew.close()
    cluster.remove_node(node)
