"""Recording of demonstrations by an environment's demonstrator, in one or more processes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from softflow.data import Dataset, Episode
from softflow.envs import Demonstrator, make_demonstrator
from softflow.envs.registry import Env
from softflow.errors import UserError
from softflow.runs.recorder import DEMONSTRATION_SEEDS, Recorder, Take, task_of
from softflow.task import TaskSpec
from softflow.task.parts import ACTION_TOLERANCE
from softflow.training.checked_environment import ENVIRONMENT_ERRORS, CheckedEnvironment
from softflow.training.failures import EnvironmentErrors, Lost
from softflow.training.global_state import environments_turn
from softflow.training.processes import leave_signals_to_parent
from softflow.training.progress import StageProgress
from softflow.training.success import SuccessRule


def record_demonstrations(
    make: Callable[[], Env],
    episodes: int,
    seed: int,
    processes: int = 0,
    options: Mapping[str, Any] | None = None,
    errors: EnvironmentErrors | None = None,
    success: SuccessRule | None = None,
    require: Callable[[TaskSpec], object] | None = None,
) -> Dataset:
    """Record demonstrations by the demonstrator of the environments that `make` creates.

    Each episode has its own random numbers, so the result does not depend on the number of processes. Lost episodes are
    replaced by further ones.

    Args:
        make: Makes an environment.
        episodes: The number of episodes.
        seed: The seed of the demonstrator and of the episodes.
        processes: The number of worker processes; 0 records in this process. With workers, nothing is rendered in this
            process, so that rendering processes can still be forked from it.
        options: Arguments of the demonstrator.
        errors: Counts the errors of environments, and decides whether recording continues after them.
        success: The rule by which episodes count as successes.
        require: Called with the task before the first episode; raises `UserError` if the recording would be of no use.

    Raises:
        UserError: The environment has no demonstrator, the demonstrator has no such option, or a process ended.
        EnvironmentFailed: The environment or the demonstrator raised an error, and `errors` stops the recording.
    """
    errors, recorded, begun = errors or EnvironmentErrors(), list[Episode](), 0
    recorder = _DemonstratorRecorder(make, seed, dict(options or {}), success)
    task = recorder.require_environment() if processes else recorder.require_demonstrator()
    if require is not None:
        require(task)
    with ExitStack() as stack:
        bar = stack.enter_context(StageProgress("demonstrations", episodes))
        record: Callable[[Iterable[int]], Iterable[Episode | Lost]] = partial(map, recorder)
        if processes:
            pool = ProcessPoolExecutor(processes, initializer=_keep, initargs=(recorder,))
            stack.callback(pool.shutdown, cancel_futures=True)  # otherwise a signal would wait for all of them
            record = partial(pool.map, _record)
        while len(recorded) < episodes:
            indices = range(begun, begun + episodes - len(recorded))
            begun = indices.stop
            if begun > episodes + DEMONSTRATION_SEEDS:
                raise UserError(f"only {len(recorded)} of {indices.start:,} demonstrations ended: ask for fewer")
            try:
                for shown in record(indices):
                    if isinstance(shown, Lost):
                        shown.report(errors)
                        continue
                    recorded.append(shown)
                    errors.episode_ended()
                    bar.update(1, success=float(np.mean([episode.is_success for episode in recorded])))
            except BrokenProcessPool as error:
                raise UserError(
                    "a process that recorded demonstrations ended: see its output, and check that there is enough "
                    f"memory for {processes} processes"
                ) from error
    return Dataset([replace(episode, task=task) for episode in recorded], task)


class _DemonstratorRecorder(Recorder):
    """Records the demonstrator of an environment."""

    def __init__(
        self, make: Callable[[], Env], seed: int, options: dict[str, Any], success: SuccessRule | None
    ) -> None:
        super().__init__(make, seed, success)
        self.options = options

    def require_environment(self) -> TaskSpec:
        """Return the task of the environment. Raise `UserError` before any recording if it cannot be made."""
        with environments_turn(), closing(CheckedEnvironment(self.make())) as environment:
            return task_of(environment, self.success)

    def require_demonstrator(self) -> TaskSpec:
        """Return the task of the environment. Raise `UserError` before any recording if there is no demonstrator."""
        with environments_turn():
            self.environment = self.checked()
            try:
                self._begin(self.environment, 0)
            except UserError:
                raise
            except ENVIRONMENT_ERRORS:  # the first episode will report it
                pass
            return task_of(self.environment, self.success)

    def show(self, environment: CheckedEnvironment, index: int) -> Episode:
        take, demonstrator = self._begin(environment, index)
        while not take.has_ended:
            action = np.asarray(demonstrator.act())
            if (np.abs(action) > 1 + ACTION_TOLERANCE).any():
                raise UserError(
                    f"step {len(take)} of the demonstration with seed {self.seed_of(index)}: the demonstrator returned "
                    f"{np.array2string(action, precision=3)}: act must return actions in [-1, 1], where -1 and 1 are "
                    "the bounds of the action space (docs/start/your-environment.md)"
                )
            take.step(action)
        return take.finish(take.is_success, demonstrator.mode)

    def _begin(self, environment: CheckedEnvironment, index: int) -> tuple[Take, Demonstrator]:
        take = Take(environment, self.seed_of(index))
        return take, make_demonstrator(environment, np.random.default_rng((self.seed, index)), **self.options)


_own: list[_DemonstratorRecorder] = []
"""The recorder of a worker process."""


def _keep(recorder: _DemonstratorRecorder) -> None:
    leave_signals_to_parent()
    sys.stdout = sys.stderr  # standard output is for the command's result
    _own.append(recorder)


def _record(index: int) -> Episode | Lost:
    return _own[0](index)
