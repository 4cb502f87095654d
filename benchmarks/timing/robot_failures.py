"""Measure how soon a robot is stopped, or how its last action is held, when something fails.

    python -m benchmarks.timing.robot_failures --trials 20

An imaginary robot, controlled at 20 Hz with the settings of `softflow-robot run` and a policy in a process of its own,
fails after a second, at a random moment within a period. The table has the median and the longest time from the failure
to the call of the robot's `stop`, and the longest time between two commands.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from typing import Any

import numpy as np

from softflow.robot import Action, ControlLoop, LoopSettings, Robot, Stopped
from softflow.robot.policy_process import PolicyProcess
from softflow.task import ActionPart, ObservationPart, TaskSpec

TASK = TaskSpec((ObservationPart("joints", (1,)),), (ActionPart("target", (-1.0,), (1.0,)),), rate=20.0)
HORIZON, N_ACTION_STEPS = 8, 4


class FailingRobot(Robot):
    """Does nothing, until `fail` is called.

    Attributes:
        sent: The times of commands.
        stopped: When `stop` was called first.
    """

    def __init__(self) -> None:
        self.sent = list[float]()
        self.stopped: float | None = None
        self.blocks = ""
        self.is_pressed = False
        self.released = threading.Event()

    def reset(self) -> None:
        pass

    def observe(self) -> Mapping[str, Any]:
        if self.blocks == "observe":
            self.released.wait()
        return {"joints": np.zeros(1)}

    def command(self, action: Action) -> None:
        if self.blocks == "command":
            self.released.wait()
        self.sent.append(time.perf_counter())

    def stop(self) -> None:
        self.stopped = self.stopped or time.perf_counter()

    def is_stopped(self) -> bool:
        return self.is_pressed

    def is_success(self) -> bool:
        return False


def load_policy() -> tuple[None, Callable[..., Any]]:
    return None, lambda observation, previous: np.zeros((HORIZON, 1), np.float32)


def kill(robot: FailingRobot, loop: ControlLoop, process: PolicyProcess) -> None:
    os.kill(process.pid, signal.SIGKILL)


def block(method: str) -> Callable[[FailingRobot, ControlLoop, PolicyProcess], None]:
    return lambda robot, loop, process: setattr(robot, "blocks", method)


def press(robot: FailingRobot, loop: ControlLoop, process: PolicyProcess) -> None:
    robot.is_pressed = True


def call_stop(robot: FailingRobot, loop: ControlLoop, process: PolicyProcess) -> None:
    loop.stop.set("a person pressed a key")


FAILURES = {
    "kill -9 of the policy's process": kill,
    "a camera that stops (`observe` blocks)": block("observe"),
    "a robot that stalls (`command` blocks)": block("command"),
    "the emergency stop is pressed": press,
    "the stop signal is set by another thread": call_stop,
}


def trial(fail: Callable[..., None], process: PolicyProcess, settings: LoopSettings) -> tuple[float, float]:
    """Return the seconds from the failure to the stop, and the longest time between two commands."""
    robot = FailingRobot()
    with (
        closing(PolicyProcess(load_policy)) as process,
        closing(ControlLoop(robot, TASK, process.ask, settings)) as loop,
    ):
        failed = list[float]()
        if settings.late == "stop":
            process.when_ended(loop.stop.set)

        def fail_later() -> None:
            while len(robot.sent) < 20:
                time.sleep(0.01)
            time.sleep(random.random() / settings.rate)
            failed.append(time.perf_counter())
            fail(robot, loop, process)

        threading.Thread(target=fail_later, daemon=True).start()
        try:
            loop.run_episode()
        except Stopped:
            pass
        robot.released.set()
    assert robot.stopped is not None
    return robot.stopped - failed[0], float(np.diff(robot.sent).max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=20, help="number of trials of each row")
    parser.add_argument("--stall", type=float, default=0.1, help="the setting `stall`, in seconds")
    parser.add_argument("--failures", choices=FAILURES, nargs="+", default=list(FAILURES), metavar="FAILURE")
    arguments = parser.parse_args()
    print("| failure | `--late` | until `stop`, p50 | longest | between two commands, longest |\n|---|---|---|---|---|")
    process = PolicyProcess(load_policy)
    for name in arguments.failures:
        for late in ("stop", "hold"):
            settings = LoopSettings(20.0, N_ACTION_STEPS, late=late, lead=1, stall=arguments.stall)  # type: ignore[arg-type]
            results = []
            for _ in range(arguments.trials):
                results.append(trial(FAILURES[name], process, settings))
                if FAILURES[name] is kill:
                    process.close()
                    process = PolicyProcess(load_policy)
            stop, gap = 1000 * np.array(results).T
            times = " | ".join(f"{value:.0f} ms" for value in (np.median(stop), stop.max(), gap.max()))
            print(f"| {name} | {late} | {times} |", flush=True)
    process.close()
    print(f"\nload average {os.getloadavg()[1]:.1f} on {os.cpu_count()} cores (5 minutes)")


if __name__ == "__main__":
    main()
