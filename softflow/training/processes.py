"""A vector environment whose environments are spread over a few processes."""

from __future__ import annotations

import atexit
import multiprocessing
import signal
import traceback
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from itertools import chain
from multiprocessing.connection import Connection
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import CloudpickleWrapper, batch_space

Call = tuple[str, dict[str, Any]] | None
"""Method of an environment and its arguments; None leaves the environment alone."""


class ProcessVectorEnv(VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """Environments in several processes, this one among them; each process runs its share, one after another.

    A step costs each other process one message and its answer, however many environments it has, and this process
    simulates as well instead of waiting. With many environments in each, the shares take about equally long. Autoreset
    is disabled. After an error, `close(terminate=True)` is all that can be done.

    Args:
        make: one function for each environment; all have the same spaces, Boxes.
        processes: how many, this one included; at most as many as there are environments.

    Raises:
        RuntimeError: from `reset` or `step`, when an environment in another process raised something, or its process
            has ended.
    """

    def __init__(self, make: Sequence[Callable[[], gym.Env]], processes: int) -> None:
        self.num_envs = len(make)
        *others, own = np.array_split(np.arange(self.num_envs), min(processes, self.num_envs))
        self._own = [make[index]() for index in own]
        first = self._own[0]
        self.metadata = {**first.metadata, "autoreset_mode": AutoresetMode.DISABLED}
        seen = self.single_observation_space = first.observation_space
        assert isinstance(seen, Box)
        self._observations = np.zeros((self.num_envs, *seen.shape), seen.dtype)
        self.single_action_space = first.action_space
        self.observation_space = batch_space(seen, self.num_envs)
        self.action_space = batch_space(first.action_space, self.num_envs)
        self._shares = [slice(share[0], share[-1] + 1) for share in (*others, own)]
        self._pipes, self._processes = list[Connection](), list[multiprocessing.Process]()
        for share in others:
            ours, theirs = multiprocessing.Pipe()
            arguments = theirs, ours, [CloudpickleWrapper(make[index]) for index in share]
            process = multiprocessing.Process(target=_serve, args=arguments, daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)
        atexit.register(_kill, self._processes)  # else multiprocessing would ask by SIGTERM, and wait

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
        infos: dict[str, Any] = {}
        for index, result in enumerate(self._call(calls)):
            if result is not None:
                self._observations[index], info = result
                infos = self._add_info(infos, info, index)
        return self._observations.copy(), infos

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        results = self._call([("step", {"action": action}) for action in actions])
        observations, rewards, terminated, truncated, each_info = zip(*results, strict=True)
        infos: dict[str, Any] = {}
        for index, info in enumerate(each_info):
            infos = self._add_info(infos, info, index)
        self._observations[:] = observations
        return self._observations.copy(), np.array(rewards, float), np.array(terminated), np.array(truncated), infos

    def call(self, name: str, **arguments: Any) -> tuple[Any, ...]:
        """What this method of each environment returns."""
        return tuple(self._call([(name, arguments)] * self.num_envs))

    def close_extras(self, terminate: bool = False) -> None:
        """End the processes; `terminate` those that may be in the middle of something."""
        if terminate:
            _kill(self._processes)
        else:
            for pipe in self._pipes:
                with suppress(BrokenPipeError):  # of one that has ended by itself
                    pipe.send(None)
        for process in self._processes:
            process.join()
        for environment in self._own:
            environment.close()

    def _call(self, calls: Sequence[Call]) -> list[Any]:
        """What each environment (N) answers, all processes at once."""
        *others, own = (calls[share] for share in self._shares)
        for pipe, share in zip(self._pipes, others, strict=True):
            pipe.send(share)
        mine = _run(self._own, own)
        return [*chain.from_iterable(map(self._answer, range(len(others)))), *mine]

    def _answer(self, number: int) -> list[Any]:
        try:
            answer = self._pipes[number].recv()
        except (EOFError, ConnectionResetError) as error:
            self._processes[number].join()
            raise RuntimeError(
                f"a process of environments ended (exit status {self._processes[number].exitcode}): see what it wrote, "
                "and whether there is memory for so many"
            ) from error
        if isinstance(answer, str):
            raise RuntimeError(f"an environment in another process failed:\n{answer}")
        return answer


def _run(environments: Sequence[gym.Env], calls: Sequence[Call]) -> list[Any]:
    return [
        None if call is None else getattr(environment, call[0])(**call[1])
        for environment, call in zip(environments, calls, strict=True)
    ]


def _serve(theirs: Connection, ours: Connection, make: Sequence[CloudpickleWrapper]) -> None:
    """Answer calls until there are no more, or until the process that makes them is gone."""
    for number in (signal.SIGINT, signal.SIGTERM):  # they may reach every process, but are for the first to answer
        signal.signal(number, signal.SIG_IGN)
    ours.close()  # inherited; open here, it would hide that the other process is gone
    try:
        environments = [one.fn() for one in make]
        while (calls := _received(theirs)) is not None:
            theirs.send(_run(environments, calls))
        for environment in environments:
            environment.close()
    except Exception:
        theirs.send(traceback.format_exc())


def _kill(processes: Iterable[multiprocessing.Process]) -> None:
    for process in processes:
        process.kill()


def _received(pipe: Connection) -> list[Call] | None:
    try:
        return pipe.recv()
    except EOFError:
        return None
