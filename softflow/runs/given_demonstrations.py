"""The demonstrations of a run: recorded, read from a file or given, and those that are added to a resumed run."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import chdir, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from softflow.console import note, remark
from softflow.data import (
    SUCCESS_REWARDS,
    Dataset,
    Episode,
    check_compatible,
    in_order_of,
    load_dataset,
    read_dataset,
    save_demonstrations,
)
from softflow.data.imitable import episode_return
from softflow.data.part_names import Renaming
from softflow.errors import UserError
from softflow.runs.assembly import environment_maker, make_environment
from softflow.runs.record_demonstrations import record_demonstrations
from softflow.task import TaskMismatch, TaskSpec
from softflow.training.config import RunConfig
from softflow.training.failures import EnvironmentErrors
from softflow.training.success import SuccessRule

DEMONSTRATIONS = "demonstrations.npz"
"""File name of the copy of the demonstrations in the run folder."""
HELD_OUT = "held_out_demonstrations.npz"
"""File name of the copy of those that the run does not learn from."""
LEARNT_FOR_ONE_HELD_OUT = 10
"""Number of demonstrations to learn from for each one that is held out, if a file has more of them."""


class DemonstrationFile(NamedTuple):
    """A file or folder of demonstrations, and how it is read."""

    path: str
    format: str | None = None
    """The name of its format. None recognises it by the content."""
    names: Renaming | None = None
    """What it calls parts of the task, by their names in the task (see `read_dataset`)."""

    @classmethod
    def of(cls, demos: str | None, demos_format: str | None, demo_map: Renaming | None) -> DemonstrationFile | None:
        """Return the file that settings of these names describe. None if they name none.

        Raises:
            UserError: They say how a file is read, but not which one.
        """
        if demos is not None:
            return cls(demos, demos_format, demo_map)
        if given := [name for name, value in (("demos_format", demos_format), ("demo_map", demo_map)) if value]:
            raise UserError(f"{given[0]} says how the file of demos is read, and there is none: give demos as well")
        return None


def first_demonstrations(
    config: RunConfig, given: Dataset | None, require: Callable[[TaskSpec], object] | None = None
) -> tuple[Dataset, list[Episode]]:
    """Return the demonstrations of a new run: those given, else those of the file, else those of the demonstrator.

    `require` is called with the task before the demonstrator acts, see `record_demonstrations`.

    Returns:
        The demonstrations to learn from, the first `num_demos`, and some of those beyond, which are held out.

    Raises:
        UserError: They are invalid or of another task, or the environment has no demonstrator.
    """
    file = DemonstrationFile.of(config.demos, config.demos_format, config.demo_map)
    if file is None and given is None:
        if config.demos_success != "recorded":
            raise UserError("demos_success judges the demonstrations of demos, and there are none: give demos as well")
        processes = min(config.num_envs, os.cpu_count() or 1) if config.vectorization_mode == "async" else 0
        errors = EnvironmentErrors(config.on_env_error)
        rule, number = SuccessRule(config.success), config.num_demos
        recorded = record_demonstrations(
            environment_maker(config), number, config.seed, processes, errors=errors, success=rule, require=require
        )
        return Dataset([replace(one, reward_kind=config.reward) for one in recorded.episodes], recorded.task), []
    more = file if given is None else given
    assert more is not None
    dataset = read_demonstrations(config, more)
    found = len(dataset.episodes)
    if file is not None and found != config.num_demos:
        used = "all are used" if found < config.num_demos else f"the first {config.num_demos} are learnt from"
        note(f"{file.path} has {found} episodes, {used} (num_demos is {config.num_demos})")
    held_out = max(1, config.num_demos // LEARNT_FOR_ONE_HELD_OUT)
    learnt = Dataset(dataset.episodes[: config.num_demos], dataset.task)
    beyond = not_among(learnt, dataset.episodes[config.num_demos : config.num_demos + held_out])
    if beyond:
        note(f"{len(beyond)} of the {found - config.num_demos} others are held out: eval/nll_held_out")
    return learnt, beyond


def save_copies(folder: Path, learnt: Dataset, held_out: Sequence[Episode]) -> None:
    """Write the demonstrations of a run to its folder."""
    save_demonstrations(folder / DEMONSTRATIONS, *learnt)
    if held_out:
        save_demonstrations(folder / HELD_OUT, held_out, learnt.task)
    else:
        (folder / HELD_OUT).unlink(missing_ok=True)


def saved_demonstrations(folder: Path) -> tuple[Dataset, list[Episode]]:
    """Return what `save_copies` has written. Earlier versions held out no demonstrations."""
    held_out = load_dataset(folder / HELD_OUT).episodes if (folder / HELD_OUT).is_file() else []
    return load_dataset(folder / DEMONSTRATIONS), held_out


def not_among(learnt: Dataset, episodes: Sequence[Episode]) -> list[Episode]:
    """Return those episodes that are not in a dataset."""
    known = set(map(identity, learnt.episodes)) if episodes else set()
    return [episode for episode in episodes if identity(episode) not in known]


def without_environment(config: RunConfig, given: Dataset | None) -> tuple[RunConfig, Dataset]:
    """Return the settings of a new run that has no environment, and its demonstrations, which describe its task.

    Raises:
        UserError: There are no demonstrations, or they do not describe their task.
    """
    file = DemonstrationFile.of(config.demos, config.demos_format, config.demo_map)
    if given is None and file is None:
        raise UserError("without an environment there is no demonstrator: give demonstrations, --demos PATH")
    if given is None:
        assert file is not None
        given = read_dataset(file.path, file.format, names=file.names)
    if given.task is None:
        raise UserError(
            f"{config.demos or 'demos'}: it does not describe its observations and actions, and there is no "
            "environment that does: save it with a task (softflow.data.save_demonstrations), or give --env"
        )
    options = {**config.env_options, "task": given.task.describe()}
    return replace(config, env_options=options, eval_episodes=0), given


def with_more_demonstrations(config: RunConfig, dataset: Dataset, more: Dataset | DemonstrationFile) -> Dataset:
    """Return the demonstrations of a resumed run, followed by all of `more` that are not yet among them.

    Repeating the command that added them thus adds nothing.

    Args:
        config: The settings of the run.
        dataset: The demonstrations of the run.
        more: The demonstrations to add, or their file.

    Raises:
        UserError: They are invalid or of another task.
    """
    added = read_demonstrations(config, more)
    new = [replace(episode, task=dataset.task) for episode in not_among(dataset, added.episodes)]
    note(f"{_name(more)}: {len(new)} demonstrations are added, {len(added.episodes) - len(new)} were there already")
    return Dataset([*dataset.episodes, *new], dataset.task)


def identity(episode: Episode) -> tuple[bytes, bytes]:
    """Return what distinguishes an episode from all others: digests of its observations and actions."""
    observation, action = map(np.ascontiguousarray, (episode.observation, episode.action))
    return hashlib.sha256(observation.data).digest(), hashlib.sha256(action.data).digest()


def fitting(task: TaskSpec, dataset: Dataset, name: str) -> Dataset:
    """Return a dataset in the order of a task's parts.

    Raises:
        UserError: It is of another task. The message begins with its `name`.
    """
    dataset = in_order_of(task, dataset)
    sizes = task.observation_size, task.action_dim
    try:
        check_compatible(dataset.episodes, *sizes, recorded=dataset.task, expected=task)
    except UserError as error:
        error.args = (f"{name}: {error}",)
        raise
    return dataset


@contextmanager
def naming_by(flag: str) -> Iterator[None]:
    """Say in errors of the block, where a dataset has other parts than a task, that the flag gives their names."""
    try:
        yield
    except TaskMismatch as error:
        if error.renaming is None:
            raise
        raise TaskMismatch(f"{error}: if only names differ, give them: {flag} {error.renaming}") from error


def read_demonstrations(config: RunConfig, given: Dataset | DemonstrationFile) -> Dataset:
    """Return episodes as the run learns from them. Raise `UserError` if they do not fit its environment."""
    name, task = _name(given), _task(config)
    if isinstance(given, DemonstrationFile):
        with naming_by("--demo-map"):
            dataset = fitting(task, read_dataset(given.path, given.format, task, given.names), name)
    elif given.episodes:
        dataset = fitting(task, given, name)
    else:
        raise UserError(f"{name} has no episode: give at least one")
    return as_learnt(config, dataset, name)


def as_learnt(config: RunConfig, dataset: Dataset, name: str) -> Dataset:
    """Return demonstrations of the task of a run with the successes and rewards that the run learns from.

    Raises:
        UserError: Their rewards were replaced by others than those of the run. The message begins with their `name`.
    """
    dataset = _judged(config, dataset, name)
    if config.demos_success == "all":
        successes, number = sum(episode.is_success for episode in dataset.episodes), len(dataset.episodes)
        note(f"{name}: all {number} demonstrations count as successes, {successes} of which are recorded as such")
        dataset = Dataset([replace(episode, is_success=True) for episode in dataset.episodes], dataset.task)
    return _rewarded(config, dataset, name)


def _name(given: Dataset | DemonstrationFile) -> str:
    return given.path if isinstance(given, DemonstrationFile) else "demos"


def _judged(config: RunConfig, dataset: Dataset, name: str) -> Dataset:
    """Return demonstrations that another rule has judged, judged by the return if that is the rule of the run."""
    task, rule = dataset.task, SuccessRule(config.success)
    if task is None or task.success == rule.text:
        return dataset
    if math.isnan(rule.threshold):
        note(f"{name} was judged by success {task.success!r}, this run by {rule.text!r}")
        return dataset
    task = replace(task, success=rule.text)
    episodes = [
        replace(episode, is_success=episode_return(episode) >= rule.threshold, task=task)
        for episode in dataset.episodes
    ]
    number = sum(episode.is_success for episode in episodes)
    note(f"{name}: {number} of {len(episodes)} demonstrations have a return of at least {rule.threshold:g}: successes")
    return Dataset(episodes, task)


def _rewarded(config: RunConfig, dataset: Dataset, name: str) -> Dataset:
    """Return demonstrations with the rewards that the environment of the run gives, as far as its settings say.

    Raises:
        UserError: The rewards were replaced in an earlier run, by others than those of the environment.
    """
    if config.reward != "dataset":
        values = SUCCESS_REWARDS[config.reward]
        episodes = [replace(values.of(episode), reward_kind=config.reward) for episode in dataset.episodes]
        if cut := sum(map(len, dataset.episodes)) - sum(map(len, episodes)):
            shorter = sum(len(a) < len(b) for a, b in zip(episodes, dataset.episodes, strict=True))
            remark(f"{name}: {shorter} successful episodes went on for {cut / shorter:.0f} steps, which are left out")
        if went_on := sum(episode.is_success and not episode.terminated for episode in dataset.episodes):
            remark(
                f"{name}: {went_on} of the successful episodes did not end in a terminal state; with reward "
                f"{config.reward} they do"
            )
        return Dataset(episodes, dataset.task)
    given = "sparse" if config.env_options.get("sparse_success") else "dataset"
    for kind in (episode.reward_kind for episode in dataset.episodes):
        if kind not in ("dataset", given):
            raise UserError(
                f"{name}: it has the rewards of --reward {kind}, which the environment does not give: give --reward "
                f"{kind}, or demonstrations with the recorded rewards"
            )
    if given == "sparse":
        expected = [SUCCESS_REWARDS["sparse"].of(episode).reward for episode in dataset.episodes]
        pairs = zip(dataset.episodes, expected, strict=True)
        if others := sum(not np.array_equal(episode.reward, reward) for episode, reward in pairs):
            remark(
                f"{name}: {others} of {len(dataset.episodes)} episodes have other rewards than the environment, whose "
                "option sparse_success gives 1 at the success and 0 elsewhere: give --reward sparse"
            )
    return dataset


def _task(config: RunConfig) -> TaskSpec:
    """Return the task of the run's environment, judged by the run's rule."""
    with chdir("."):  # files that the configuration names are read later, and an environment may change the folder
        return replace(TaskSpec.from_env(make_environment(config)), success=config.success)
