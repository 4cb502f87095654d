"""Kill actors and nodes of a cluster at random while a run trains on it, and count what becomes of its episodes.

    python -m benchmarks.studies.kill_actors --kills 20 --minutes 10 -- --env two_routes --preset diagnostic \
        --run-dir runs/killed --actors 4 --num-envs 20 --threads 1 --online.steps 2000000

The nodes are processes on this machine. Each has room for half of the actors. A killed node is replaced by a new one.
Arguments after `--` are passed to `softflow-train`. The run should last longer than the kills; `--minutes` is the time
from the first own episode to the last kill. Exit status 0 means that the run ended well, that each seed that was handed
out was returned once or was still in progress at the end, and that no process or shared-memory file is left.
"""

from __future__ import annotations

import argparse
import os
import random
import secrets
import signal
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any
from unittest.mock import patch

from benchmarks.studies.processes import Process, descendants, processes
from softflow.cli import train
from softflow.data import Episode
from softflow.runs.ray_cluster import LOOPBACK
from softflow.training.fleet import Fleet

ACTOR = "ray::_RemoteActor"
"""How the processes of actors are called."""


class Ledger:
    """The seeds of a run's own episodes: those that were returned, and those that are still handed out."""

    def __init__(self) -> None:
        self.returned: list[int] = []
        self.running: list[int] = []
        self.began = threading.Event()

    def collect(self, fleet: Fleet, steps: int) -> tuple[list[Episode], int]:
        episodes, executed = _collect(fleet, steps)
        self.returned += [episode.seed for episode in episodes if episode.seed is not None]
        self.running = fleet.running_seeds
        self.began.set()
        return episodes, executed

    @property
    def is_balanced(self) -> bool:
        """Whether every seed from the first to the last was returned once, or is in progress once."""
        seeds = sorted(self.returned + self.running)
        return bool(seeds) and seeds == list(range(seeds[0], seeds[0] + len(seeds)))


_collect = Fleet.collect


class Killer:
    """Kills actors and nodes of a cluster.

    Args:
        cluster: The cluster.
        room: Actors that each node has room for.
    """

    def __init__(self, cluster: Any, room: int) -> None:
        self._cluster, self._room = cluster, room
        self.killed: Counter[str] = Counter()
        for _ in range(2):
            cluster.add_node(num_cpus=room)

    def kill(self) -> None:
        """Kill an actor or, if there is none or chance wants it, a node, in whose place another one comes."""
        actors = [one for one in descendants(os.getpid()) if one.command.startswith(ACTOR)]
        if actors and random.random() < 0.5:
            os.kill(random.choice(actors).number, signal.SIGKILL)
            self.killed["actors"] += 1
        else:
            self._cluster.remove_node(random.choice(list(self._cluster.worker_nodes)), allow_graceful=False)
            self._cluster.add_node(num_cpus=self._room)
            self.killed["nodes"] += 1


def main() -> int:
    split = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    own, passed_on = sys.argv[1:split], sys.argv[split + 1 :]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="number of actors and nodes to kill")
    parser.add_argument("--minutes", type=float, default=10, help="minutes over which they are killed")
    parser.add_argument("--room", type=int, default=2, help="actors that each of the two nodes has room for")
    parser.add_argument("--seed", type=int, default=0, help="random seed of what is killed, and when")
    arguments = parser.parse_args(own)
    random.seed(arguments.seed)
    before, shared_before = {one.number for one in _of_this_session()}, _shared_memory()
    os.environ |= {**LOOPBACK, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    import ray
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 0, "_system_config": {"worker_niceness": 0}}  # by default actors yield to all other processes
    cluster, ledger = Cluster(initialize_head=True, head_node_args=head), Ledger()
    killer = Killer(cluster, arguments.room)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="error")
    pause = 60 * arguments.minutes / arguments.kills
    with (
        patch.object(Fleet, "collect", lambda fleet, steps: ledger.collect(fleet, steps)),
        ThreadPoolExecutor() as pool,
    ):
        training = pool.submit(train.main, [*passed_on, "--cluster", cluster.address])
        training.add_done_callback(lambda _: ledger.began.set())  # it may fail before
        ledger.began.wait()
        while killer.killed.total() < arguments.kills:
            wait([training], timeout=pause * random.uniform(0.5, 1.5))
            if training.done():
                break
            killer.kill()  # in the main thread, as Ray wants it
        status = training.result()
    ray.shutdown()
    cluster.shutdown()
    left = [one for one in _of_this_session() if one.number not in before]
    shared = _shared_memory() - shared_before
    print(f"exit status {status}; killed: {dict(killer.killed)}")
    print(f"episodes: {len(ledger.returned)} returned, {len(ledger.running)} in progress at the end")
    print(f"each seed once: {ledger.is_balanced}")
    print(f"left behind: processes {left}, shared memory {sorted(shared)}")
    return int(bool(status or not ledger.is_balanced or left or shared))


def _of_this_session() -> list[Process]:
    return [one for one in processes() if one.session == os.getsid(0)]


def _shared_memory() -> set[str]:
    return {path.name for path in Path("/dev/shm").iterdir()}


if __name__ == "__main__":
    sys.exit(main())
