"""A run from its settings to its last evaluation."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path
from shlex import quote
from typing import Any

import numpy as np
import torch
from gymnasium.vector import VectorEnv

from softflow.algos import Algorithm
from softflow.console import note
from softflow.data import (
    Dataset,
    Episode,
    Replay,
    check_compatible,
    constant_dimensions,
    load_corrections,
    observation_statistics,
    read_demonstrations,
    row_dtype,
    save_corrections,
    save_demonstrations,
)
from softflow.data.readers import read_dataset
from softflow.envs import describe_spaces, find_layout, name_dimensions, time_limit
from softflow.errors import UserError, one_line
from softflow.runs.assembly import (
    environment_maker,
    give,
    make_algorithm,
    make_environment,
    make_environments,
    make_mirror,
    read_base,
    read_config,
)
from softflow.runs.record_demonstrations import record_demonstrations
from softflow.settings.typed import dump_yaml, to_dict
from softflow.task import TaskSpec
from softflow.training.config import RunConfig
from softflow.training.evaluation import Evaluation
from softflow.training.failures import EnvironmentErrors, EnvironmentFailed
from softflow.training.loop import Trainer
from softflow.training.random_state import seed_all
from softflow.training.run_folder import RunFolder
from softflow.training.success import SuccessRule
from softflow.training.vector import closing

DEMONSTRATIONS = "demonstrations.npz"
"""Name of the demonstrations' copy in the run folder."""
CORRECTIONS = "corrections.npz"
"""Name of the corrections' copy there."""


def train_run(config: Any, folder: RunFolder) -> None:
    torch.set_num_threads(config.threads)
    seed_all(config.seed)
    # Files that the configuration names are read first: environments may change the current folder.
    base_run, corrections_file = getattr(config, "base", None), getattr(config, "corrections", None)
    base = corrections = None
    if base_run is not None and not config.resume:  # a checkpoint holds it
        base = read_base(base_run)
    if corrections_file is not None:
        corrections = load_corrections(folder.path / CORRECTIONS if config.resume else corrections_file)
    recorded, demonstrations = (
        read_demonstrations(folder.path / DEMONSTRATIONS) if config.resume else _demonstrations(config)
    )

    layout = demonstrations[0].layout
    sizes = layout or demonstrations[0].observation_dim, demonstrations[0].action_dim
    algorithm = make_algorithm(config, *sizes, folder.last_checkpoint() if config.resume else None)
    if base is not None:
        give(algorithm.load_base, base, f"base {base_run}")
    elif base_run is None and algorithm.imitates:
        _require_imitable(demonstrations)
        _require_density(algorithm, demonstrations)
    if corrections is not None:
        give(algorithm.load_corrections, corrections, f"corrections {corrections_file}")
    _require_room(config, folder, demonstrations[0])
    mirror = make_mirror(config, layout)
    learned_from = demonstrations + ([mirror(episode) for episode in demonstrations] if mirror else [])
    mean, std = observation_statistics(learned_from)
    algorithm.fit_normalizer(torch.as_tensor(mean), torch.as_tensor(std))
    successes = np.mean([episode.is_success for episode in demonstrations])

    def side_by_side(number: int) -> AbstractContextManager[VectorEnv[Any, Any, Any]]:
        return closing(make_environments(config, number, algorithm.n_action_steps))

    held_out_number = min(config.num_envs, config.eval_episodes)
    with side_by_side(config.num_envs) as environments, side_by_side(held_out_number) as held_out:
        task = replace(TaskSpec.from_env(environments), success=config.success)
        if corrections is not None and corrections.task is not None:
            task.require_same(corrections.task, f"corrections {corrections_file}")
        if not config.resume:  # only now, when nothing of the input can be wrong any more
            _require_whole_episodes(config, algorithm, demonstrations, time_limit(environments))
            folder.save_settings(partial(dump_yaml, config))
            with folder.writing():
                recorded = recorded if config.demos is not None else task
                save_demonstrations(folder.path / DEMONSTRATIONS, demonstrations, recorded)
                if corrections is not None:
                    save_corrections(folder.path / CORRECTIONS, corrections)
        note(f"{len(demonstrations)} demonstrations, success {successes:.2f}; run folder {folder.given}")
        note(_what_is_seen(environments, learned_from))
        trainer = Trainer(algorithm, learned_from, environments, held_out, folder, config, mirror)
        if config.resume:
            _resume(trainer, config.resume)
            _keep_settings(config, folder)
        try:
            evaluations = trainer.run()
        except KeyboardInterrupt:
            if folder.has_checkpoint:
                print(f"\ncontinue with: softflow-train --resume {quote(folder.given)}", file=sys.stderr)
            raise
        except (EnvironmentFailed, FloatingPointError) as error:
            if not folder.has_checkpoint:
                raise
            kept = Path(folder.given, "checkpoints", folder.last_checkpoint().name)
            raise UserError(f"{one_line(error)}; the last checkpoint, {kept}, is from before") from error
    note(_summary(evaluations, folder, trainer.environment_errors.count))


def _keep_settings(config: Any, folder: RunFolder) -> None:
    """Write the configuration of a resumed run to its folder if it has changed: the next `--resume` goes on with it."""
    settings = replace(config, resume=None)
    if to_dict(settings) != to_dict(read_config(str(folder.config_path))):
        folder.save_settings(partial(dump_yaml, settings))


