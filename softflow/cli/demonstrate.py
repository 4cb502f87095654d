"""`softflow-demo`: have an environment's demonstrator record demonstrations, or corrections of a policy that fails."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from softflow.cli.command_line import as_json, parse_command_line, run_main
from softflow.data import save_corrections, save_demonstrations
from softflow.envs import make_env
from softflow.errors import UserError
from softflow.runs.assembly import load_run, locate_checkpoint, read_config, require_fit, require_new_file
from softflow.runs.record_corrections import record_corrections
from softflow.runs.record_demonstrations import record_demonstrations
from softflow.settings.presets import Selection, preset_layers
from softflow.settings.typed import Layer
from softflow.task import TaskSpec
from softflow.training.checked_environment import CheckedEnvironment
from softflow.training.config import EnvOptions
from softflow.training.evaluation import summarize
from softflow.training.failures import EnvironmentErrors, OnEnvError
from softflow.training.global_state import environments_turn
from softflow.training.intervals import wilson_interval
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
        with environments_turn(), closing(CheckedEnvironment(make())) as environment:
            task = replace(TaskSpec.from_env(environment), success=config.success)
        save_demonstrations(target, episodes, task)
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


if __name__ == "__main__":
    sys.exit(main())
