"""The demonstrations of a run: recorded, read from a file or given, and those that are added to a resumed run."""

from __future__ import annotations

import os
from contextlib import chdir
from dataclasses import replace

from softflow.console import note
from softflow.data import Dataset, Episode, check_compatible, in_order_of, read_dataset
from softflow.errors import UserError
from softflow.runs.assembly import environment_maker, make_environment
from softflow.runs.record_demonstrations import record_demonstrations
from softflow.task import TaskSpec
from softflow.training.config import RunConfig
from softflow.training.failures import EnvironmentErrors
from softflow.training.success import SuccessRule

DEMONSTRATIONS = "demonstrations.npz"
"""File name of the copy of the demonstrations in the run folder."""


def first_demonstrations(config: RunConfig, given: Dataset | None) -> Dataset:
    """Return the demonstrations of a new run: those given, else those of the file, else those of the demonstrator.

    Raises:
        UserError: They are invalid or of another task, or the environment has no demonstrator.
    """
    if config.demos is None and given is None:
        processes = min(config.num_envs, os.cpu_count() or 1) if config.vectorization_mode == "async" else 0
        errors = EnvironmentErrors(config.on_env_error)
        rule, number = SuccessRule(config.success), config.num_demos
        return record_demonstrations(
            environment_maker(config), number, config.seed, processes, errors=errors, success=rule
        )
    if config.demos is not None:
        dataset = read_dataset(config.demos, wanted=_task(config))
        if len(dataset.episodes) < config.num_demos:
            note(f"{config.demos} has {len(dataset.episodes)} episodes, all are used (num_demos is {config.num_demos})")
    else:
        assert given is not None
        dataset = given
    dataset = _fitting(config, dataset, config.demos or "demos")
    return Dataset(dataset.episodes[: config.num_demos], dataset.task)


def with_more_demonstrations(config: RunConfig, dataset: Dataset, more: Dataset | str) -> Dataset:
    """Return the demonstrations of a resumed run, followed by all of `more` that are not yet among them.

    Repeating the command that added them thus adds nothing.

    Args:
        config: The settings of the run.
        dataset: The demonstrations of the run.
        more: The demonstrations to add, or their file.

    Raises:
        UserError: They are invalid or of another task.
    """
    name = more if isinstance(more, str) else "demos"
    added = _fitting(config, read_dataset(more, wanted=_task(config)) if isinstance(more, str) else more, name)
    known = set(map(identity, dataset.episodes))
    new = [replace(episode, task=dataset.task) for episode in added.episodes if identity(episode) not in known]
    note(f"{name}: {len(new)} demonstrations are added, {len(added.episodes) - len(new)} were there already")
    return Dataset([*dataset.episodes, *new], dataset.task)


def identity(episode: Episode) -> tuple[bytes, bytes]:
    """Return what distinguishes an episode from all others: its observations and actions."""
    return episode.observation.tobytes(), episode.action.tobytes()


def _fitting(config: RunConfig, dataset: Dataset, name: str) -> Dataset:
    """Return a dataset in the environment's order of parts. Raise `UserError` if it does not fit the environment."""
    if not dataset.episodes:
        raise UserError(f"{name} has no episode: give at least one")
    task = _task(config)
    dataset = in_order_of(task, dataset)
    if dataset.task is not None and dataset.task.success != config.success:
        note(f"{name} was judged by success {dataset.task.success!r}, this run by {config.success!r}")
    sizes = task.observation_size, task.action_dim
    check_compatible(dataset.episodes, *sizes, recorded=dataset.task, expected=task)
    return dataset


def _task(config: RunConfig) -> TaskSpec:
    """Return the task of the run's environment, judged by the run's rule."""
    with chdir("."):  # files that the configuration names are read later, and an environment may change the folder
        return replace(TaskSpec.from_env(make_environment(config)), success=config.success)
