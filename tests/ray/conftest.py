"""A cluster whose nodes are processes on this machine."""

from __future__ import annotations

import os
import secrets

import pytest

from softflow.runs.ray_cluster import LOOPBACK

os.environ |= {**LOOPBACK, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}  # before `import ray`
FULL_DISK = {"local_fs_capacity_threshold": 0.0}
"""No object is moved to the disk, as if it were full."""
SAME_PRIORITY = {"worker_niceness": 0}
"""By default actors yield to all other processes, and a busy machine may not run them for minutes."""
SOON_DEAD = {"health_check_failure_threshold": 2}
"""A node that does not answer is taken for dead after two checks, which is less than half a minute."""


@pytest.fixture(scope="session")
def cluster():
    """A head, without room for actors, to which this process is connected."""
    import ray
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 0, "object_store_memory": 80 * 2**20, "_system_config": FULL_DISK | SAME_PRIORITY | SOON_DEAD}
    made = Cluster(initialize_head=True, head_node_args=head)
    ray.init(address=made.address, log_to_driver=False, logging_level="error")
    yield made
    ray.shutdown()
    made.shutdown()
