"""How demonstrations are recorded: an environment's demonstrator shows episodes, in as many processes as wanted."""

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

from softflow.data import Dataset, Episode, EpisodeBuilder, outcome_of
from softflow.envs import Demonstrator, find_layout, make_demonstrator
from softflow.envs.registry import Env
from softflow.errors import UserError
from softflow.task import TaskSpec
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
) -> Dataset:
    """Record `episodes` of the demonstrator of the environments that `make` makes; `options` are the demonstrator's.

    Each episode has random numbers of its own, so they are the same whatever the number of processes. With 0 it is this
    one; with more nothing is drawn in this one, so that others can be started from it that draw. Episodes that are lost
    are made up for by further ones.

    Raises:
        UserError: the environment has no demonstrator, that one has no such option, or a process ended.
        EnvironmentFailed: environment or demonstrator raised something, and `errors` does not let others go on.
    """
    errors, recorded, begun = errors or EnvironmentErrors(), list[Episode](), 0
    recorder = _Recorder(make, seed, dict(options or {}), success)
    task = recorder.require_environment() if processes else recorder.require_demonstrator()
    with ExitStack() as stack:
        bar = stack.enter_context(StageProgress("demonstrations", episodes))
        record: Callable[[Iterable[int]], Iterable[Episode | Lost]] = partial(map, recorder)
        if processes:
            pool = ProcessPoolExecutor(processes, initializer=_keep, initargs=(recorder,))
            stack.callback(pool.shutdown, cancel_futures=True)  # else a signal would wait for all of them
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
                    "a process that recorded demonstrations ended: see what it wrote, and whether there is memory for "
                    f"{processes} of them"
                ) from error
    return Dataset(recorded, task)


DEMONSTRATION_SEEDS = 10_000
"""Environment seeds set apart for the demonstrations of each run."""


class _Recorder:
    """Shows the episode of each index, in an environment that is made anew after an error."""

    def __init__(
        self, make: Callable[[], Env], seed: int, options: dict[str, Any], success: SuccessRule | None
    ) -> None:
        self.make, self.seed, self.options, self.success = make, seed, options, success
        self.environment: CheckedEnvironment | None = None

    def require_environment(self) -> TaskSpec:
        """The task of the environment. Raises `UserError` if it cannot be made, before anything is shown."""
        with environments_turn(), closing(CheckedEnvironment(self.make())) as environment:
            return self._task(environment)

    def require_demonstrator(self) -> TaskSpec:
        """The same. Raises `UserError` if there is nobody who can show an episode, before any is shown."""
        with environments_turn():
            self.environment = CheckedEnvironment(self.make(), self.success)
            try:
                self._begin(self.environment, 0)
            except UserError:
                raise
            except ENVIRONMENT_ERRORS:  # the first episode will say so
                pass
            return self._task(self.environment)

    def _task(self, environment: CheckedEnvironment) -> TaskSpec:
        return replace(TaskSpec.from_env(environment), success=(self.success or SuccessRule()).text)

    def __call__(self, index: int) -> Episode | Lost:
        with environments_turn():
            return self._show_or_lose(index)

    def _show_or_lose(self, index: int) -> Episode | Lost:
        if self.environment is None:
            self.environment = CheckedEnvironment(self.make(), self.success)
        environment = self.environment
        try:
            return self._show(environment, index)
        except UserError:
            raise
        except ENVIRONMENT_ERRORS as error:
            lost = Lost.of(error, f"step {environment.steps} of the demonstration with seed {self._seed(index)}")
            if lost.failure.is_error:
                self.environment = None
            return lost

    def _seed(self, index: int) -> int:
        return self.seed * DEMONSTRATION_SEEDS + index

    def _begin(self, environment: CheckedEnvironment, index: int) -> tuple[np.ndarray, Demonstrator]:
        """The first observation of an episode, and who will show how it goes on."""
        observation, _ = environment.reset(seed=self._seed(index))
        return observation, make_demonstrator(environment, np.random.default_rng((self.seed, index)), **self.options)

    def _show(self, environment: CheckedEnvironment, index: int) -> Episode:
        observation, demonstrator = self._begin(environment, index)
        builder = EpisodeBuilder(find_layout(environment))
        while True:
            action = demonstrator.act()
            following, reward, terminated, truncated, info = environment.step(action)
            builder.append(observation, action, reward)
            observation = following
            if terminated or truncated:
                ending = terminated, truncated, info["is_success"]
                return builder.finish(observation, *ending, demonstrator.mode, outcome_of(info))


_own: list[_Recorder] = []
"""The recorder of this process, in one that records."""


def _keep(recorder: _Recorder) -> None:
    leave_signals_to_parent()
    sys.stdout = sys.stderr  # standard output is for the command's result
    _own.append(recorder)


def _record(index: int) -> Episode | Lost:
    return _own[0](index)
