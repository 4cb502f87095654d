"""Recording of demonstrations by a demonstrator or a person, or of a supervisor's corrections of a policy."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from softflow.data import Dataset
from softflow.envs import make_env
from softflow.envs.registry import Env
from softflow.errors import UserError
from softflow.runs.assembly import environment_maker, load_run, require_fit
from softflow.runs.record_corrections import record_corrections
from softflow.runs.record_demonstrations import record_demonstrations
from softflow.runs.record_teleoperation import record_teleoperation
from softflow.training.checked_environment import CheckedEnvironment
from softflow.training.config import EnvOptions, check_seed
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
    """Number of episodes to record, including failures. With `corrections`, only episodes with a takeover count."""
    seed: int = 0
    """Seed of the demonstrator and of the episodes, 0 to 99. The episodes of higher seeds are kept for evaluations."""
    num_envs: int | None = None
    """Number of processes that record demonstrations. By default 1, or one per CPU core with `async`."""
    vectorization_mode: VectorizationMode = "sync"
    """Default of `num_envs`: 1 process with `sync`, one per CPU core with `async`."""
    env_options: EnvOptions = field(default_factory=dict)
    """Arguments of the environment, as YAML."""
    success: str = "last"
    """Which episodes count as successes: `last`, `any` or `return>=X` (see softflow-train)."""
    demonstrator_options: dict[str, int | float | str | bool] = field(default_factory=dict)
    """Arguments of the demonstrator, or of the supervisor that corrects the policy, such as its `noise`."""
    teleop: str | None = None
    """Device with which a person demonstrates: `keyboard`, `gamepad`, a registered name or `module:Class`.
    `demonstrator_options` are then those of the device. One process records, whatever `num_envs` is."""
    teleop_rate: float | None = None
    """Control rate in hertz with `teleop`. By default, the control rate of the environment."""
    on_env_error: OnEnvError = "stop"
    """Reaction to an environment error: `stop`, or `restart` the environment and record another episode."""

    def __post_init__(self) -> None:
        for name, number in (("episodes", self.episodes), ("num_envs", self.processes)):
            if number < 1:
                raise ValueError(f"{name} must be at least 1, got {number}")
        if self.teleop_rate is not None and not (self.teleop is not None and 0 < self.teleop_rate < math.inf):
            raise ValueError(f"teleop_rate is a positive number of hertz, with teleop, got {self.teleop_rate}")
        check_seed(self.seed)
        SuccessRule(self.success)

    @property
    def processes(self) -> int:
        """Number of processes that record in parallel."""
        if self.num_envs is not None:
            return self.num_envs
        return min(self.episodes, os.cpu_count() or 1) if self.vectorization_mode == "async" else 1

    def maker(self) -> Callable[[], Env]:
        """Return a function that makes the environment, which can be sent to other processes."""
        return partial(make_env, self.env, **self.env_options)


def demonstrate(config: RecordingConfig, errors: EnvironmentErrors | None = None) -> Dataset:
    """Seed the global random states and record an environment's demonstrator.

    `errors` counts the lost episodes. The exceptions are those of `record_demonstrations`.
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


def teleoperate(config: RecordingConfig, path: Path, errors: EnvironmentErrors | None = None) -> Dataset:
    """Record the demonstrations of a person to the file `path`, by the device `config.teleop`.

    `errors` counts the lost episodes. The exceptions are those of `record_teleoperation`.
    """
    if config.teleop is None:
        raise UserError("teleop names no device: keyboard, gamepad or module:Class")
    if config.env_options.get("render_mode", "rgb_array") != "rgb_array":
        raise UserError(f"teleop needs render_mode rgb_array, got {config.env_options['render_mode']!r}")
    seed_all(config.seed)
    return record_teleoperation(
        partial(make_env, config.env, **{**config.env_options, "render_mode": "rgb_array"}),
        config.teleop,
        path,
        config.episodes,
        config.seed,
        config.teleop_rate,
        config.demonstrator_options,
        errors or EnvironmentErrors(config.on_env_error),
        SuccessRule(config.success),
    )


def correct(run: str, config: RecordingConfig, errors: EnvironmentErrors | None = None) -> Dataset:
    """Record episodes in which a run's policy acts and its environment's supervisor takes over.

    An episode ends as in the run, whose setting `reward` may end it at its success.

    Args:
        run: Run folder, or a checkpoint's folder in it.
        config: The settings. `env` and `success` must be those of the run; `env_options` may differ.
        errors: Counts the lost episodes.

    Raises:
        UserError: The environment is not that of the run, or as in `record_corrections`.
    """
    seed_all(config.seed)
    loaded, trained = load_run(run)
    if config.env != trained.run.env:
        raise UserError(f"corrections {run}: its environment is {trained.run.env!r}: give no --env")
    make = environment_maker(replace(trained.run, env_options=config.env_options))
    with environments_turn(), closing(CheckedEnvironment(make())) as environment:
        require_fit(loaded.policy, environment, run)
    policy, options = loaded.policy, config.demonstrator_options
    errors, rule = errors or EnvironmentErrors(config.on_env_error), SuccessRule(config.success)
    recorded = record_corrections(make, policy, config.episodes, config.seed, options, errors, rule)
    loaded.say_choice()
    return Dataset([replace(one, reward_kind=trained.run.reward) for one in recorded.episodes], recorded.task)
