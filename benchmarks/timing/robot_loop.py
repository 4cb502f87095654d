"""Measure how well the control loop of a robot keeps its deadlines, on a simulated robot in real time.

    softflow-train --algo imitation --run-dir runs/imitation
    python -m benchmarks.timing.robot_loop runs/imitation --seconds 600 --busy 2
    chrt -f 50 python -m benchmarks.timing.robot_loop runs/imitation --seconds 600 --busy 2
    python -m benchmarks.timing.robot_loop runs/imitation --seconds 100 --busy 2 --slow 80 --ways process thread

The policy computes its chunks

    process         in a process of its own, as `softflow-robot run` has it
    thread          in a thread of the process that controls the robot
    synchronous     in a process of its own, and the control loop waits for each chunk

Each way has the same number of deadlines. The ways take turns, episode by episode, so that whatever else runs on the
machine disturbs all of them alike; the load average is printed below the table. The columns are those of the report of
`softflow-robot run`, in milliseconds (p50 / p99 / longest).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from typing import Any

from softflow.robot import ControlLoop, GymnasiumRobot, LoopSettings
from softflow.robot.policy_process import PolicyProcess
from softflow.runs.assembly import config_path_of, make_environment
from softflow.runs.config import read_config
from softflow.runs.served_policy import Serve, Served, serve_policy

WAYS = "process", "thread", "synchronous"
PATIENCE = 10.0
"""Seconds that a busy machine may take for a chunk."""
BUSY = """
import os
if hasattr(os, "sched_setscheduler"):  # a real-time priority of this process is inherited
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
while True:
    pass
"""


def serve_slowly(run: str, slow: float) -> tuple[Served, Serve]:
    """Load the policy of a run. Each of its chunks takes `slow` seconds longer, in which Python computes."""
    served, serve = serve_policy(run, "cpu", None, seed=0)

    def serve_slow(*question: Any) -> Any:
        answer, end = serve(*question), time.perf_counter() + slow
        while time.perf_counter() < end:
            pass
        return answer

    return served, serve_slow


def make_loop(run: str, way: str, slow: float, rate: float | None, stack: ExitStack) -> ControlLoop:
    """Return the control loop of a way, on a robot simulated by the environment of the run."""
    ask: Callable[..., Any]
    if way == "thread":
        served, ask = serve_slowly(run, slow)
    else:
        process = stack.enter_context(closing(PolicyProcess(partial(serve_slowly, run, slow))))
        served, ask = process.description, process.ask
    rate = rate or served.task.rate
    if rate is None:
        raise SystemExit("the control rate of the policy's task is not known: give --rate")
    environment = make_environment(read_config(str(config_path_of(run))).run)
    robot = stack.enter_context(closing(GymnasiumRobot(environment, rate)))
    settings = LoopSettings(
        rate, served.n_action_steps, synchronous=way == "synchronous", stall=PATIENCE, patience=PATIENCE
    )

    def choose(observation: Any, previous: Any) -> Any:
        return ask(served.task.rows(observation)[0][0], previous).actions

    return stack.enter_context(closing(ControlLoop(robot, served.task, choose, settings)))


@contextmanager
def busy(number: int) -> Iterator[None]:
    """Keep a number of cores busy with processes that only compute."""
    processes = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(number)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def measure(loops: Sequence[ControlLoop], deadlines: int) -> None:
    """Run episodes, in turns, until each loop has at least this number of deadlines."""
    while unfinished := [loop for loop in loops if loop.timing.summary()["deadlines"] < deadlines]:
        for loop in unfinished:
            loop.run_episode()


def row(name: str, summary: dict[str, Any]) -> str:
    times = (" / ".join(f"{value:.1f}" for value in summary[key].values()) for key in ("jitter_ms", "latency_ms"))
    counts = (f"{summary[key]:,}" for key in ("deadlines", "missed", "late_chunks"))
    return f"| {' | '.join((name, *counts, *times))} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="run folder")
    parser.add_argument("--ways", choices=WAYS, nargs="+", default=["process", "synchronous"])
    parser.add_argument("--seconds", type=float, default=60, help="duration of each way")
    parser.add_argument("--busy", type=int, default=0, help="number of processes that only compute")
    parser.add_argument("--slow", type=float, default=0, help="milliseconds by which each chunk takes longer")
    parser.add_argument("--rate", type=float, help="control rate in hertz; by default that of the policy's task")
    arguments = parser.parse_args()
    with ExitStack() as stack, busy(arguments.busy):
        loops = {
            way: make_loop(arguments.run, way, arguments.slow / 1000, arguments.rate, stack) for way in arguments.ways
        }
        rate = next(iter(loops.values())).timing.rate
        measure(list(loops.values()), round(arguments.seconds * rate))
        load = os.getloadavg()[1]
    print("| policy | deadlines | missed | without a chunk | delay of commands | observation to command |")
    print("|---|---|---|---|---|---|")
    for way, loop in loops.items():
        print(row(way, loop.timing.summary()))
    print(f"\n{os.cpu_count()} cores, load average {load:.1f} (5 minutes)")


if __name__ == "__main__":
    main()
