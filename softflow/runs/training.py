"""Training of a run, from its settings to its last evaluation."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium.vector import VectorEnv

from softflow.algos import Algorithm
from softflow.console import note, remark
from softflow.data import (
    Corrections,
    Dataset,
    Episode,
    ImitationRule,
    check_compatible,
    describe_reward,
    observation_statistics,
    some_observations,
)
from softflow.data.takeovers import describe_takeovers
from softflow.envs import NO_ENVIRONMENT, resolve_env_id, time_limit
from softflow.errors import UserError, one_line
from softflow.policies.bases import is_foreign
from softflow.runs.assembly import (
    give,
    load_deployed,
    make_algorithm,
    make_environments,
    make_mirror,
    require_networks,
    with_imitation_updates,
    with_saved_weights,
)
from softflow.runs.config import TrainConfig, read_config
from softflow.runs.description import (
    how_much_is_acted,
    how_much_is_imitated,
    normalizes_actions,
    what_is_normalized,
    what_is_seen,
)
from softflow.runs.filming import EvaluationFilms
from softflow.runs.given_corrections import first_corrections, save_copy, saved_corrections
from softflow.runs.given_demonstrations import (
    DemonstrationFile,
    first_demonstrations,
    not_among,
    save_copies,
    saved_demonstrations,
    with_more_demonstrations,
    without_environment,
)
from softflow.runs.ray_crew import crew_for
from softflow.settings.fields import to_dict
from softflow.settings.typed import dump_yaml
from softflow.task import TaskSpec
from softflow.training.config import RunConfig
from softflow.training.evaluated import Evaluated, best_of, decline, describe_best
from softflow.training.failures import EnvironmentFailed
from softflow.training.fleet import CrewFailed
from softflow.training.frames import encoded_frames
from softflow.training.global_state import environments_turn
from softflow.training.loop import Trainer
from softflow.training.random_state import seed_all
from softflow.training.replays import read_from, require_room, require_whole_episodes
from softflow.training.run_folder import RunFolder
from softflow.training.spool import Spool
from softflow.training.success import NONE_SUCCEEDS
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
    run, resume = config.run, config.run.resume
    torch.set_num_threads(run.threads)
    seed_all(run.seed)
    with environments_turn():
        resolve_env_id(run.env)  # its module may register flows and dataset formats as well
    film = EvaluationFilms(run, folder.given) if run.eval_films else None
    if not resume:
        require_networks(config)
    # Files that the configuration names are read first: environments may change the current folder.
    base_run, corrections_files = (getattr(config.method, name, None) for name in ("base", "corrections"))
    base = corrections = None
    takes_foreign = base_run is not None and is_foreign(base_run)
    if base_run is not None and not takes_foreign and not resume:  # a checkpoint contains it
        base = load_deployed(base_run)
    if run.env == NO_ENVIRONMENT and not resume:
        run, given = without_environment(run, given)
        config = replace(config, run=run)
    if corrections_files is not None:
        corrections = saved_corrections(folder.path) if resume else first_corrections(run, corrections_files)
    dataset, held_out_demos = saved_demonstrations(folder.path) if resume else first_demonstrations(run, given)
    if more is not None:
        dataset = with_more_demonstrations(run, dataset, more)
        held_out_demos = not_among(dataset, held_out_demos)
    demonstrations = dataset.episodes
    imitated = ImitationRule(run.imitate).choose(demonstrations)
    run = replace(run, imitate=imitated.rule.text)  # what a resumed run finds in its settings and keeps
    layout = demonstrations[0].layout
    mirror = make_mirror(run, layout)
    steps = imitated.steps(demonstrations) * (2 if mirror else 1)
    config = with_imitation_updates(replace(config, run=run), steps)
    sizes = layout or demonstrations[0].observation_dim, demonstrations[0].action_dim
    made_of = with_saved_weights(config) if resume or base_run is not None else config
    algorithm = make_algorithm(made_of, *sizes, folder.last_checkpoint() if resume else None)
    if run.env == NO_ENVIRONMENT and not run.robots:
        _require_no_steps(algorithm)
    if base is not None:
        give(algorithm.load_base, base.policy.policy, f"base {base_run}")
    if algorithm.imitates:
        imitated.rule.require_some(demonstrations)
    frames = None
    if corrections is None:  # their own replays hold frames as they are
        cache = Path(run.frame_cache).absolute() if run.frame_cache is not None else folder.path / "features"
        frames = encoded_frames(algorithm.deployed.policy, run.device, cache)
    require_room(run, folder, demonstrations[0], algorithm, frames)

    def with_images(episodes: list[Episode]) -> list[Episode]:
        return episodes + [mirror(episode) for episode in episodes] if mirror else episodes

    learned_from, named = with_images(demonstrations), f"corrections {' '.join(corrections_files or ())}"
    if isinstance(corrections, Corrections):
        give(algorithm.load_corrections, corrections, named)
    elif corrections is not None:
        give(algorithm.load_takeovers, with_images(corrections.episodes), named)
    mean, std = observation_statistics(learned_from)
    if base_run is None or takes_foreign:  # the policy of a run keeps the statistics that it was trained with
        algorithm.fit_normalizer(torch.as_tensor(mean), torch.as_tensor(std))
        if layout is not None:
            algorithm.fit_pictures(torch.as_tensor(some_observations(learned_from), device=run.device))
        algorithm.fit_actions(learned_from)
    if base is not None:
        algorithm.fit_critics()
    if algorithm.imitates and not resume:
        _require_density(algorithm, demonstrations)
    successes = np.mean([episode.is_success for episode in demonstrations])

    def side_by_side(number: int) -> AbstractContextManager[VectorEnv[Any, Any, Any]]:
        return closing(make_environments(run, number, algorithm.n_action_steps))

    held_out_number = min(run.num_envs, max(run.eval_episodes, 1))
    with (
        side_by_side(1 if run.actors or run.robots else run.num_envs) as environments,
        side_by_side(held_out_number) as held_out,
        crew_for(config, *sizes) as crew,
    ):
        task = replace(TaskSpec.from_env(environments), success=run.success)
        for what, other in (
            (run.demos or "demonstrations", dataset),
            (f"base {base_run}", base.policy if base is not None else None),
            (named, corrections),
        ):
            if other is not None and other.task is not None:
                task.require_same(other.task, what)
        check_compatible(demonstrations, task.observation_size, task.action_dim)
        algorithm.deployed.task = task
        if film is not None:
            film.try_out()
        spool = None if run.robots is None else Spool(run.robots)
        if spool is not None:
            spool.describe(to_dict(config), task)
        if takes_foreign:
            algorithm.require_base(torch.tensor(demonstrations[0].observation[:2], device=run.device))
        if not resume:  # only now, after all checks of the input
            require_whole_episodes(run, algorithm, demonstrations, time_limit(environments))
            folder.save_settings(partial(dump_yaml, config))
            with folder.writing():
                save_copies(folder.path, dataset, held_out_demos)
                if corrections is not None:
                    save_copy(folder.path, corrections)
        note(f"{len(demonstrations)} demonstrations, success {successes:.2f}; run folder {folder.given}")
        if not successes and not resume:
            remark(NONE_SUCCEEDS)
        note(describe_reward(run.reward, demonstrations, run.env != NO_ENVIRONMENT))
        if algorithm.imitates:
            note(imitated.describe(demonstrations))
            if (taken_over := describe_takeovers(demonstrations, algorithm.deployed.policy.horizon)) is not None:
                note(taken_over)
        if (imitating := how_much_is_imitated(config.method, steps)) is not None:
            note(imitating)
        note(what_is_seen(environments, learned_from))
        if (acted := how_much_is_acted(algorithm, demonstrations)) is not None:
            note(acted)
        if frames is not None:
            number = sum(len(episode) + 1 for episode in learned_from)
            note(frames.announce(number, task.row_size, read_from(algorithm)))
        if base is not None:
            skipped = all(stage.name != "imitation" for stage in algorithm.schedule())
            what = "takes the place of imitation, which is skipped" if skipped else "is trained further"
            note(f"base {base_run}: its policy {what}")
            base.say_choice()
        elif takes_foreign:
            note(f"base {base_run}: frozen; every checkpoint compares its SHA-256 with that at the start")
        elif normalizes_actions(algorithm):
            note(what_is_normalized(environments, learned_from))
        trainer = Trainer(
            algorithm, learned_from, environments, held_out, folder, run, mirror, spool or crew, frames,
            held_out_demonstrations=with_images(held_out_demos), film=film,
        )  # fmt: skip
        if resume:
            _resume(trainer, resume)
            if more is not None:
                if algorithm.imitates:  # only now, because the checkpoint has the statistics of a base
                    _require_density(algorithm, demonstrations)
                _record_more(trainer, folder, dataset, held_out_demos)
            _keep_settings(config, folder)
        try:
            evaluations = trainer.run()
        except CrewFailed as error:
            raise UserError(f"{one_line(error)}; then --resume {folder.given}") from error
        except (EnvironmentFailed, FloatingPointError) as error:
            if not folder.has_checkpoint:
                raise
            kept = Path(folder.given, "checkpoints", folder.last_checkpoint().name)
            raise UserError(f"{one_line(error)}; the last checkpoint, {kept}, is from before") from error
    if (warning := decline(evaluations)) is not None:
        remark(warning)
    if (best := best_of(evaluations)) is not None:
        note(describe_best(best, evaluations[-1]))
    return Trained(evaluations, trainer.environment_errors.count)


def _require_no_steps(algorithm: Algorithm) -> None:
    """Raise `UserError` if a stage of a run without an environment acts."""
    acting = [stage.name for stage in algorithm.schedule() if stage.acts]
    if acting:
        raise UserError(
            f"the stages {', '.join(acting)} act, and there is no environment to act in (env is none): use a method "
            "that does not act, such as --algo imitation, or let robots act, --robots FOLDER"
        )


def _record_more(trainer: Trainer, folder: RunFolder, dataset: Dataset, held_out: Sequence[Episode]) -> None:
    """Replace the run's copies of its demonstrations. A later `--resume` starts from these copies."""
    if trainer.has_finished:
        raise UserError(
            f"{folder.given} has finished: give online.steps as well, so that it learns from more demonstrations"
        )
    with folder.writing():
        save_copies(folder.path, dataset, held_out)


def _keep_settings(config: TrainConfig[Any], folder: RunFolder) -> None:
    """Write the configuration of a resumed run to its folder if it has changed, for the next `--resume`."""
    settings = replace(config, run=replace(config.run, resume=None))
    if to_dict(settings) != to_dict(read_config(str(folder.config_path))):
        folder.save_settings(partial(dump_yaml, settings))


@torch.no_grad()
def _require_density(algorithm: Algorithm, demonstrations: Sequence[Episode]) -> None:
    """Raise `UserError` if the flow has no density at the extremes of the demonstrated actions."""
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
    except Exception as error:  # anything in the checkpoint may not fit
        raise UserError(f"{run}: its checkpoint does not match its configuration: {one_line(error)}") from error
