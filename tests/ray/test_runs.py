"""Runs with actors on this machine: who can reach them, what ends them, what they leave behind, how they go on."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from glob import glob
from pathlib import Path

import pytest

from benchmarks.studies.kill_actors import ACTOR
from benchmarks.studies.processes import processes
from softflow.runs.ray_crew import LOGS

pytest.importorskip("ray")

FLAGS = """
--env two_routes --preset diagnostic --run-dir run --actors 2 --num-envs 4 --threads 1 --num-demos 10
--imitation.updates 5 --warmup.updates 5 --offline.updates 5 --eval-episodes 2 --online.steps 9000000
--online.updates-per-step 0.001 --collect-steps 50 --eval-every 9000000
""".split()
PATIENCE = 600
"""Seconds: a machine may be busy."""


class Command:
    """softflow-train in a session of its own."""

    def __init__(self, folder: Path, *flags: str) -> None:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        self.output = folder / "output.txt"
        with self.output.open("w") as output:
            command = [sys.executable, "-m", "softflow.cli.train", *flags]
            streams = {"stdout": output, "stderr": subprocess.STDOUT, "start_new_session": True}
            self.process = subprocess.Popen(command, cwd=folder, env=clean, **streams)

    @property
    def text(self) -> str:
        return self.output.read_text()

    def processes(self):
        return [one for one in processes() if one.session == self.process.pid]

    def await_that(self, condition) -> None:
        end = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < end, self.text
            time.sleep(0.2)


def rows(folder: Path, name: str) -> list[float]:
    """The values of a scalar in metrics.csv."""
    file = folder / "run" / "metrics.csv"
    lines = file.read_text().splitlines() if file.is_file() else []
    return [float(line.rsplit(",", 1)[1]) for line in lines if f",{name}," in line]


def listening(numbers: set[int]) -> list[str]:
    """The addresses, in hexadecimal, on which processes listen."""
    inodes = set()
    for number in numbers:
        for link in Path(f"/proc/{number}/fd").iterdir():
            try:
                inodes |= set(re.findall(r"socket:\[(\d+)\]", os.readlink(link)))
            except FileNotFoundError:  # it was just closed
                continue
    lines = [line.split() for file in ("tcp", "tcp6") for line in Path("/proc/net", file).read_text().splitlines()[1:]]
    return [line[1].partition(":")[0] for line in lines if line[3] == "0A" and line[9] in inodes]


LOOPBACK = "0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"
"""127.0.0.1, the same in IPv6, and ::1."""


def test_a_local_cluster_is_closed_and_ends_with_its_run(tmp_path):
    shared_before = set(os.listdir("/dev/shm"))

    def assert_nothing_is_left(run):
        run.await_that(lambda: not run.processes())
        assert not {name for name in set(os.listdir("/dev/shm")) - shared_before if re.search("plasma|ray", name)}

    run = Command(tmp_path, *FLAGS)
    run.await_that(lambda: rows(tmp_path, "actors/ready")[-1:] == [2.0])
    addresses = listening({one.number for one in run.processes()})
    assert len(addresses) >= 4
    assert set(addresses) <= set(LOOPBACK)
    assert re.search("(?i)unauthenticated|authentication|invalid token", connect_as_a_stranger(run))

    actors = [one.number for one in run.processes() if one.command.startswith(ACTOR)]
    os.kill(actors[0], signal.SIGKILL)
    run.await_that(lambda: rows(tmp_path, "actors/deaths")[-1:] == [1.0])
    lost = f"an actor was lost, and its bouts are handed out again: process {actors[0]} of an actor on 127.0.0.1 ended"
    assert f"{lost}, probably because its environment ended it or memory ran out" in run.text
    assert f"its output is there, in {LOGS}/worker-*-{actors[0]}.err\n" in run.text
    assert glob(f"{LOGS}/worker-*-{actors[0]}.err")
    run.await_that(lambda: rows(tmp_path, "actors/ready")[-1:] == [2.0])
    os.killpg(run.process.pid, signal.SIGINT)  # as ^C in a terminal does
    assert run.process.wait(PATIENCE) == 130
    assert "continue with: softflow-train --resume run" in run.text
    assert_nothing_is_left(run)

    before = len(rows(tmp_path, "actors/ready"))
    run = Command(tmp_path, "--resume", "run", "--actors", "1", "--save-minutes", "0")
    run.await_that(lambda: len(rows(tmp_path, "actors/ready")) > before + 3)
    assert "unfinished episodes are restarted, because actors execute whole episodes" in run.text
    os.kill(run.process.pid, signal.SIGKILL)
    assert run.process.wait() == -signal.SIGKILL
    assert_nothing_is_left(run)

    run = Command(tmp_path, "--resume", "run", "--actors", "0")
    before = len(rows(tmp_path, "rollout/ep_len_mean"))
    run.await_that(lambda: len(rows(tmp_path, "rollout/ep_len_mean")) > before + 3)
    assert "unfinished episodes are restarted" in run.text
    run.process.send_signal(signal.SIGTERM)
    assert run.process.wait(PATIENCE) == 143


def connect_as_a_stranger(run: Command) -> str:
    """What Ray says to somebody on this machine who knows the address of a run's cluster, but not its token."""
    (address,) = {a for one in run.processes() for a in re.findall(r"--gcs-address=(\S+)", one.command)}
    code = f"import ray; ray.init({address!r}); print('connected')"
    stranger = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "of-another-cluster"}
    answer = subprocess.run(
        [sys.executable, "-c", code], env=stranger, capture_output=True, text=True, timeout=PATIENCE
    )
    assert answer.returncode and "connected" not in answer.stdout
    return answer.stderr
