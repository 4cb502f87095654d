"""Throughput of actors on Ray: how it grows with their number, and what they gain on this machine.

    python -m benchmarks.timing.actors growth --step 0.05 --actors 1 8 24
    python -m benchmarks.timing.actors machine --env tape_cut --actors 1 2 4 --rounds 3

`growth` simulates a cluster of three nodes with room for eight actors each, as processes of this machine. Its
environments wait in every step and compute nothing, so what limits the growth is the engine, or the cores that the
policies of all actors share. The efficiency of n actors is their throughput by n times that of one.

`machine` compares actors with the local loop, whose environments run in processes of their own (`vectorization_mode:
async`), interleaved, with the same number of environments in all.
"""

from __future__ import annotations

import argparse
import os
import secrets
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from itertools import count
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Box

from softflow.algos import Algorithm
from softflow.data import Episode
from softflow.runs.assembly import make_algorithm, make_environments
from softflow.runs.config import TrainConfig, config_class
from softflow.runs.ray_cluster import LOOPBACK
from softflow.runs.ray_crew import RayCrew
from softflow.settings.presets import Selection, preset_layers
from softflow.settings.typed import from_layers
from softflow.task import TaskSpec
from softflow.training.experience import explorer
from softflow.training.failures import EnvironmentErrors
from softflow.training.fleet import Fleet
from softflow.training.rollout import Rollout

NODES, ROOM = 3, 8
"""Nodes of the simulated cluster, and actors that each has room for."""
LENGTH = 20
"""Steps of an episode of `Waiting`."""


class Waiting(gymnasium.Env[Any, Any]):
    """Waits in every step, as a simulator or a robot lets the policy wait."""

    observation_space, action_space = Box(-1, 1, (8,)), Box(-1, 1, (4,))

    def __init__(self, seconds: float = 0.05) -> None:
        self._seconds = seconds

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self._steps = 0
        return np.zeros(8, np.float32), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        time.sleep(self._seconds)
        self._steps += 1
        return np.zeros(8, np.float32), 0.0, False, self._steps >= LENGTH, {}


if "Waiting-v0" not in gymnasium.registry:  # this module may be the main one as well
    gymnasium.register("Waiting-v0", entry_point=Waiting)


def configuration(env: str, options: Mapping[str, Any], actors: int, environments: int) -> TrainConfig[Any]:
    """Return the configuration of a run with small networks."""
    selection = Selection(algo="softflow", env=env, preset="diagnostic")
    config = from_layers(config_class(selection), preset_layers(selection))
    run = replace(
        config.run, env=env, env_options=dict(options), actors=actors, num_envs=environments, threads=1,
        vectorization_mode="async",
    )  # fmt: skip
    return replace(config, run=run)


def learner(config: TrainConfig[Any]) -> tuple[Algorithm, TaskSpec]:
    """Return the method, whose policy is not trained, and the task."""
    with closing(make_environments(replace(config.run, vectorization_mode="sync"), 1, 1)) as environments:
        task = TaskSpec.from_env(environments)
    algorithm = make_algorithm(config, task.observation_size, task.action_dim)
    algorithm.fit_normalizer(torch.zeros(task.row_size), torch.ones(task.row_size))
    action = np.random.default_rng(0).uniform(-1, 1, (50, task.action_dim))
    algorithm.fit_actions([Episode(np.zeros((51, task.row_size)), action, np.zeros(50), True, False, True)])
    return algorithm, task


def throughput_of_actors(ray: Any, config: TrainConfig[Any], seconds: float) -> float:
    """Return the environment steps of all actors per second, once each has executed a bout."""
    algorithm, task = learner(config)
    acting = algorithm.acting()
    with closing(RayCrew(ray, config, task.observation_size, task.action_dim)) as crew:
        fleet = Fleet(crew, count(), algorithm.assign, lambda: acting, lambda: 0, 1, EnvironmentErrors(), lambda: None)
        while crew.scalars()["actors/ready"] < config.run.actors:
            fleet.collect(1)
        fleet.collect(config.run.num_envs * LENGTH * 2)
        begun, steps = time.perf_counter(), 0
        while (passed := time.perf_counter() - begun) < seconds:
            steps += fleet.collect(1)[1]
        return steps / passed


def throughput_of_loop(config: TrainConfig[Any], seconds: float) -> float:
    """Return the environment steps per second of a local loop that does not learn."""
    algorithm, _ = learner(config)
    with closing(make_environments(config.run, config.run.num_envs, algorithm.n_action_steps)) as environments:
        explore = explorer(algorithm, config.run.device)
        rollout = Rollout(environments, count(), EnvironmentErrors(), algorithm.assign)
        rollout.execute_chunks(explore)
        begun, steps = time.perf_counter(), 0
        while (passed := time.perf_counter() - begun) < seconds:
            steps += rollout.execute_chunks(explore)[1]
        return steps / passed


@contextmanager
def nodes(number: int, room: int) -> Iterator[Any]:
    """Yield the module `ray`, connected to a cluster of so many nodes, which are processes of this machine."""
    os.environ |= {**LOOPBACK, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    import ray
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 0, "_system_config": {"worker_niceness": 0}}  # by default actors yield to all other processes
    cluster = Cluster(initialize_head=True, head_node_args=head)
    for _ in range(number):
        cluster.add_node(num_cpus=room)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="error")
    try:
        yield ray
    finally:
        ray.shutdown()
        cluster.shutdown()


def growth(step: float, actors: Sequence[int], seconds: float) -> None:
    print("| actors | steps per second | efficiency |\n|---|---|---|", flush=True)
    with nodes(NODES, ROOM) as ray:
        of_one: float | None = None
        for number in actors:
            config = configuration("benchmarks.timing.actors:Waiting-v0", {"seconds": step}, number, number)
            rate = throughput_of_actors(ray, config, seconds)
            of_one = rate / number if of_one is None else of_one
            print(f"| {number} | {rate:,.0f} | {rate / number / of_one:.2f} |", flush=True)


def machine(env: str, actors: Sequence[int], environments: int, seconds: float, rounds: int) -> None:
    ratios: dict[int, list[float]] = {number: [] for number in actors}
    with nodes(1, max(actors)) as ray:
        for _ in range(rounds):
            loop = throughput_of_loop(configuration(env, {}, 0, environments), seconds)
            for number in actors:
                config = configuration(env, {}, number, environments)
                ratios[number].append(throughput_of_actors(ray, config, seconds) / loop)
    print(f"| actors | throughput by that of the local loop, {env} |\n|---|---|")
    for number, found in ratios.items():
        print(f"| {number} | {statistics.median(found):.2f} ({min(found):.2f} to {max(found):.2f}) |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["growth", "machine"])
    parser.add_argument("--actors", type=int, nargs="+", default=[1, 2, 4, 8, 24], help="numbers of actors")
    parser.add_argument("--seconds", type=float, default=20.0, help="duration of each measurement")
    parser.add_argument("--step", type=float, default=0.05, help="seconds of a step, for growth")
    parser.add_argument("--env", default="tape_cut", help="environment, for machine")
    parser.add_argument("--environments", type=int, default=16, help="number of environments, for machine")
    parser.add_argument("--rounds", type=int, default=3, help="number of interleaved rounds, for machine")
    given = parser.parse_args()
    if given.what == "growth":
        growth(given.step, given.actors, given.seconds)
    else:
        machine(given.env, given.actors, given.environments, given.seconds, given.rounds)


if __name__ == "__main__":
    main()
