"""A vector environment that distributes its environments over several processes."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import chain
from multiprocessing.connection import Connection
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import CloudpickleWrapper, batch_space

from softflow.errors import UserError
from softflow.training.checked_environment import ENVIRONMENT_ERRORS
from softflow.training.failures import Failure

AWAKE = 5e-4
"""Seconds that a process polls for a message before it sleeps, because waking up takes a tenth of a chunk's time."""
CLOSING = 30.0
"""Seconds that the processes have to close their environments."""
Call = tuple[str, dict[str, Any]] | None
"""A method of an environment and its arguments. None skips the environment."""
Spaces = tuple[gym.Space[Any], gym.Space[Any]]


class ProcessVectorEnv(VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """Environments in several processes, including this one. Each process steps its share one after another.

    A step takes one message to each other process and one answer, whatever its number of environments. This process
    simulates as well instead of waiting. With many environments per process, the shares take about equally long.
    Autoreset is disabled.

    A process that dies, raises an error or exceeds the time limit is replaced by a new one. All its environments then
    have a `Failure` in the ``info["failure"]`` of their next reset or step. It is an error only for the environment
    that was being called.

    Args:
        make: One function per environment. All environments must have the same Box spaces.
        processes: The number of processes, including this one. Values above the number of environments are clipped.
        time_limit: The seconds that a call of an environment may take; it may be ended after up to twice as many. With
            a limit, no environment runs in this process, where it could not be interrupted. The limit does not apply
            while environments are made.

    Raises:
        UserError: In any method, if an environment in another process raised it.
    """

    def __init__(self, make: Sequence[Callable[[], gym.Env]], processes: int, time_limit: float | None = None) -> None:
        self.num_envs, self.time_limit = len(make), time_limit
        shares = np.array_split(np.arange(self.num_envs), min(processes, self.num_envs))
        own = shares.pop() if time_limit is None else np.arange(0)
        self._own = [make[index]() for index in own]
        first = self._own[0] if self._own else make[0]()
        self.metadata = {**first.metadata, "autoreset_mode": AutoresetMode.DISABLED}
        seen = self.single_observation_space = first.observation_space
        assert isinstance(seen, Box)
        self._observations = np.zeros((self.num_envs, *seen.shape), seen.dtype)
        self.single_action_space = first.action_space
        self.observation_space = batch_space(seen, self.num_envs)
        self.action_space = batch_space(first.action_space, self.num_envs)
        if not self._own:
            first.close()
        self._lost: dict[int, Failure] = {}
        """Failures that environments will report because their process was replaced."""
        self._shares = [range(share[0], share[-1] + 1) for share in shares]
        spaces = self.single_observation_space, self.single_action_space
        self._workers = [_Worker([make[index] for index in share], spaces) for share in self._shares]
        atexit.register(_kill, self._workers)  # otherwise multiprocessing would send SIGTERM and wait

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Reset all environments, or only those selected by `options["reset_mask"]` (N,), with one seed each."""
        options = dict(options or {})
        chosen = options.pop("reset_mask", np.ones(self.num_envs, bool))
        seeds = range(seed, seed + self.num_envs) if isinstance(seed, int) else seed or [None] * self.num_envs
        calls: list[Call] = [
            ("reset", {"seed": one, "options": options}) if reset else None
            for one, reset in zip(seeds, chosen, strict=True)
        ]
        for index in np.flatnonzero(chosen).tolist():
            self._lost.pop(index, None)
        infos: dict[str, Any] = {}
        for index, result in enumerate(self._call(calls)):
            if chosen[index] and index in self._lost:
                infos = self._add_info(infos, {"failure": self._lost.pop(index)}, index)
            elif result is not None:
                self._observations[index], info = result
                infos = self._add_info(infos, info, index)
        return self._observations.copy(), infos

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        calls: list[Call] = [
            None if index in self._lost else ("step", {"action": action}) for index, action in enumerate(actions)
        ]
        rewards, terminated, truncated = np.zeros(self.num_envs), *np.zeros((2, self.num_envs), bool)
        infos: dict[str, Any] = {}
        for index, result in enumerate(self._call(calls)):
            if index in self._lost:
                truncated[index], info = True, {"failure": self._lost.pop(index)}
            else:
                self._observations[index], rewards[index], terminated[index], truncated[index], info = result
            infos = self._add_info(infos, info, index)
        return self._observations.copy(), rewards, terminated, truncated, infos

    def call(self, name: str, **arguments: Any) -> tuple[Any, ...]:
        """Call a method of each environment and return the results. A result is None if the process failed."""
        return tuple(self._call([(name, arguments)] * self.num_envs))

    def close_extras(self, terminate: bool = False) -> None:
        """End the processes. With `terminate`, kill them even in the middle of a call."""
        if terminate:
            _kill(self._workers)
        for worker in self._workers:
            worker.send(None)
        latest = time.monotonic() + CLOSING
        for worker in self._workers:
            worker.process.join(max(0.0, latest - time.monotonic()))
            if worker.process.is_alive():
                warnings.warn(f"environments did not close within {CLOSING:g} s: their process was ended", stacklevel=2)
                worker.process.kill()
                worker.process.join()
        for environment in self._own:
            environment.close()

    def _call(self, calls: Sequence[Call]) -> list[Any]:
        """Run the calls of all N environments in all processes at once, and return the answers."""
        for worker, share in zip(self._workers, self._shares, strict=True):
            worker.send([calls[index] for index in share])
        mine = list(_run(self._own, calls[self.num_envs - len(self._own) :]))
        return [*chain.from_iterable(self._answer(number, calls) for number in range(len(self._workers))), *mine]

    def _answer(self, number: int, calls: Sequence[Call]) -> list[Any]:
        worker, share = self._workers[number], self._shares[number]
        answer = worker.answer(self.time_limit)
        if isinstance(answer, UserError):
            raise answer
        if not isinstance(answer, Failure):
            return answer
        called = (index for index in share if calls[index] is not None)
        at = share[worker.at.value] if worker.at.value >= 0 else next(called, share[0])
        others = Failure(f"lost with the process that it shared with environment {at}", is_error=False)
        self._lost |= {index: answer if index == at else others for index in share}
        self._workers[number] = worker.replaced()
        return [None] * len(share)


class _Worker:
    """A process and its environments, which must have the given observation and action spaces."""

    def __init__(self, make: Sequence[Callable[[], gym.Env]], spaces: Spaces) -> None:
        self.make, self.spaces = make, spaces
        self.at = multiprocessing.RawValue("i", -1)
        """Index of the environment that is being called, -1 if none."""
        self.pipe, theirs = multiprocessing.Pipe()
        arguments = theirs, self.pipe, [CloudpickleWrapper(one) for one in make], spaces, self.at
        self.process = multiprocessing.Process(target=_serve, args=arguments, daemon=True)
        self.process.start()
        theirs.close()

    def send(self, calls: Sequence[Call] | None) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):  # the process has died, which `answer` will report
            self.pipe.send(calls)

    def answer(self, time_limit: float | None) -> list[Any] | Failure | UserError:
        """Return the answers of the environments, or the error."""
        last = -1
        _look_out(self.pipe)
        while not self.pipe.poll(time_limit):
            at = self.at.value
            if at == last >= 0:
                return Failure(f"no answer within the time limit of {time_limit:g} s: its process was ended")
            last = at
        try:
            return self.pipe.recv()
        except (EOFError, ConnectionResetError):
            self.process.join()
            return Failure(
                f"its process ended (exit status {self.process.exitcode}): check its output, and whether there is "
                "enough memory for so many environments"
            )

    def replaced(self) -> _Worker:
        """Kill the process and return a new one, with new environments."""
        self.process.kill()
        self.process.join()
        self.pipe.close()
        return _Worker(self.make, self.spaces)


def _run(environments: Sequence[gym.Env], calls: Sequence[Call], at: Any = None) -> Iterator[Any]:
    for index, (environment, call) in enumerate(zip(environments, calls, strict=True)):
        if at is not None:
            at.value = index
        yield None if call is None else getattr(environment, call[0])(**call[1])


def _serve(theirs: Connection, ours: Connection, make: Sequence[CloudpickleWrapper], spaces: Spaces, at: Any) -> None:
    """Answer calls until there are no more, or until the parent process has ended."""
    leave_signals_to_parent()
    sys.stdout = sys.stderr  # standard output is for the results of commands
    ours.close()  # inherited; if it stayed open here, it would hide that the parent has ended
    try:
        environments = [one.fn() for one in make]
        for environment in environments:
            if (environment.observation_space, environment.action_space) != spaces:
                raise UserError(
                    f"environments that run side by side must have the same spaces, got {spaces} and "
                    f"{(environment.observation_space, environment.action_space)}"
                )
        while (calls := _received(theirs)) is not None:
            answers = list(_run(environments, calls, at))
            at.value = -1
            theirs.send(answers)
        for environment in environments:
            environment.close()
    except (BrokenPipeError, ConnectionResetError):  # the parent has ended
        return
    except UserError as error:
        theirs.send(error)
    except ENVIRONMENT_ERRORS as error:
        theirs.send(Failure.of(error))


def leave_signals_to_parent() -> None:
    """Let SIGINT and SIGTERM have no effect here: they may reach every process of a run, but the parent handles them.

    They are not set to be ignored, because programs started by an environment would inherit that and could not be
    terminated.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _do_nothing)
        if hasattr(signal, "siginterrupt"):
            signal.siginterrupt(number, False)  # so that no system call of an environment fails because of a signal
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_answer_signals)


def _do_nothing(number: int, frame: Any) -> None:
    pass


def _answer_signals() -> None:
    """Restore the default signal handlers in a process that an environment forks."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _kill(workers: Iterable[_Worker]) -> None:
    for worker in workers:
        worker.process.kill()


def _received(pipe: Connection) -> list[Call] | None:
    _look_out(pipe)
    try:
        return pipe.recv()
    except (EOFError, ConnectionResetError):
        return None


def _look_out(pipe: Connection) -> None:
    """Poll for a message for up to `AWAKE` seconds without sleeping."""
    latest = time.perf_counter() + AWAKE
    while not pipe.poll() and time.perf_counter() < latest:
        pass
