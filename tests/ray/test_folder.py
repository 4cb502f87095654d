"""The folder of a learner and its robots in a cluster: nothing is lost, whoever goes and comes back."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from softflow.algos import Acting
from softflow.data.recording import Recording
from softflow.runs.ray_folder import ROBOT
from softflow.task import ActionPart, ObservationPart, TaskSpec
from softflow.training.spool import ACTING, Published, Spool
from tests.ray.conftest import SAME_PRIORITY

pytest.importorskip("ray")
TASK = TaskSpec((ObservationPart("joints", (2,)),), (ActionPart("target", (-1.0,), (1.0,)),))
PATIENCE = 120
"""Seconds: a machine may be busy."""


@pytest.fixture(scope="module")
def address():
    """A cluster whose only node has a robot. This process is not connected to it."""
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 0, "resources": {ROBOT: 1}, "_system_config": SAME_PRIORITY}
    made = Cluster(initialize_head=True, head_node_args=head)
    yield made.address
    made.shutdown()


@pytest.fixture
def start(address, tmp_path, monkeypatch):
    """`start("link", "copy")` starts a command of softflow-robot in the folder of the test."""
    monkeypatch.chdir(tmp_path)
    started = []

    def run(*words):
        line = [sys.executable, "-m", "softflow.cli.robot", *words, "--cluster", address]
        with Path(f"{words[0]}.log").open("ab") as log:
            started.append(subprocess.Popen(line, stdout=log, stderr=log))
        return started[-1]

    yield run
    for one in started:
        one.kill()
        one.wait()


def wait_for(is_there):
    end = time.monotonic() + PATIENCE
    while not is_there():
        assert time.monotonic() < end, "".join(path.read_text() for path in Path().glob("*.log"))
        time.sleep(0.1)


def learner(folder, updates):
    """A folder with networks of so many updates, as a learner publishes them."""
    spool = Spool(folder)
    spool.describe({"algorithm": "softflow"}, TASK)
    spool.publish(Published(Acting({}, 1), [0], updates))
    return spool


def record(folder, name):
    """An episode of a robot, as it brings it to the folder that it knows."""
    recording = Recording(Path(folder, "episodes", name), TASK)
    for _ in range(3):
        recording.step(np.zeros(2, np.float32), np.zeros(1, np.float32))
    recording.end(np.ones(2, np.float32), True, True)
    recording.close()


def names(folder):
    return {path.name for path in Path(folder).glob("*.rec")}


def test_networks_go_there_and_episodes_come_back_whoever_is_killed(start):
    spool = learner("spool", updates=1)
    linking = start("link", "copy")
    wait_for(lambda: "the cluster has no learner's folder" in Path("link.log").read_text())
    record("copy", "a.rec")  # while the learner is away
    serving = start("serve", "spool")
    wait_for(lambda: names("spool/episodes") == {"a.rec"})
    assert Path("spool/episodes/a.rec").read_bytes() == Path("copy/episodes/a.rec").read_bytes()
    assert Spool("copy").published().updates == 1 and Spool("copy").described()[1] == TASK

    spool.keep(["a.rec"])  # a checkpoint contains it
    wait_for(lambda: names("copy/learnt") == {"a.rec"} and not names("copy/episodes"))
    learner("spool", updates=2)
    wait_for(lambda: Spool("copy").published().updates == 2)

    serving.kill()
    serving.wait()
    record("copy", "b.rec")
    wait_for(lambda: "the learner is out of reach" in Path("link.log").read_text())
    assert linking.poll() is None
    linking.kill()
    linking.wait()
    record("copy", "c.rec")
    start("serve", "spool")
    start("link", "copy")
    wait_for(lambda: names("spool/episodes") == {"b.rec", "c.rec"})
    assert len(spool.episodes()) == 2 and all(spool.read(name).is_success for name in spool.episodes())


def test_a_robot_has_one_link_and_a_folder_one_name(start):
    learner("spool", 1)
    learner("other", 2)
    start("serve", "spool")
    first = start("link", "copy")
    wait_for(lambda: Path("copy", ACTING).is_file())
    second = start("serve", "other", "--name", "spool")
    assert second.wait(PATIENCE) == 2
    assert "another folder is served as 'spool': end that" in Path("serve.log").read_text()
    start("serve", "other")
    start("link", "again")
    wait_for(lambda: "waiting for the robot of this node, which another link may have" in Path("link.log").read_text())
    first.kill()
    wait_for(lambda: "several folders: give --name, one of" in Path("link.log").read_text())


def test_the_link_says_why_an_episode_is_not_taken(start):
    spool = learner("spool", 1)
    start("serve", "spool")
    start("link", "copy")
    wait_for(lambda: Path("copy", ACTING).is_file())
    record("copy", "new name.rec")
    wait_for(lambda: "the learner's machine cannot take it: not the name of" in Path("link.log").read_text())
    Path("copy/episodes/new name.rec").rename("copy/episodes/new_name.rec")
    wait_for(lambda: spool.episodes() == ["new_name.rec"])


def test_bad_input_is_refused(start):
    for words, message in (
        (("serve", "nowhere"), "nowhere is no folder of a learner: start softflow-train --robots nowhere first"),
        (("link", "copy", "--cluster", "here"), "cluster must be auto or HOST:PORT, got 'here'"),
    ):
        line = [sys.executable, "-m", "softflow.cli.robot", *words]
        started = start(*words) if "--cluster" not in words else subprocess.Popen(line, stderr=subprocess.PIPE)
        assert started.wait(PATIENCE) == 2
        said = Path(f"{words[0]}.log").read_text() if started.stderr is None else started.stderr.read().decode()
        assert message in said
