"""The cluster that a run uses: Ray on this machine, for this run alone, or a cluster that runs already."""

from __future__ import annotations

import math
import os
import secrets
import signal
import socket
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch

from softflow.console import note, remark
from softflow.errors import UserError, one_line
from softflow.training.config import RunConfig

LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""Ray reads this variable when it is imported. A cluster that it starts then listens on the loopback interface alone.
Ray's argument for that, `_node_ip_address="127.0.0.1"`, is replaced by the address of the machine."""
NO_CLUSTER = "Could not find any running Ray instance"
"""How Ray's error begins if `auto` finds no cluster. It goes on with flags that softflow does not have."""
ANSWER = 10.0
"""Seconds within which the head of a cluster must answer."""


def require_cluster(run: RunConfig) -> None:
    """Check that the actors of a run can start. Nothing has been read or recorded when this is called.

    A line says so if a cluster has room for some of the actors only, because nodes may join it later.

    Raises:
        UserError: There are fewer environments than actors, this machine lacks what they reserve, Ray is not installed,
            or the cluster cannot be reached.
    """
    if not run.actors:
        return
    if run.actors > run.num_envs:
        more = "" if run.resume else f", or --num-envs {run.actors} or more"
        raise UserError(
            f"{run.actors} actors share {run.num_envs} environments, and each needs one at least: give --actors "
            f"{run.num_envs} or fewer{more}"
        )
    ray = _imported(run.cluster == "local")
    if run.cluster == "local" and not ray.is_initialized():
        _require_resources(run)
        return
    with connected(run.cluster, run):
        if (lacking := lack_of_room(run, ray.nodes())) is not None:
            remark(lacking)


def lack_of_room(run: RunConfig, nodes: Iterable[Mapping[str, Any]]) -> str | None:
    """Say for how many actors the nodes of a cluster have room, whatever else uses them. None if it is for all.

    Args:
        run: The settings.
        nodes: The nodes as Ray describes them.
    """
    resources = [node["Resources"] for node in nodes if node["Alive"]]
    reserved = {name: number for name, number in run.actor_resources.items() if number}
    if not reserved:
        return None
    room = sum(min(_times(name, number, has.get(name, 0)) for name, number in reserved.items()) for has in resources)
    if room >= run.actors:
        return None
    has = {name: sum(one.get(name, 0) for one in resources) for name in ["CPU", *reserved]}
    return (
        f"the cluster has room for {room} of {run.actors} actors: each reserves {_listed(reserved)}, and all nodes "
        f"together have {_listed(has)}; the others start when more nodes have joined"
    )


def _require_resources(run: RunConfig) -> None:
    """Raise `UserError` if actors reserve more than this machine has. Ray would let them wait without an end.

    More actors than cores are allowed, and a line says so, because actors whose environments wait can share a core.
    """
    cores = os.cpu_count() or 1
    has = {"CPU": float(cores), "GPU": float(torch.cuda.device_count())}
    for name, each in run.actor_resources.items():
        available, flag = has.get(name, 0.0), f"--actor-resources.{name}"
        if (fitting := _times(name, each, available)) >= run.actors:
            continue
        if name == "CPU":
            reserved = f"{run.actors} actors reserve {run.actors * each:g} cores"
            remark(f"{reserved}, and this machine has {cores}: they take turns")
            continue
        problem = f"--actors {run.actors} reserves {run.actors * each:g} {name}, and this machine has {_listed(has)}"
        if not available:
            raise UserError(f"{problem}: leave out {flag}, or join a cluster that has it, --cluster HOST:PORT")
        fewer = f"--actors {fitting} or fewer, or " if fitting else ""
        share = available / run.actors if name != "GPU" else 1 / math.ceil(run.actors / available)
        share = math.floor(1e4 * share) / 1e4
        raise UserError(f"{problem}: give {fewer}{flag} {share:g} or less, so that all fit")


