"""The lock of a run folder: who holds it, who gets it next, and that it is never held twice."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import pytest

from softflow.errors import UserError
from softflow.training.run_lock import Holder, RunLock

ROOT = Path(__file__).parents[2]
HOLD = """
import sys
from pathlib import Path
from softflow.training.run_lock import RunLock

lock = RunLock(Path(sys.argv[1]), "run")
lock.acquire()
print("held", flush=True)
sys.stdin.read()
lock.release()
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock of `tmp_path` until its standard input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def held_by(folder: Path, holder: Holder) -> None:
    (folder / "lock").mkdir()
    (folder / "lock" / holder.name).touch()


def entries(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_a_holder_is_read_from_its_name() -> None:
    me = Holder.here()
    assert me.process == os.getpid() and Holder.read(me.name) == me
    odd = replace(me, host="gpu-3.cluster-a.example")
    assert Holder.read(odd.name) == odd
    assert Holder.read(".nfs0001") is None and Holder.read("a-b-c-d-e-f") is None


def test_it_is_held_until_it_is_released(tmp_path: Path) -> None:
    first, second = RunLock(tmp_path, "run"), RunLock(tmp_path, "run")
    first.acquire()
    assert entries(tmp_path) == ["lock", f"lock/{Holder.here().name}"]
    with pytest.raises(UserError, match=f"^run is in use by process {os.getpid()} on .*: wait until it has ended"):
        second.acquire()
    second.release()  # what it does not hold
    assert (tmp_path / "lock").is_dir()
    first.release()
    assert entries(tmp_path) == []
    second.acquire()
    second.release()


def test_another_process_is_named_and_nothing_is_changed(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    before = entries(tmp_path), tmp_path.stat().st_mtime_ns
    with pytest.raises(UserError, match=rf"^run is in use by process {holder.pid} on {re.escape(Holder.here().host)}:"):
        RunLock(tmp_path, "run").acquire()
    assert (entries(tmp_path), tmp_path.stat().st_mtime_ns) == before
    holder.communicate()
    assert entries(tmp_path) == []


@pytest.mark.parametrize("is_awaited", [True, False])
def test_the_lock_of_a_killed_process_is_taken_over(
    is_awaited: bool, tmp_path: Path, holder: subprocess.Popen[str]
) -> None:
    """Also while its parent has not noticed yet."""
    holder.send_signal(signal.SIGKILL)
    if is_awaited:
        holder.wait()
    else:
        os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT)
    lock = RunLock(tmp_path, "run")
    lock.acquire()
    assert entries(tmp_path) == ["lock", f"lock/{Holder.here().name}"]
    lock.release()
    assert entries(tmp_path) == []


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="the system does not tell when a process started")
def test_a_process_that_got_the_number_of_the_holder_is_not_the_holder(tmp_path: Path) -> None:
    held_by(tmp_path, replace(Holder.here(), start="1"))
    RunLock(tmp_path, "run").acquire()


def test_a_holder_from_before_the_machine_was_restarted_is_dead(tmp_path: Path) -> None:
    held_by(tmp_path, replace(Holder.here(), boot="before", namespace="1"))
    RunLock(tmp_path, "run").acquire()


@pytest.mark.parametrize("elsewhere", [{"host": "other"}, {"machine": "other"}, {"namespace": "1"}])
def test_a_process_that_cannot_be_checked_keeps_the_lock(elsewhere: dict[str, Any], tmp_path: Path) -> None:
    """On another machine or in another container; the user is told what to remove."""
    held_by(tmp_path, replace(Holder.here(), process=2**31, **elsewhere))
    before = entries(tmp_path)
    with pytest.raises(UserError, match=f"cannot be checked .*: if that run has ended, remove {tmp_path / 'lock'}$"):
        RunLock(tmp_path, "run").acquire()
    assert entries(tmp_path) == before


def test_leftovers_of_other_kinds(tmp_path: Path) -> None:
    """A lock that was half released, and one that was prepared by a process that was then killed."""
    (tmp_path / "lock").mkdir()
    (tmp_path / ".lock-1-2-3-4-5-other").mkdir()
    lock = RunLock(tmp_path, "run")
    lock.acquire()
    assert entries(tmp_path) == ["lock", f"lock/{Holder.here().name}"]
    lock.release()
    (tmp_path / "lock").mkdir()
    (tmp_path / "lock" / "notes.txt").touch()
    with pytest.raises(UserError, match=f"its lock cannot be read: remove {tmp_path / 'lock'} if no run uses"):
        lock.acquire()
    with pytest.raises(FileNotFoundError):
        RunLock(tmp_path / "none", "none").acquire()


def test_who_comes_second_to_a_stale_lock_is_refused(
    tmp_path: Path, holder: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between its look at the lock and its move another process takes over."""
    alive = next((tmp_path / "lock").iterdir())
    stale = tmp_path / "lock" / replace(Holder.here(), start="1").name
    alive.rename(stale)
    require_ended = RunLock._require_ended

    def others_are_faster(lock: RunLock, seen: Holder) -> None:
        require_ended(lock, seen)
        stale.rename(alive)

    monkeypatch.setattr(RunLock, "_require_ended", others_are_faster)
    with pytest.raises(UserError, match=f"is in use by process {holder.pid} "):
        RunLock(tmp_path, "run").acquire()


def contend(folder: Path, barrier: Barrier, rounds: int, results: Any) -> None:
    for _ in range(rounds):
        lock = RunLock(folder, "run")
        barrier.wait()
        try:
            lock.acquire()
            won = True
        except UserError:
            won = False
        barrier.wait()  # the winner holds it until all have tried
        results.put(won)
        lock.release()
        barrier.wait()
        if won:
            held_by(folder, replace(Holder.here(), start="1"))  # the next round is for a stale one


def test_of_several_at_once_exactly_one_gets_it(tmp_path: Path) -> None:
    processes, rounds = 4, 50
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(processes), context.SimpleQueue()
    contenders = [context.Process(target=contend, args=(tmp_path, barrier, rounds, results)) for _ in range(processes)]
    for contender in contenders:
        contender.start()
    won = [[results.get() for _ in range(processes)] for _ in range(rounds)]
    for contender in contenders:
        contender.join()
    assert [sum(each) for each in won] == [1] * rounds
