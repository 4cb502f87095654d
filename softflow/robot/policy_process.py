"""A policy in a process of its own: the process that controls the robot goes on, whatever happens to it."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any

from softflow.errors import RemoteError, UserError, described, one_line
from softflow.robot.plan import NoChunk
from softflow.training.processes import leave_signals_to_parent

Load = Callable[[], tuple[Any, Callable[..., Any]]]
"""Returns a description of what was loaded, and the function that answers."""
ENDING = 5.0
"""Seconds that a process that has closed its pipe may take to end."""


class PolicyProcess:
    """A new process that loads a policy and answers one question after another.

    Python imports the main module in the process as well: a script that starts one needs `if __name__ == "__main__":`.
    SIGINT and SIGTERM have no effect on the process. It ends with this one, even if this one is killed. A real-time
    priority of this process, which is for the control of the robot, is not inherited.

    Args:
        load: Loads the policy, in the new process. What is given to it, asked and answered is pickled.

    Attributes:
        description: What `load` returned beside the function.

    Raises:
        UserError: The policy cannot be loaded.
    """

    def __init__(self, load: Load) -> None:
        spawn = multiprocessing.get_context("spawn")  # a fork would inherit the locks of other threads
        self._pipe, theirs = spawn.Pipe()
        self._process = spawn.Process(target=_serve, args=(theirs, load), name="policy", daemon=True)
        with _signals_blocked():
            self._process.start()
        theirs.close()  # so that the pipe ends with the process
        self._ended = threading.Lock()  # two threads that wait for a process take the exit status from each other
        atexit.register(self.close)  # otherwise multiprocessing would send SIGTERM and wait
        try:
            self.description = self._answer()
        except NoChunk as error:
            raise UserError(f"the policy cannot be loaded: {error}") from None
        except BaseException:  # also ^C
            self.close()
            raise

    @property
    def pid(self) -> int:
        """The number of the process."""
        assert self._process.pid is not None
        return self._process.pid

    def ask(self, *question: Any) -> Any:
        """Call the function with the arguments `question`, and return its answer. One thread at a time may ask.

        Raises:
            NoChunk: The process has ended, or its answer cannot be read.
            RemoteError: The function raised an error.
        """
        with suppress(OSError):  # the process has ended, and there is no answer
            self._pipe.send(question)
        return self._answer()

    def when_ended(self, call: Callable[[str], None]) -> None:
        """Call a function at once, from another thread, when the process has ended. It is given how."""

        def wait_and_call() -> None:
            wait([self._process.sentinel])
            call(f"the policy's process {self._ending()}")

        threading.Thread(target=wait_and_call, daemon=True).start()

    def close(self) -> None:
        """Kill the process. It may be in the middle of an answer."""
        atexit.unregister(self.close)
        self._process.kill()
        self._ending()

    def _answer(self) -> Any:
        try:
            answer = self._pipe.recv()
        except (EOFError, OSError):
            raise NoChunk(f"the policy's process {self._ending()}") from None
        except Exception as error:  # of unpickling
            raise NoChunk(f"the policy's answer cannot be read: {one_line(error)}") from error
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _ending(self) -> str:
        with self._ended:
            self._process.join(ENDING)
            status = self._process.exitcode
        if status is None:
            return "has closed its pipe"
        return f"ended with exit status {status}" if status >= 0 else f"was killed by {signal.Signals(-status).name}"


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """Block SIGINT and SIGTERM in this thread, and in a process that it starts until `_serve` is called there."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # of multiprocessing; its start would unblock them
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(pipe: Connection, load: Load) -> None:
    """Load the policy, and answer until the other process ends."""
    leave_signals_to_parent()
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})
    leave_real_time()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    sys.stdout = sys.stderr  # standard output is for the results of commands
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):  # the parent has ended
        try:
            description, answer = load()
        except (UserError, OSError, MemoryError) as error:
            return pipe.send(UserError(one_line(error)))
        except BaseException as error:  # also SystemExit, of a module that is imported
            return pipe.send(RemoteError(described(error)))
        pipe.send(description)
        while True:
            pipe.send(_answer(answer, pipe.recv()))


def leave_real_time() -> None:
    """Give this thread, and those that it starts, an ordinary priority if it has a real-time priority."""
    if hasattr(os, "sched_getscheduler") and os.sched_getscheduler(0) in (os.SCHED_FIFO, os.SCHED_RR):
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def _answer(answer: Callable[..., Any], question: tuple[Any, ...]) -> Any:
    try:
        return answer(*question)
    except BaseException as error:
        return RemoteError(described(error))


def _end_with_parent() -> None:
    """Wait for the end of the parent process, and end this one, even if it is busy."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
