"""A cluster that cannot be joined."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest

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
