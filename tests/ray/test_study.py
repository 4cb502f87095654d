"""softflow-study on a cluster: its runs are tasks on the nodes, which end and go on as processes of one machine do."""

from __future__ import annotations

import csv
import os
import signal
import threading
import time
from pathlib import Path

import pytest

pytest.importorskip("ray")

from softflow.cli.study import main
from softflow.errors import UserError
from softflow.studies.jobs import Job
from softflow.studies.ray_runner import _run

STUDY = ["study", "--algos", "imitation", "--envs", "two_routes", "--cluster", "auto", "--episodes", "3", "--grid"]
STUDY += ["imitation.updates=5,1e8", "--retries", "1"]
FLAGS = "-- --preset diagnostic --threads 1 --num-demos 2 --eval-episodes 2 --save-minutes 0.02".split()
SHORT, LONG = (Path(f"study/two_routes/imitation_imitation.updates={number}_s0") for number in (5, 100_000_000))
PATIENCE = 600
"""Seconds: a machine may be busy."""


@pytest.fixture
def node(cluster, tmp_path, monkeypatch):
    """A node with room for two runs, and the folder in which the study is."""
    monkeypatch.chdir(tmp_path)
    added = cluster.add_node(num_cpus=2)
    cluster.wait_for_nodes()
    yield added
    cluster.remove_node(added)


def wait_for(condition):
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


def holder(run):
    """The process that uses a run folder."""
    return int(next((run / "lock").iterdir()).name.partition("-")[0])


def test_runs_end_with_a_checkpoint_and_go_on(node, capfd):
    def interrupt():
        wait_for(lambda: (LONG / "checkpoints" / "last").is_file() and Path("study/results.csv").is_file())
        os.kill(holder(LONG), signal.SIGKILL)  # it is tried again
        wait_for(lambda: LONG.with_name(f"{LONG.name}.log").read_text().count("$ softflow-train") == 2)
        wait_for(lambda: (LONG / "lock").is_dir() and Path(f"/proc/{holder(LONG)}").is_dir())
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    assert main([*STUDY, *FLAGS]) == 130
    thread.join()
    assert not (LONG / "lock").exists() and "interrupted" in capfd.readouterr().err
    log = LONG.with_name(f"{LONG.name}.log").read_text()
    assert log.count("stopped after") == 2 and "$ softflow-train --resume" in log
    short, long = csv.DictReader(Path("study/results.csv").open())
    assert (short["seeds"], short["episodes"], long["seeds"]) == ("1", "3", "0")
    before = SHORT.with_name(f"{SHORT.name}.log").read_text()
    assert main([argument.replace(",1e8", "") for argument in STUDY] + FLAGS) == 0
    assert SHORT.with_name(f"{SHORT.name}.log").read_text() == before


def test_a_node_with_another_version_or_file_system_is_refused(tmp_path):
    job = Job(tmp_path / "run", [])
    with pytest.raises(UserError, match=r"has softflow .*, but this study 0.0: install the same version"):
        _run(job, tmp_path, tmp_path / "plan.json", "0.0")
    from softflow import __version__

    with pytest.raises(
        UserError, match=r"does not see .*plan.json: keep a study on a file system that all nodes share"
    ):
        _run(job, tmp_path, tmp_path / "plan.json", __version__)
