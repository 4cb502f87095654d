"""A cluster that cannot be joined."""

from __future__ import annotations

import inspect
import socket
import subprocess
import sys

import pytest

from softflow.runs.ray_cluster import NO_CLUSTER, require_cluster
from softflow.training.config import RunConfig

pytest.importorskip("ray")

JOIN = """
import sys
from softflow.runs.ray_cluster import cluster_for
from softflow.training.config import RunConfig
with cluster_for(RunConfig(actors=1, cluster=sys.argv[1])):
    pass
"""


def test_a_cluster_that_does_not_answer_is_refused():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # it does not listen
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        joined = subprocess.run([sys.executable, "-c", JOIN, address], capture_output=True, text=True, timeout=300)
    refused = f"softflow.errors.UserError: cluster '{address}' cannot be used: [Errno 111] Connection refused"
    assert joined.stderr.splitlines()[-1] == refused


def test_ray_still_says_so_if_it_finds_no_cluster():
    """A cluster of another user may run on this machine, so that `auto` would find it."""
    from ray._private import services

    assert NO_CLUSTER in inspect.getsource(services.canonicalize_bootstrap_address_or_die)


def test_a_cluster_without_the_resource_of_an_actor_says_so_before_it_is_waited_for(cluster, capsys):
    require_cluster(RunConfig(actors=1, actor_resources={"arm": 1.0}))
    assert capsys.readouterr().err == (
        "the cluster has room for 0 of 1 actors: each reserves 1 arm, and all nodes together have 0 CPU, 0 arm; the "
        "others start when more nodes have joined\n"
    )
