"""The cluster that a run uses: Ray on this machine, for this run alone, or a cluster that runs already."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any

from softflow.console import note
from softflow.errors import UserError, one_line
from softflow.training.config import RunConfig

LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""Ray reads this variable when it is imported. A cluster that it starts then listens on the loopback interface alone.
Ray's argument for that, `_node_ip_address="127.0.0.1"`, is replaced by the address of the machine."""
ANSWER = 10.0
"""Seconds within which the head of a cluster must answer."""


@contextmanager
def cluster_for(run: RunConfig) -> Iterator[Any]:
    """Connect to the cluster of a run, yield the module `ray`, and disconnect. A local cluster is started and ended.

    If this process is connected already, that cluster is used, and the connection stays.

    Raises:
        UserError: Ray is not installed, or the cluster cannot be reached.
    """
    with connected(run.cluster, run) as ray:
        if run.cluster == "local":
            note(f"{run.actors} actors on this machine")
        else:
            nodes = sum(node["Alive"] for node in ray.nodes())
            note(f"{run.actors} actors on a cluster of {nodes} nodes")
        yield ray


@contextmanager
def connected(cluster: str, run: RunConfig | None = None) -> Iterator[Any]:
    """Connect to a cluster, see `cluster_for`. Only `local` needs the run."""
    try:
        with _environment({} if run is None or cluster != "local" else LOOPBACK):
            import ray
    except ImportError as error:
        raise UserError("a cluster needs Ray: pip install 'softflow[ray]'") from error
    if ray.is_initialized():
        yield ray
        return
    try:
        with _own_sigterm():
            _join(ray, cluster) if run is None or cluster != "local" else _start(ray, run)
    except Exception as error:  # Ray raises errors of many types
        raise UserError(f"cluster {cluster!r} cannot be used: {one_line(error)}") from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _start(ray: Any, run: RunConfig) -> None:
    """Start Ray on this machine. Other machines cannot reach it, and other users do not know its token."""
    needed = run.actors * run.actor_resources.get("CPU", 0.0)
    cores = max(os.cpu_count() or 1, round(needed))  # more actors than cores take turns
    others = {n: run.actors * v for n, v in run.actor_resources.items() if n not in ("CPU", "GPU")}
    with _environment(
        {**LOOPBACK, "RAY_AUTH_TOKEN": _token(), "RAY_USAGE_STATS_ENABLED": "0"}, without="RAY_AUTH_MODE"
    ):
        ray.init(
            address="local",
            num_cpus=cores,
            resources=others,
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
