"""Training of a run, from its settings to its last evaluation."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from gymnasium.vector import VectorEnv

from softflow.algos import Algorithm
from softflow.console import note, remark
from softflow.data import Dataset
from softflow.envs import NO_ENVIRONMENT, resolve_env_id, time_limit
from softflow.errors import UserError, one_line
from softflow.runs.assembly import make_environments, require_networks
from softflow.runs.config import TrainConfig, read_config
from softflow.runs.description import announce
from softflow.runs.filming import EvaluationFilms
from softflow.runs.given_demonstrations import DemonstrationFile, save_copies
from softflow.runs.inputs import Inputs, read_inputs
from softflow.runs.preparation import algorithm_for, fit_to_inputs, frames_for, require_density
from softflow.runs.ray_cluster import require_cluster
from softflow.runs.ray_crew import crew_for
from softflow.settings.fields import to_dict
from softflow.settings.typed import dump_yaml
from softflow.task import TaskSpec
from softflow.training.config import RunConfig
from softflow.training.evaluated import Evaluated, best_of, decline, describe_best
from softflow.training.evaluation import HELD_OUT_SEEDS
from softflow.training.failures import EnvironmentErrors, EnvironmentFailed
from softflow.training.fleet import CrewFailed
from softflow.training.global_state import environments_turn
from softflow.training.loop import Trainer
from softflow.training.random_state import seed_all
from softflow.training.replays import require_room, require_whole_episodes
from softflow.training.rollout import Rollout
from softflow.training.run_folder import RunFolder
from softflow.training.spool import Spool
from softflow.training.vector import closing


@dataclass(frozen=True)
class Trained:
    """Results of a training.

    Attributes:
        evaluations: The evaluations on held-out episodes, in order.
        errors: The number of own episodes that were lost to errors of their environment.
    """

    evaluations: list[Evaluated]
    errors: int


def new_folder(config: TrainConfig[Any]) -> RunFolder:
    """Create and lock the folder of a new run. Raise `UserError` if it cannot be created."""
    run, name = config.run, Path(config.run.algo).stem
    if ":" in config.algorithm and run.algo == RunConfig.algo:  # named without a preset
        name = config.algorithm.rpartition(":")[2]
    return RunFolder.create(run.runs, run.env, name, run.seed, run.run_dir)


_in_training = threading.Lock()


@contextmanager
def _alone() -> Iterator[None]:
    """Refuse a second training in this process: both would draw from the same random states."""
    if not _in_training.acquire(blocking=False):
        raise UserError("another run trains in this process: start this one in a process of its own")
    try:
        yield
    finally:
        _in_training.release()


@_alone()
def train_run(
    config: TrainConfig[Any],
    folder: RunFolder,
    given: Dataset | None = None,
    more: Dataset | DemonstrationFile | None = None,
) -> Trained:
    """Train a run to its end, from the beginning or, with `config.run.resume`, from its last checkpoint.

    Args:
        config: The settings.
        folder: The locked folder of the run.
        given: Demonstrations to use instead of those that `config.run.demos` names.
        more: Demonstrations, or their file, that a resumed run learns from as well from now on.

    Raises:
        UserError: The settings, the files that they name or the demonstrations are invalid; or an environment failed.
        KeyboardInterrupt: SIGINT or SIGTERM arrived. The folder contains a checkpoint if training had begun.
    """
    torch.set_num_threads(config.run.threads)
    seed_all(config.run.seed)
    with environments_turn():
        resolve_env_id(config.run.env)  # its module may register flows and dataset formats as well
    film = EvaluationFilms(config.run, folder.given) if config.run.eval_films else None
    if not config.run.resume:
        require_networks(config)
    require_cluster(config.run)
    inputs, config = read_inputs(config, folder, given, more)
    run = config.run
    algorithm = algorithm_for(config, inputs, folder)
    frames = frames_for(run, inputs, algorithm, folder)
    require_room(run, folder, inputs.demonstrations[0], algorithm, frames)
    fit_to_inputs(algorithm, inputs, run)
    acts_elsewhere = run.actors or run.robots
    with (
        _side_by_side(run, 1 if acts_elsewhere else run.num_envs, algorithm) as environments,
        _side_by_side(run, min(run.num_envs, max(run.eval_episodes, 1)), algorithm) as held_out,
        crew_for(config, *inputs.sizes) as crew,
    ):
        task = replace(TaskSpec.from_env(environments), success=run.success)
        inputs.require_task(task, run.demos or "demonstrations")
        algorithm.deployed.task = task
        if film is not None:
            film.try_out()
        if run.eval_episodes and run.env != NO_ENVIRONMENT:
            _try_out(held_out, run)
        spool = _describe_to_robots(config, task)
        if inputs.has_foreign_base:
            algorithm.require_base(torch.tensor(inputs.demonstrations[0].observation[:2], device=run.device))
        if not run.resume:  # only now, after all checks of the input
            require_whole_episodes(run, algorithm, inputs.demonstrations, time_limit(environments))
            folder.save_settings(partial(dump_yaml, config))
            inputs.save(folder)
        announce(config, folder.given, inputs, algorithm, environments, frames)
        trainer = Trainer(
            algorithm, inputs.learned_from, environments, held_out, folder, run, inputs.mirror, spool or crew, frames,
            held_out_demonstrations=inputs.with_images(inputs.held_out), film=film,
        )  # fmt: skip
        if run.resume:
            _load_checkpoint(trainer, run.resume)
            if more is not None:
                _record_more(trainer, folder, inputs)
            _keep_settings(config, folder)
        evaluations = _run_stages(trainer, folder)
    _say_which_is_best(evaluations)
    return Trained(evaluations, trainer.environment_errors.count)


def _side_by_side(
    run: RunConfig, number: int, algorithm: Algorithm
) -> AbstractContextManager[VectorEnv[Any, Any, Any]]:
    """Make environments that are closed at the end."""
    return closing(make_environments(run, number, algorithm.n_action_steps))


def _try_out(environments: VectorEnv[Any, Any, Any], run: RunConfig) -> None:
    """Start an episode, so that an environment that cannot, as without a display, fails now and not after imitation."""
    Rollout(environments, iter([HELD_OUT_SEEDS]), EnvironmentErrors(run.on_env_error)).start_episodes()


def _describe_to_robots(config: TrainConfig[Any], task: TaskSpec) -> Spool | None:
    """Return the folder of the robots, in which the run is described for them. None if the run has no robots."""
    if config.run.robots is None:
        return None
    spool = Spool(config.run.robots)
    spool.describe(to_dict(config), task)
    return spool


def _record_more(trainer: Trainer, folder: RunFolder, inputs: Inputs) -> None:
    """Replace the run's copies of its demonstrations by the longer ones. A later `--resume` starts from these copies.

    Raises:
        UserError: The flow has no density at the demonstrated actions, or the run has finished.
    """
    require_density(trainer.algorithm, inputs.demonstrations)  # only now: the checkpoint has the statistics of a base
    if trainer.has_finished:
        raise UserError(
            f"{folder.given} has finished: give online.steps as well, so that it learns from more demonstrations"
        )
    with folder.writing():
        save_copies(folder.path, inputs.dataset, inputs.held_out)


def _keep_settings(config: TrainConfig[Any], folder: RunFolder) -> None:
    """Write the configuration of a resumed run to its folder if it has changed, for the next `--resume`."""
    settings = replace(config, run=replace(config.run, resume=None))
    if to_dict(settings) != to_dict(read_config(str(folder.config_path))):
        folder.save_settings(partial(dump_yaml, settings))


def _load_checkpoint(trainer: Trainer, run: str) -> None:
    try:
        trainer.resume()
    except UserError:
        raise
    except Exception as error:  # anything in the checkpoint may not fit
        raise UserError(f"{run}: its checkpoint does not match its configuration: {one_line(error)}") from error


def _run_stages(trainer: Trainer, folder: RunFolder) -> list[Evaluated]:
    """Run all stages. Errors after which the run can go on say from where."""
    try:
        return trainer.run()
    except CrewFailed as error:
        raise UserError(f"{one_line(error)}; then --resume {folder.given}") from error
    except (EnvironmentFailed, FloatingPointError) as error:
        if not folder.has_checkpoint:
            raise
        kept = Path(folder.given, "checkpoints", folder.last_checkpoint().name)
        raise UserError(f"{one_line(error)}; the last checkpoint, {kept}, is from before") from error


def _say_which_is_best(evaluations: Sequence[Evaluated]) -> None:
    if (warning := decline(evaluations)) is not None:
        remark(warning)
    if (best := best_of(evaluations)) is not None:
        note(describe_best(best, evaluations[-1]))
