"""Actors on Ray: processes on this machine or on the nodes of a cluster."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from textwrap import shorten
from typing import Any

from softflow import __version__
from softflow.algos import Acting
from softflow.console import remark
from softflow.errors import UserError, one_line
from softflow.runs.actor import Actor
from softflow.runs.config import TrainConfig
from softflow.runs.ray_cluster import cluster_for
from softflow.task.layout import ObservationSize
from softflow.training.fleet import Bout, Crew, CrewFailed, Returned

LONGEST_ABSENCE = 300.0
"""Seconds without an actor after which the run gives up."""
REMINDER = 30.0
"""Seconds without an actor after which a line says what is waited for, and between two such lines."""
DEATHS = 5
"""Deaths of each actor, without a bout that any actor has returned in between, after which the run gives up."""


class RayCrew(Crew):
    """Actors on Ray. Each has its own environments. One that dies is replaced, wherever the cluster has room for it.

    Args:
        ray: The module, connected to a cluster.
        config: The configuration of the run.
        observation_dim, action_dim: The sizes of observations and actions.

    Raises:
        CrewFailed: No actor can be started, or one runs another version of softflow.
    """

    def __init__(self, ray: Any, config: TrainConfig[Any], observation_dim: ObservationSize, action_dim: int) -> None:
        run = config.run
        self.episodes_per_bout = -(-run.num_envs // run.actors)
        self._ray, self._ahead, self._needed = ray, run.actors_ahead, run.actor_resources
        others = {name: number for name, number in run.actor_resources.items() if name not in ("CPU", "GPU")}
        cpus, gpus = (run.actor_resources.get(name, 0) for name in ("CPU", "GPU"))
        self._kind = ray.remote(num_cpus=cpus, num_gpus=gpus, resources=others)(_RemoteActor)
        self._actor = config, observation_dim, action_dim, self.episodes_per_bout
        self._starting: dict[Any, Any] = {}  # the actor of each reference
        self._ready: list[Any] = []
        self._given: dict[Any, tuple[int, Any]] = {}  # the bout and the actor of each reference
        self._bouts = self._lost_bouts = self._deaths = self._deaths_in_a_row = 0
        self._absent_since, self._reminded_at = time.monotonic(), time.monotonic()
        for _ in range(run.actors):
            self._start_actor()
        try:
            while not self._ready:  # the others may join later
                self.wait(1.0)
        except BaseException:
            self.close()
            raise

    def publish(self, acting: Acting) -> None:
        try:
            self._acting = self._ray.put(acting)
        except self._ray.exceptions.RayError as error:  # the store and the disk are full
            raise CrewFailed(f"the networks cannot be given to the actors: {one_line(error)}") from error

    def vacancies(self) -> int:
        return sum(self._ahead - self._load(actor) for actor in self._ready)

    def hand_out(self, bout: Bout) -> int:
        actor = min(self._ready, key=self._load)
        self._bouts += 1
        self._given[actor.execute.remote(bout, self._acting)] = self._bouts, actor
        return self._bouts

    def wait(self, seconds: float) -> list[tuple[int, Returned | None]]:
        pending = [*self._starting, *self._given]
        self._ray.wait(pending, timeout=seconds)
        done, _ = self._ray.wait(pending, num_returns=len(pending), timeout=0)
        for reference in done:
            if reference in self._starting:
                self._welcome(reference)
        ended = [(*self._given.pop(reference), reference) for reference in done if reference in self._given]
        returned = [(number, self._result(reference, actor)) for number, actor, reference in ended]
        self._require_some()
        return returned

    def scalars(self) -> Mapping[str, float]:
        return {
            "actors/ready": float(len(self._ready)),
            "actors/deaths": float(self._deaths),
            "actors/lost_bouts": float(self._lost_bouts),
        }

    def close(self) -> None:
        for actor in [*self._ready, *self._starting.values()]:
            self._ray.kill(actor)

    def _load(self, actor: Any) -> int:
        return sum(other == actor for _, other in self._given.values())

    def _start_actor(self) -> None:
        actor = self._kind.remote()
        self._starting[actor.start.remote(__version__, *self._actor)] = actor

    def _welcome(self, reference: Any) -> None:
        """Take in an actor that has started, or replace it if it has died while it started."""
        actor = self._starting.pop(reference)
        try:
            self._get(reference)
        except self._ray.exceptions.RayError as error:
            self._replace(actor, error)
        else:
            self._ready.append(actor)

    def _result(self, reference: Any, actor: Any) -> Returned | None:
        try:
            returned: Returned = self._get(reference)
        except self._ray.exceptions.RayError as error:
            self._lost_bouts += 1
            if actor in self._ready:  # it may have been given several bouts
                self._ready.remove(actor)
                self._replace(actor, error)
            return None
        self._deaths_in_a_row = 0
        return returned

    def _get(self, reference: Any) -> Any:
        """Return what a reference stands for.

        Raises:
            RayError: It was lost with its actor, its node or the network.
            Exception: Our own code in the actor raised it.
        """
        try:
            return self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            raise error.cause from error  # it may be a `RayError` too: of the arguments, or of the store for the result

    def _replace(self, actor: Any, error: Exception) -> None:
        self._deaths += 1
        self._deaths_in_a_row += 1
        reason = reason_of(error)
        if self._deaths_in_a_row > DEATHS * (1 + len(self._ready) + len(self._starting)):
            raise CrewFailed(f"{self._deaths_in_a_row} actors died without one whole bout, the last so: {reason}")
        remark(f"an actor was lost, and its bouts are handed out again: {reason}")
        self._ray.kill(actor)  # it may still run, beyond a network that was cut
        self._start_actor()

    def _require_some(self) -> None:
        """Say what is waited for if no actor is ready. Raise `CrewFailed` if it takes too long."""
        now = time.monotonic()
        if self._ready:
            self._absent_since = self._reminded_at = now
            return
        has, free = self._ray.cluster_resources(), self._ray.available_resources()
        needed = ", ".join(
            f"{number:g} {name} ({free.get(name, 0):g} of {has.get(name, 0):g} free)"
            for name, number in self._needed.items()
        )
        if now - self._absent_since > LONGEST_ABSENCE:
            raise CrewFailed(
                f"no actor was ready within {LONGEST_ABSENCE:.0f} s; each needs {needed}: set --actor-resources, or "
                "add nodes to the cluster"
            )
        if now - self._reminded_at > REMINDER:
            self._reminded_at = now
            remark(f"waiting for the first actor; each needs {needed}")


def reason_of(error: Exception) -> str:
    """Say in one line why an actor was lost.

    If its process ended, the line says where its output is. Otherwise it is Ray's explanation, without the numbers that
    precede it.
    """
    text = " ".join(str(error).split())
    if (ended := PROCESS_ENDED.search(text)) is not None:
        number, node = ended.groups()
        return (
            f"process {number} of an actor on {node} ended, probably because its environment ended it or memory ran "
            f"out; its output is there, in {LOGS}/worker-*-{number}.err"
        )
    return shorten(text[max(0, text.find(DIED)) :], LONGEST_REASON, placeholder=" ...")


DIED = "The actor is dead because"
PROCESS_ENDED = re.compile(
    rf"pid: (\d+) .*ip: (\S+) {DIED} its worker process has died. Worker exit type: SYSTEM_ERROR"
)
"""What Ray says of a process that neither Ray nor Python ended."""
LOGS = "/tmp/ray/session_*/logs"
"""Where Ray keeps what processes write, unless it was started with another folder."""
LONGEST_REASON = 400
"""Characters; Ray lists what it might have been."""


class _RemoteActor:
    """An actor in a process of Ray. It is made empty, because Ray hides the errors of constructors."""

    def start(self, version: str, *actor: Any) -> None:
        """Make the `Actor` of the arguments.

        Raises:
            CrewFailed: The learner has another version of softflow, or this node lacks something.
        """
        node = socket.gethostname()
        if version != __version__:
            raise CrewFailed(
                f"the node {node} has softflow {__version__}, but this run {version}: install the same version on all "
                "nodes"
            )
        try:
            self._actor = Actor(*actor)
        except UserError as error:
            raise CrewFailed(f"an actor cannot start on the node {node}: {error}") from error

    def execute(self, bout: Bout, acting: Acting) -> Returned:
        return self._actor.execute(bout, acting)


@contextmanager
def crew_for(config: TrainConfig[Any], observation_dim: ObservationSize, action_dim: int) -> Iterator[RayCrew | None]:
    """Yield the actors of a run, None if it has none, and end them.

    Raises:
        UserError: Ray is not installed, the cluster cannot be reached, or no actor can be started.
    """
    if not config.run.actors:
        yield None
        return
    with cluster_for(config.run) as ray:
        crew = RayCrew(ray, config, observation_dim, action_dim)
        try:
            yield crew
        finally:
            crew.close()
