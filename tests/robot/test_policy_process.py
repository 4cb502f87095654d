"""A policy in a process of its own, and how it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from softflow.errors import RemoteError, UserError
from softflow.robot.plan import NoChunk
from softflow.robot.policy_process import PolicyProcess
from tests.robot.served import die, load_worker, refuse

SOON = 60.0
"""Seconds after which even a slow machine has ended a process."""


@pytest.fixture
def process() -> Iterator[PolicyProcess]:
    process = PolicyProcess(load_worker)
    yield process
    process.close()


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_it_answers_until_it_is_killed(process: PolicyProcess) -> None:
    assert process.description == {"pid": process.pid} and process.pid != os.getpid()
    images = np.random.default_rng(0).integers(0, 256, (2, 96, 96, 3), np.uint8)
    row, none = process.ask("return", images, None)
    np.testing.assert_array_equal(row, images)
    assert none is None
    with pytest.raises(RemoteError, match=r"^RuntimeError: out of memory \(served\.py:\d+, in do\)$"):
        process.ask("fail")
    with pytest.raises(NoChunk, match=r"^the policy's answer cannot be read: a chunk of another version$"):
        process.ask("damage")
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(process.pid, number)
    assert process.ask("return", 1) == (1,)
    os.kill(process.pid, signal.SIGKILL)
    for _ in range(2):
        with pytest.raises(NoChunk, match=r"^the policy's process was killed by SIGKILL$"):
            process.ask("return", 1)


def test_close_ends_a_hanging_policy(process: PolicyProcess) -> None:
    raised = list[BaseException]()

    def ask() -> None:
        try:
            process.ask("hang")
        except NoChunk as error:
            raised.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    process.close()
    thread.join(SOON)
    assert len(raised) == 1 and not is_alive(process.pid)


@pytest.mark.parametrize(
    ("load", "message"),
    [
        (refuse, "^the policy is damaged: train it again$"),
        (die, "^the policy cannot be loaded: the policy's process ended with exit status 3$"),
    ],
)
def test_what_cannot_be_loaded_is_reported(load: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        PolicyProcess(load)


@pytest.mark.slow
def test_it_ends_with_its_parent() -> None:
    parent = subprocess.Popen([sys.executable, "-m", "tests.robot.served"], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    assert is_alive(pid)
    parent.kill()
    parent.wait()
    end = time.monotonic() + SOON
    while is_alive(pid) and time.monotonic() < end:
        time.sleep(0.01)
    assert not is_alive(pid)
