"""What is recorded in an environment: episodes of its demonstrator, or its supervisor's corrections of a policy."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial

from softflow.data import Corrections, Dataset
from softflow.envs import make_env
from softflow.envs.registry import Env
from softflow.errors import UserError
from softflow.runs.assembly import load_run, require_fit
from softflow.runs.record_corrections import record_corrections
from softflow.runs.record_demonstrations import record_demonstrations
from softflow.training.checked_environment import CheckedEnvironment
from softflow.training.config import EnvOptions
from softflow.training.failures import EnvironmentErrors, OnEnvError
from softflow.training.global_state import environments_turn
from softflow.training.random_state import seed_all
from softflow.training.success import SuccessRule
from softflow.training.vector import VectorizationMode


@dataclass
class RecordingConfig:
    """Settings of a recording."""

    env: str = "tape_cut"
    """Environment: a short name or a gymnasium id."""
    episodes: int = 200
    """Episodes to record, failures included; with `corrections`, those taken over from the policy."""
    seed: int = 0
    """Seed of the demonstrator and of the episodes."""
    num_envs: int | None = None
    """Demonstrations that are recorded at once, each in a process of its own; 1 unless given, or one for each core."""
    vectorization_mode: VectorizationMode = "sync"
    """Which of the two: `async` is one for each core."""
    env_options: EnvOptions = field(default_factory=dict)
    """Arguments of the environment."""
    success: str = "last"
    """Which episodes count as successes: `last`, `any` or `return>=X`, see softflow-train."""
    demonstrator_options: dict[str, int | float | str | bool] = field(default_factory=dict)
    """Arguments of the demonstrator, or of the supervisor who records corrections, such as its `noise`."""
    on_env_error: OnEnvError = "stop"
    """What an error of the environment does: stop, or drop the episode and record another in its place."""

    def __post_init__(self) -> None:
        for name, number in (("episodes", self.episodes), ("num_envs", self.processes)):
            if number < 1:
                raise ValueError(f"{name} must be at least 1, got {number}")
        if not 0 <= self.seed < 100:  # beyond, the episodes would be those held out
            raise ValueError(f"seed must be in 0 ... 99, got {self.seed}")
        SuccessRule(self.success)

    @property
    def processes(self) -> int:
        """The number of processes that record at once."""
        if self.num_envs is not None:
            return self.num_envs
        return min(self.episodes, os.cpu_count() or 1) if self.vectorization_mode == "async" else 1

    def maker(self) -> Callable[[], Env]:
        """What makes the environment, also in another process."""
        return partial(make_env, self.env, **self.env_options)


def demonstrate(config: RecordingConfig, errors: EnvironmentErrors | None = None) -> Dataset:
    """Record the demonstrator of an environment, after seeding the global random states.

    `errors` counts the episodes that were lost; see `record_demonstrations` for what is raised.
    """
    seed_all(config.seed)
    return record_demonstrations(
        config.maker(),
        config.episodes,
        config.seed,
        config.processes if config.processes > 1 else 0,
        config.demonstrator_options,
        errors or EnvironmentErrors(config.on_env_error),
        SuccessRule(config.success),
    )


def correct(run: str, config: RecordingConfig, errors: EnvironmentErrors | None = None) -> Corrections:
    """Record the corrections of a run's policy by its environment's supervisor.

    Args:
        run: run folder, or a checkpoint's folder in it.
        config: `env`, `env_options` and `success` must be those of the run, of which only the options may differ.
        errors: counts the episodes that were lost.

    Raises:
        UserError: the environment is another one; see `record_corrections`.
    """
    make = config.maker()
    seed_all(config.seed)
    policy, trained = load_run(run)
    if config.env != trained.run.env:
        raise UserError(f"corrections {run}: its environment is {trained.run.env!r}: give no --env")
    with environments_turn(), closing(CheckedEnvironment(make())) as environment:
        require_fit(policy, environment, run)
    errors, rule = errors or EnvironmentErrors(config.on_env_error), SuccessRule(config.success)
    return record_corrections(make, policy, config.episodes, config.seed, config.demonstrator_options, errors, rule)
