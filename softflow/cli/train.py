"""`softflow-train`: from demonstrations to a policy, in the stages of an algorithm."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium.vector import VectorEnv

from flows import available_flows
from softflow.algos import Algorithm
from softflow.cli.command_line import parse_command_line, read_selection, run_main
from softflow.cli.config import Layer, dotted_fields, dump_yaml, to_dict
from softflow.cli.demonstrate import record_demonstrations
from softflow.cli.runs import (
    config_class,
    environment_maker,
    load_base,
    load_correction_file,
    make_algorithm,
    make_environment,
    make_environments,
    make_mirror,
    read_config,
    training_layers,
)
from softflow.data import (
    Episode,
    Replay,
    check_compatible,
    constant_dimensions,
    load_demonstrations,
    observation_statistics,
    row_dtype,
    save_corrections,
    save_demonstrations,
)
from softflow.envs import describe_spaces, find_layout, name_dimensions, time_limit
from softflow.errors import UserError, one_line
from softflow.training.config import RunConfig
from softflow.training.evaluation import Evaluation
from softflow.training.failures import EnvironmentErrors, EnvironmentFailed
from softflow.training.loop import Trainer
from softflow.training.random_state import seed_all
from softflow.training.run_folder import RunFolder, require_unused
from softflow.training.success import SuccessRule
from softflow.training.vector import closing


@run_main
def main(argv: Sequence[str]) -> None:
    config = _parse(argv)
    torch.set_num_threads(config.threads)
    if config.resume:
        folder = RunFolder.open(config.resume)
        demonstrations = load_demonstrations(folder.path / DEMONSTRATIONS)
    else:
        require_unused(config.run_dir)
        demonstrations = _demonstrations(config)

    seed_all(config.seed)
    layout = demonstrations[0].layout
    algorithm = make_algorithm(config, layout or demonstrations[0].observation_dim, demonstrations[0].action_dim)
    base = getattr(config, "base", None)
    if base is not None:
        if not config.resume:  # a checkpoint holds it
            load_base(algorithm, base)
    elif algorithm.imitates:
        _require_density(algorithm, demonstrations)
    corrections = getattr(config, "corrections", None)
    if corrections is not None:
        path = folder.path / CORRECTIONS if config.resume else corrections
        corrections = load_correction_file(algorithm, path)
    _require_room(config, demonstrations[0])
    mirror = make_mirror(config, layout)
    learned_from = demonstrations + ([mirror(episode) for episode in demonstrations] if mirror else [])
    mean, std = observation_statistics(learned_from)
    algorithm.fit_normalizer(torch.as_tensor(mean), torch.as_tensor(std))
    successes = np.mean([episode.is_success for episode in demonstrations])

    def side_by_side(number: int) -> AbstractContextManager[VectorEnv[Any, Any, Any]]:
        return closing(make_environments(config, number, algorithm.execute))

    held_out_number = min(config.num_envs, config.eval_episodes)
    with side_by_side(config.num_envs) as environments, side_by_side(held_out_number) as held_out:
        if not config.resume:  # only now, when nothing of the input can be wrong any more
            _require_whole_episodes(config, algorithm, demonstrations, time_limit(environments))
            folder = RunFolder.create(config.runs, config.env, Path(config.algo).stem, config.seed, config.run_dir)
            with folder.writing():
                dump_yaml(config, folder.config_path)
                save_demonstrations(folder.path / DEMONSTRATIONS, demonstrations)
                if corrections is not None:
                    save_corrections(folder.path / CORRECTIONS, corrections)
        print(f"{len(demonstrations)} demonstrations, success {successes:.2f}; run folder {folder.path}", flush=True)
        print(_what_is_seen(environments, learned_from), flush=True)
        trainer = Trainer(algorithm, learned_from, environments, held_out, folder, config, mirror)
        if config.resume:
            _resume(trainer, config.resume)
        try:
            evaluations = trainer.run()
        except KeyboardInterrupt:
            print(f"\ncontinue with: softflow-train --resume {folder.path}", file=sys.stderr)
            raise
        except (EnvironmentFailed, FloatingPointError) as error:
            kept = folder.last_checkpoint()
            raise UserError(f"{one_line(error)}; the last checkpoint, {kept}, is from before") from error
    print(_summary(evaluations, folder, trainer.environment_errors.count))


DEMONSTRATIONS = "demonstrations.npz"
"""Name of the demonstrations' copy in the run folder."""
CORRECTIONS = "corrections.npz"
"""Name of the corrections' copy there."""


CHANGEABLE = "on_env_error", "env_time_limit"
"""Settings that a resumed run may change: what is done about environments that misbehave."""


def _parse(argv: Sequence[str]) -> Any:
    selection = read_selection(RunConfig, argv)
    command = dict(
        prog="softflow-train",
        description="Train a policy over action chunks: imitation, then reinforcement learning.\n"
        f"--flow takes one of: {', '.join(available_flows())}.",
    )
    if selection.resume is None:
        return parse_command_line(
            config_class(selection), argv, **command, layers_for=lambda _: training_layers(selection)
        )
    path = RunFolder.open(selection.resume).config_path
    saved = read_config(str(path))
    saved.resume = selection.resume
    config = parse_command_line(type(saved), argv, **command, layers_for=lambda _: [Layer(to_dict(saved), str(path))])
    keys = [key for key, _ in dotted_fields(type(saved))]
    changed = [key for key in keys if key not in CHANGEABLE and attrgetter(key)(config) != attrgetter(key)(saved)]
    if changed:
        raise UserError(f"a resumed run keeps its settings: {', '.join(changed)} cannot be changed; start a new run")
    return config


def _demonstrations(config: RunConfig) -> list[Episode]:
    if config.demos is None:
        processes = min(config.num_envs, os.cpu_count() or 1) if config.vectorization_mode == "async" else 0
        errors = EnvironmentErrors(config.on_env_error)
        return record_demonstrations(
            environment_maker(config),
            config.num_demos,
            config.seed,
            processes,
            errors=errors,
            success=SuccessRule(config.success),
        )
    episodes = load_demonstrations(config.demos)
    if len(episodes) < config.num_demos:
        print(f"{config.demos} has {len(episodes)} episodes, all are used (num_demos is {config.num_demos})")
    environment = make_environment(config)
    observations, actions = environment.observation_space.shape, environment.action_space.shape
    assert observations is not None and actions is not None
    check_compatible(episodes, find_layout(environment) or observations[0], actions[0])
    return episodes[: config.num_demos]


def _require_room(config: RunConfig, episode: Episode) -> None:
    """Raises `UserError` if memory or disk has no room for a replay of this capacity."""
    sizes = episode.observation_dim, episode.action_dim, episode.observation.dtype
    if config.replay_storage == "disk":
        wanted = Path(config.run_dir or config.runs).absolute()
        disk = next(folder for folder in (wanted, *wanted.parents) if folder.exists())
        needed, free = config.replay_capacity * row_dtype(*sizes).itemsize, shutil.disk_usage(disk).free
        if needed > free and not config.resume:
            raise UserError(
                f"replay_capacity {config.replay_capacity:,}: {needed / 1e9:,.1f} GB of rows, and {disk} has "
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
    return "\n".join([*lines, f"run folder: {folder.path}", f"next: softflow-eval {folder.path} --episodes 100"])


if __name__ == "__main__":
    sys.exit(main())
