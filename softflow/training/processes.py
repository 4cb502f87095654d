"""A vector environment whose environments are spread over a few processes."""

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
"""Seconds that a process looks out for a message before it sleeps: to be woken takes a tenth of a chunk's time."""
CLOSING = 30.0
"""Seconds that the processes have to close their environments."""
Call = tuple[str, dict[str, Any]] | None
"""Method of an environment and its arguments; None leaves the environment alone."""
Spaces = tuple[gym.Space[Any], gym.Space[Any]]


class ProcessVectorEnv(VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """Environments in several processes, this one among them; each process runs its share, one after another.

    A step costs each other process one message and its answer, however many environments it has, and this process
    simulates as well instead of waiting. With many environments in each, the shares take about equally long. Autoreset
    is disabled.

    A process that dies, raises something or exceeds the time limit is replaced by a new one. All its environments say
    so, in the ``info["failure"]`` of their next reset or step: a `Failure`, which is an error of the one that was at it
    alone.

    Args:
        make: one function for each environment; all have the same spaces, Boxes.
        processes: how many, this one included; at most as many as there are environments.
        time_limit: seconds that a call of an environment may take, or up to twice as many; with one, no environment
            runs in this process, where nothing could interrupt it. To be made they may take as long as they like.

    Raises:
        UserError: from any method, when an environment in another process raised it.
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
        """What environments will say whose process was replaced."""
        self._shares = [range(share[0], share[-1] + 1) for share in shares]
        spaces = self.single_observation_space, self.single_action_space
        self._workers = [_Worker([make[index] for index in share], spaces) for share in self._shares]
        atexit.register(_kill, self._workers)  # else multiprocessing would ask by SIGTERM, and wait

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Reset all environments, or those of `options["reset_mask"]` (N,), with a seed each."""
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
        """What this method of each environment returns; None if its process failed."""
        return tuple(self._call([(name, arguments)] * self.num_envs))

    def close_extras(self, terminate: bool = False) -> None:
        """End the processes; `terminate` those that may be in the middle of something."""
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
        """What each environment (N) answers, all processes at once."""
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
    """A process and its environments, which must have these spaces of observations and actions."""

    def __init__(self, make: Sequence[Callable[[], gym.Env]], spaces: Spaces) -> None:
        self.make, self.spaces = make, spaces
        self.at = multiprocessing.RawValue("i", -1)
        """Which of its environments is being called, -1 if none."""
        self.pipe, theirs = multiprocessing.Pipe()
        arguments = theirs, self.pipe, [CloudpickleWrapper(one) for one in make], spaces, self.at
        self.process = multiprocessing.Process(target=_serve, args=arguments, daemon=True)
        self.process.start()
        theirs.close()

    def send(self, calls: Sequence[Call] | None) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):  # of one that has died; its answer will say so
            self.pipe.send(calls)

    def answer(self, time_limit: float | None) -> list[Any] | Failure | UserError:
        """What the environments answer, or what went wrong."""
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
                f"its process ended (exit status {self.process.exitcode}): see what it wrote, and whether there is "
                "memory for so many"
            )

    def replaced(self) -> _Worker:
        """Another in its place, with environments made anew."""
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
    """Answer calls until there are no more, or until the process that makes them is gone."""
    leave_signals_to_parent()
    sys.stdout = sys.stderr  # standard output is for the results of commands
    ours.close()  # inherited; open here, it would hide that the other process is gone
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
    except (BrokenPipeError, ConnectionResetError):  # there is nobody left to answer
        return
    except UserError as error:
        theirs.send(error)
    except ENVIRONMENT_ERRORS as error:
        theirs.send(Failure.of(error))


def leave_signals_to_parent() -> None:
    """SIGINT and SIGTERM may reach every process of a run, but are for the first to answer.

    They are not ignored: programs that an environment starts would inherit that, and could not be terminated.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _do_nothing)
        if hasattr(signal, "siginterrupt"):
            signal.siginterrupt(number, False)  # no system call of an environment fails because of it
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_answer_signals)


def _do_nothing(number: int, frame: Any) -> None:
    pass


def _answer_signals() -> None:
    """In a process that an environment forks."""
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
    """Wait for a message without falling asleep, but not for long (`AWAKE`)."""
    latest = time.perf_counter() + AWAKE
    while not pipe.poll() and time.perf_counter() < latest:
        pass
