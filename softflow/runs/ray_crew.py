"""Actors on Ray: processes on this machine or on the nodes of a cluster."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from softflow import __version__
from softflow.algos import Acting
from softflow.console import note, remark
from softflow.errors import UserError, one_line
from softflow.runs.actor import Actor
from softflow.runs.config import TrainConfig
from softflow.task.layout import ObservationSize
from softflow.training.config import RunConfig
from softflow.training.fleet import Bout, Crew, Returned

START = 120.0
"""Seconds within which the first actor must have started."""


class RayCrew(Crew):
    """Actors on Ray, which restarts those that die. Each has its own environments.

    Args:
        config: The configuration of the run.
        observation_dim, action_dim: The sizes of observations and actions.

    Raises:
        UserError: No actor can be started, or one runs another version of softflow.
    """

    def __init__(self, config: TrainConfig[Any], observation_dim: ObservationSize, action_dim: int) -> None:
        import ray

        run = config.run
        self.episodes_per_bout = -(-run.num_envs // run.actors)
        self._ray, self._ahead, self._lost = ray, run.actors_ahead, 0
        resources = dict(run.actor_resources)
        kind = ray.remote(
            num_cpus=resources.pop("CPU", 0),
            num_gpus=resources.pop("GPU", 0),
            resources=resources,
            max_restarts=-1,
        )(Actor)
        self._actors: list[Any] = [
            kind.remote(config, observation_dim, action_dim, self.episodes_per_bout) for _ in range(run.actors)
        ]
        self._given: dict[Any, tuple[int, int]] = {}  # the bout and the actor of each reference
        self._bouts = 0
        self._require_start(run)

    def publish(self, acting: Acting) -> None:
        self._acting = self._ray.put(acting)

    def vacancies(self) -> int:
        return self._ahead * len(self._actors) - len(self._given)

    def hand_out(self, bout: Bout) -> int:
        busy = [actor for _, actor in self._given.values()]
        actor = min(range(len(self._actors)), key=busy.count)
        self._bouts += 1
        self._given[self._actors[actor].execute.remote(bout, self._acting)] = self._bouts, actor
        return self._bouts

    def wait(self, seconds: float) -> list[tuple[int, Returned | None]]:
        references = list(self._given)
        self._ray.wait(references, timeout=seconds)
        ready, _ = self._ray.wait(references, num_returns=len(references), timeout=0)
        return [(self._given.pop(reference)[0], self._result(reference)) for reference in ready]

    def scalars(self) -> Mapping[str, float]:
        return {"actors/lost_bouts": float(self._lost)}

    def _result(self, reference: Any) -> Returned | None:
        errors = self._ray.exceptions
        try:
            return self._ray.get(reference)
        except errors.RayTaskError as error:  # of our own code in the actor
            raise error.as_instanceof_cause() from error
        except errors.RayError as error:  # of the actor, its node or the network
            self._lost += 1
            remark(f"a bout was lost and is handed out again: {one_line(error)}")
            return None

    def _require_start(self, run: RunConfig) -> None:
        """Wait for one actor to start, and compare its version. The others may join later."""
        versions = [actor.version.remote() for actor in self._actors]
        started, _ = self._ray.wait(versions, timeout=START)
        if not started:
            raise UserError(
                f"no actor has started within {START:.0f} s: the cluster has no node with {run.actor_resources} free "
                f"(it has {self._ray.available_resources()}): set --actor-resources, or --actors lower"
            )
        try:
            other = [version for version in self._ray.get(started) if version != __version__]
        except self._ray.exceptions.RayTaskError as error:
            raise error.as_instanceof_cause() from error
        if other:
            raise UserError(f"actors run softflow {other[0]}, but this process {__version__}: install the same")


@contextmanager
def crew_for(config: TrainConfig[Any], observation_dim: ObservationSize, action_dim: int) -> Iterator[RayCrew | None]:
    """Yield the actors of a run, None if it has none, and end them.

    Raises:
        UserError: Ray is not installed, the cluster cannot be reached, or no actor can be started.
    """
    run = config.run
    if not run.actors:
        yield None
        return
    try:
        import ray
    except ImportError as error:
        raise UserError("actors need Ray: pip install 'softflow[ray]'") from error
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    started = not ray.is_initialized()
    if started:
        try:
            _connect(ray, run)
        except Exception as error:  # Ray raises errors of many types
            raise UserError(f"cluster {run.cluster!r} cannot be used: {one_line(error)}") from error
    try:
        yield RayCrew(config, observation_dim, action_dim)
    finally:
        if started:
            ray.shutdown()


def _connect(ray: Any, run: RunConfig) -> None:
    """Start Ray on this machine, reachable from this machine alone, or join a cluster."""
    if run.cluster == "local":
        needed = run.actors * run.actor_resources.get("CPU", 0.0)
        cores = max(os.cpu_count() or 1, round(needed))  # more actors than cores take turns
        others = {n: run.actors * v for n, v in run.actor_resources.items() if n not in ("CPU", "GPU")}
        ray.init(
            num_cpus=cores,
            resources=others,
            include_dashboard=False,
            _node_ip_address="127.0.0.1",
            _system_config={"worker_niceness": 0},  # by default actors yield to all other processes
            log_to_driver=False,
            logging_level="error",
        )
        note(f"{run.actors} actors on this machine")
    else:
        ray.init(address=run.cluster, log_to_driver=False, logging_level="error")
        nodes = sum(node["Alive"] for node in ray.nodes())
        note(f"{run.actors} actors on a cluster of {nodes} nodes")