def _times(name: str, each: float, available: float) -> int | float:
    """Return how often an amount of a resource is available. Ray distinguishes steps of 0.0001.

    Actors may share one GPU, but none has parts of two.
    """
    if not each:
        return math.inf
    if name == "GPU" and each <= 1:
        return int(available) * math.floor(1 / each + 1e-6)
    return math.floor(available / each + 1e-6)


def _listed(resources: Mapping[str, float]) -> str:
    return ", ".join(f"{number:g} {name}" for name, number in resources.items())


@contextmanager
def cluster_for(run: RunConfig) -> Iterator[Any]:
    """Connect to the cluster of a run, yield the module `ray`, and disconnect. A local cluster is started and ended.

    If this process is connected already, that cluster is used, and the connection stays.

    Raises:
        UserError: Ray is not installed, or the cluster cannot be reached.
    """
    each = -(-run.num_envs // run.actors)
    with connected(run.cluster, run) as ray:
        where = "this machine"
        if run.cluster != "local":
            where = f"a cluster of {sum(node['Alive'] for node in ray.nodes())} nodes"
        note(f"{run.actors} actors on {where}, each with {each} environment{'s' if each > 1 else ''}")
        yield ray


@contextmanager
def connected(cluster: str, run: RunConfig | None = None) -> Iterator[Any]:
    """Connect to a cluster, see `cluster_for`. Only `local` needs the run."""
    is_local = run is not None and cluster == "local"
    ray = _imported(is_local)
    if ray.is_initialized():
        yield ray
        return
    try:
        with _own_sigterm():
            _start(ray, run) if run is not None and is_local else _join(ray, cluster)
    except Exception as error:  # Ray raises errors of many types
        if cluster == "auto" and NO_CLUSTER in str(error):
            alone = "" if run is None else ", or leave out --cluster, so that Ray is started for this run alone"
            raise UserError(
                "cluster 'auto' cannot be used: no cluster of Ray runs on this machine: start one with ray start "
                f"--head, give --cluster HOST:PORT of another one{alone} (docs/how-to/scale.md)"
            ) from error
        raise UserError(f"cluster {cluster!r} cannot be used: {one_line(error)}") from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _imported(is_local: bool) -> Any:
    """Import Ray. Raise `UserError` if it is not installed."""
    try:
        with _environment(LOOPBACK if is_local else {}):
            import ray
    except ImportError as error:
        raise UserError("actors and clusters need Ray: pip install 'softflow[ray]'") from error
    return ray


def _start(ray: Any, run: RunConfig) -> None:
    """Start Ray on this machine. Other machines cannot reach it, and other users do not know its token."""
    reserved = math.ceil(run.actors * run.actor_resources.get("CPU", 0.0))
    with _environment(
        {**LOOPBACK, "RAY_AUTH_TOKEN": _token(), "RAY_USAGE_STATS_ENABLED": "0"}, without="RAY_AUTH_MODE"
    ):
        ray.init(
            address="local",
            num_cpus=max(os.cpu_count() or 1, reserved),
            include_dashboard=False,
            _system_config={"worker_niceness": 0},  # by default actors yield to all other processes
            log_to_driver=False,
            logging_level="error",
        )


def _join(ray: Any, cluster: str) -> None:
    if cluster != "auto":  # Ray itself tries for minutes
        host, _, port = cluster.rpartition(":")
        socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER).close()
    ray.init(address=cluster, log_to_driver=False, logging_level="error")


@cache
def _token() -> str:
    """Return the token of this process's clusters. Ray keeps the first that it reads."""
    return secrets.token_hex(32)


@contextmanager
def _environment(values: Mapping[str, str], without: str | None = None) -> Iterator[None]:
    """Set environment variables inside the block, for Ray and the processes that it starts, and leave one out."""
    before = {name: os.environ.get(name) for name in [*values, *([without] if without else [])]}
    os.environ.update(values)
    if without:
        os.environ.pop(without, None)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """Keep the handler of SIGTERM, which Ray replaces."""
    in_main_thread = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if in_main_thread and before is not None:
            signal.signal(signal.SIGTERM, before)