def _demonstrations(config: RunConfig) -> Dataset:
    if config.demos is None:
        processes = min(config.num_envs, os.cpu_count() or 1) if config.vectorization_mode == "async" else 0
        errors = EnvironmentErrors(config.on_env_error)
        shown = record_demonstrations(
            environment_maker(config),
            config.num_demos,
            config.seed,
            processes,
            errors=errors,
            success=SuccessRule(config.success),
        )
        return Dataset(None, shown)
    recorded, episodes = read_dataset(config.demos)
    if len(episodes) < config.num_demos:
        print(f"{config.demos} has {len(episodes)} episodes, all are used (num_demos is {config.num_demos})")
    environment = make_environment(config)
    observations, actions = environment.observation_space.shape, environment.action_space.shape
    assert observations is not None and actions is not None
    check_compatible(
        episodes,
        find_layout(environment) or observations[0],
        actions[0],
        recorded=recorded,
        expected=TaskSpec.from_env(environment),
    )
    if recorded is not None and recorded.success != config.success:
        note(f"{config.demos} was judged by success {recorded.success!r}, this run judges by {config.success!r}")
    return Dataset(recorded, episodes[: config.num_demos])


def _require_room(config: RunConfig, folder: RunFolder, episode: Episode) -> None:
    """Raises `UserError` if memory or disk has no room for a replay of this capacity."""
    sizes = episode.observation_dim, episode.action_dim, episode.observation.dtype
    if config.replay_storage == "disk":
        needed, free = config.replay_capacity * row_dtype(*sizes).itemsize, shutil.disk_usage(folder.path).free
        if needed > free and not config.resume:
            raise UserError(
                f"replay_capacity {config.replay_capacity:,}: {needed / 1e9:,.1f} GB of rows, and {folder.given} has "
                f"{free / 1e9:,.1f} GB free: set replay_capacity lower"
            )
        return
    try:
        Replay(config.replay_capacity, *sizes)
    except (ValueError, MemoryError) as error:
        raise UserError(f"replay_capacity {config.replay_capacity}: {one_line(error)}") from error


def _require_whole_episodes(
    config: RunConfig, algorithm: Algorithm, demonstrations: Sequence[Episode], limit: int | None
) -> None:
    """Raises `UserError` if the replay cannot hold an episode as long as the time limit, or else the demonstrations."""
    longest = limit or max(map(len, demonstrations))
    if longest < config.replay_capacity or not any(stage.acts for stage in algorithm.stages()):
        return
    known = "the environment's time limit is" if limit else "the longest demonstration has"
    raise UserError(
        f"replay_capacity {config.replay_capacity:,} is too small for one episode, {known} {longest:,} steps: set "
        f"--replay-capacity to {longest + 1} or more"
    )


def _what_is_seen(environments: VectorEnv[Any, Any, Any], learned_from: Sequence[Episode]) -> str:
    """What observations and actions were taken for, and which numbers the normalisation knows nothing of."""
    constant, described = constant_dimensions(learned_from), describe_spaces(environments)
    if constant.any():
        described += (
            f"\nobservation dimensions {name_dimensions(environments, constant)} are constant in the demonstrations; "
            "they are centred, not scaled"
        )
    return described


def _require_imitable(demonstrations: Sequence[Episode]) -> None:
    """Raises `UserError` if no step of the demonstrations has reward after it."""
    if not any((np.cumsum(episode.reward[::-1], dtype=np.float64) > 0).any() for episode in demonstrations):
        raise UserError(
            "no step has reward after it, so nothing is worth imitating: give demonstrations with a positive reward, "
            "for instance 1 on the step that succeeded"
        )


@torch.no_grad()
def _require_density(algorithm: Algorithm, demonstrations: Sequence[Episode]) -> None:
    """Raises `UserError` if the flow has no density at the extremes of the demonstrated actions."""
    policy = algorithm.deployed.policy
    actions = np.concatenate([episode.action for episode in demonstrations])
    extremes = torch.as_tensor(np.stack([actions.min(0), actions.max(0)]), dtype=torch.float32)
    chunks = extremes[:, None].expand(-1, policy.horizon, -1).to(next(policy.parameters()))
    try:
        policy.flow.log_prob(chunks, chunks.new_zeros(2, policy.context_dim))
    except ValueError as error:
        raise UserError(f"flow {policy.flow_name!r} cannot imitate these demonstrations: {error}") from error


def _resume(trainer: Trainer, run: str) -> None:
    try:
        trainer.resume()
    except UserError:
        raise
    except Exception as error:  # whatever of a checkpoint does not fit
        raise UserError(f"{run}: its checkpoint is not of its configuration: {one_line(error)}") from error


def _summary(evaluations: Sequence[tuple[str, int, Evaluation]], folder: RunFolder, errors: int) -> str:
    lines = ["", "success on held-out episodes, with 95 % intervals"]
    for stage, result in {stage: result for stage, _, result in evaluations}.items():
        low, high = result.success_ci95
        lines.append(f"  after {stage:<14} {result.success_rate:.2f} [{low:.2f}, {high:.2f}]")
    if errors:
        lines.append(f"own episodes lost to errors of their environment: {errors}")
    return "\n".join(
        [*lines, f"run folder: {folder.given}", f"next: softflow-eval {quote(folder.given)} --episodes 100"]
    )
