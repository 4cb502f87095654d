"""What the processes of tests load. A new process imports this module."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

from softflow.data.recording import Recording
from softflow.errors import UserError
from softflow.robot import Action
from softflow.robot.policy_process import PolicyProcess
from tests.robot.scripted import TASK, ScriptedRobot, choose, make_loop


def load_worker() -> tuple[Any, Callable[..., Any]]:
    """A function that does what it is told."""
    return {"pid": os.getpid()}, do


def do(what: str, *given: Any) -> Any:
    if what == "exit":
        os._exit(given[0])
    if what == "fail":
        raise RuntimeError("out of memory")
    if what == "hang":
        time.sleep(1000)
    return Damaged() if what == "damage" else given


class Damaged:
    """Cannot be unpickled."""

    def __reduce__(self) -> Any:
        return unreadable, ()


def unreadable() -> Any:
    raise ValueError("a chunk of another version")


def load_policy() -> tuple[Any, Callable[..., Any]]:
    """The policy of `scripted`."""
    return None, choose


def refuse() -> Any:
    raise UserError("the policy is damaged: train it again")


def die() -> Any:
    os._exit(3)


class PrintingRobot(ScriptedRobot):
    """Prints the arm's number of each command once it has been sent."""

    def command(self, action: Action) -> None:
        super().command(action)
        print(self.log[-1], flush=True)


def run_and_record(path: str) -> None:
    make_loop(PrintingRobot(steps=100_000), recording=Recording(path, TASK), rate=20.0).run_episode()


if __name__ == "__main__":  # a process that is busy with a hanging policy, for a test that kills it
    process = PolicyProcess(load_worker)
    print(process.pid, flush=True)
    process.ask("hang")
