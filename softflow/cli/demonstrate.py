"""`softflow-demo`: have an environment's demonstrator record demonstrations, or corrections of a policy that fails."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from softflow.cli.command_line import Selection, as_json, parse_command_line, preset_layers, run_main
from softflow.cli.config import Layer
from softflow.cli.correct import record_corrections
from softflow.cli.runs import load_run, locate_checkpoint, read_config, require_fit, require_new_file
from softflow.data import Episode, EpisodeBuilder, outcome_of, save_corrections, save_demonstrations
from softflow.envs import Demonstrator, find_layout, make_demonstrator, make_env
from softflow.envs.registry import Env
from softflow.errors import UserError
from softflow.training.checked_environment import ENVIRONMENT_ERRORS, CheckedEnvironment
from softflow.training.config import EnvOptions
from softflow.training.evaluation import summarize
from softflow.training.failures import EnvironmentErrors, Lost, OnEnvError
from softflow.training.global_state import environments_turn
from softflow.training.intervals import wilson_interval
from softflow.training.processes import leave_signals_to_parent
from softflow.training.progress import StageProgress
from softflow.training.random_state import seed_all
from softflow.training.success import SuccessRule
from softflow.training.vector import VectorizationMode


@dataclass
class DemoConfig:
    """Settings of `softflow-demo`."""

    env: str = "tape_cut"
    """Environment: a short name or a gymnasium id."""
    episodes: int = 200
    """Episodes to record, failures included; with `corrections`, those taken over from the policy."""
    corrections: str | None = None
    """Run folder, or a checkpoint's folder in it: record corrections of its policy, in its environment."""
    seed: int = 0
    """Seed of the demonstrator and of the episodes."""
    num_envs: int | None = None
    """Demonstrations that are recorded at once, each in a process of its own; 1 unless given, or one for each core."""
    vectorization_mode: VectorizationMode = "sync"
    """Which of the two: `async` is one for each core."""
    out: str | None = None
    """File to write, which must not exist; `demonstrations.npz` or `corrections.npz` unless given."""
    env_options: EnvOptions = field(default_factory=dict)
    """Arguments of the environment."""
    success: str = "last"
    """Which episodes count as successes: `last`, `any` or `return>=X`, see softflow-train."""
    demonstrator_options: dict[str, int | float | str | bool] = field(default_factory=dict)
    """Arguments of the demonstrator, or of the supervisor who records corrections, such as its `noise`."""
    on_env_error: OnEnvError = "stop"
    """What an error of the environment does: stop, or drop the episode and record another in its place."""
    json: bool = False
    """Print one JSON object instead of a sentence."""


@run_main
def main(argv: Sequence[str]) -> None:
    config = parse_command_line(
        DemoConfig,
        argv,
        prog="softflow-demo",
        description="Record demonstrations of an environment's demonstrator, or its corrections of a policy.",
        layers_for=_layers,
    )
    path = Path(config.out or ("demonstrations.npz" if config.corrections is None else "corrections.npz"))
    require_new_file(path, "--out", make_folder=True)
    target = path.absolute()  # an environment may change the current folder
    processes = config.num_envs
    if processes is None:
        processes = min(config.episodes, os.cpu_count() or 1) if config.vectorization_mode == "async" else 1
    for flag, number in (("--episodes", config.episodes), ("--num-envs", processes)):
        if number < 1:
            raise UserError(f"{flag} must be at least 1, got {number}")
    if not 0 <= config.seed < 100:  # beyond, the episodes would be those held out
        raise UserError(f"--seed must be in 0 ... 99, got {config.seed}")
    make = partial(make_env, config.env, **config.env_options)
    try:
        success = SuccessRule(config.success)
    except ValueError as error:
        raise UserError(f"--{error}") from error
    errors = EnvironmentErrors(config.on_env_error)
    seed_all(config.seed)
    if config.corrections is None:
        episodes = record_demonstrations(
            make,
            config.episodes,
            config.seed,
            processes if processes > 1 else 0,
            config.demonstrator_options,
            errors,
            success,
        )
        save_demonstrations(target, episodes)
        by_mode = {
            mode: summarize([episode for episode in episodes if episode.mode == mode]).as_dict()
            for mode in sorted({episode.mode for episode in episodes})
        }
        result = {"steps": sum(map(len, episodes)), **summarize(episodes).as_dict(), "modes": by_mode}
    else:
        policy, run = load_run(config.corrections)
        if config.env != run.env:
            raise UserError(f"--corrections {config.corrections}: its environment is {run.env!r}: give no --env")
        with environments_turn(), closing(CheckedEnvironment(make())) as environment:
            require_fit(policy, environment, config.corrections)
        options = config.demonstrator_options
        corrections = record_corrections(make, policy, config.episodes, config.seed, options, errors, success)
        save_corrections(target, corrections)
        successes, number = int(corrections.is_success.sum()), len(corrections.is_success)
        rate = {"success_rate": successes / number, "success_ci95": wilson_interval(successes, number)}
        result = {"steps": len(corrections), "episodes": number, **rate}
    result["errors"] = errors.count
    if config.json:
        print(as_json({"file": str(path), **result}))
    else:
        print(f"{path}: {result['episodes']} episodes, {result['steps']:,} steps, {_in_words(result)}")
        if errors.count:
            print(f"{errors.count} more episodes were dropped after errors of their environment")
        for mode, of_mode in result.get("modes", {}).items():
            print(f"  mode {mode}: {of_mode['episodes']} episodes, {_in_words(of_mode)}")


def _in_words(result: Mapping[str, Any]) -> str:
    """Success with its interval, and means of what the environment measured."""
    low, high = result["success_ci95"]
    measured = "".join(f", mean {name} {mean:.3g}" for name, mean in result.get("outcome", {}).items())
    return f"success {result['success_rate']:.2f} [{low:.2f}, {high:.2f}]{measured}"


def _layers(selection: Selection) -> list[Layer]:
    """The presets of an environment; for corrections, the run's environment as the run has it."""
    if selection.corrections is None:
        return preset_layers(selection)
    run = read_config(str(locate_checkpoint(selection.corrections)[1]))
    return [Layer({"env": run.env, "env_options": run.env_options, "success": run.success}, selection.corrections)]


def record_demonstrations(
    make: Callable[[], Env],
    episodes: int,
    seed: int,
    processes: int = 0,
    options: Mapping[str, Any] | None = None,
    errors: EnvironmentErrors | None = None,
    success: SuccessRule | None = None,
) -> list[Episode]:
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
    if not processes:
        recorder.require_demonstrator()
    else:
        recorder.require_environment()
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
    return recorded


DEMONSTRATION_SEEDS = 10_000
"""Environment seeds set apart for the demonstrations of each run."""


class _Recorder:
    """Shows the episode of each index, in an environment that is made anew after an error."""

    def __init__(
        self, make: Callable[[], Env], seed: int, options: dict[str, Any], success: SuccessRule | None
    ) -> None:
        self.make, self.seed, self.options, self.success = make, seed, options, success
        self.environment: CheckedEnvironment | None = None

    def require_environment(self) -> None:
        """Raises `UserError` if it cannot be made, before anything is shown."""
        with environments_turn():
            CheckedEnvironment(self.make()).close()

    def require_demonstrator(self) -> None:
        """Raises `UserError` if there is nobody who can show an episode, before any is shown."""
        with environments_turn():
            self.environment = CheckedEnvironment(self.make(), self.success)
            try:
                self._begin(self.environment, 0)
            except UserError:
                raise
            except ENVIRONMENT_ERRORS:  # the first episode will say so
                return

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


if __name__ == "__main__":
    sys.exit(main())
