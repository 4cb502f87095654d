"""Merging, filtering and splitting of datasets by whole episodes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from itertools import combinations

import numpy as np

from softflow.data.demonstrations import Dataset, DemonstrationError, in_order_of
from softflow.data.episodes import Episode
from softflow.data.expressions import parse
from softflow.data.imitable import ImitationRule, episode_return
from softflow.errors import UserError
from softflow.task import TaskSpec


def merge(named: Sequence[tuple[str, Dataset]]) -> Dataset:
    """Join the episodes of datasets of one task, in the order in which they are given.

    The task is that of the first dataset. If it does not know the control rate, it takes the first rate that is known.
    Parts of observations are rearranged into the order of the first dataset.

    Args:
        named: The datasets, at least two, each with the name that errors call it.

    Raises:
        TaskMismatch: The tasks of two datasets differ. The message names both and every difference.
        UserError: There are fewer than two datasets, only some of them know their task, they count successes by
            different rules, or their dimensions differ.
    """
    if len(named) < 2:
        raise UserError(f"there is nothing to merge: give at least two datasets, got {len(named)}")
    task = named[0][1].task
    if task is not None:
        named = [(name, in_order_of(task, dataset)) for name, dataset in named]
    for one, other in combinations(named, 2):
        _require_same(one, other)
    if task is not None and task.rate is None:
        rates = (dataset.task.rate for _, dataset in named if dataset.task is not None)
        task = replace(task, rate=next((rate for rate in rates if rate is not None), None))
    return _dataset([episode for _, dataset in named for episode in dataset.episodes], task)


def _require_same(one: tuple[str, Dataset], other: tuple[str, Dataset]) -> None:
    """Check that two named datasets can be one."""
    (name, dataset), (other_name, other_dataset) = one, other
    task, other_task = dataset.task, other_dataset.task
    if task is not None and other_task is not None:
        task.require_same(other_task, f"{other_name} is of another task than {name}")
        if task.success != other_task.success:
            raise DemonstrationError(
                f"{other_name} counts successes by the rule {other_task.success!r}, {name} by {task.success!r}: "
                "merge only recordings with the same rule"
            )
        return
    if task is not None or other_task is not None:
        with_task, without = (name, other_name) if task is not None else (other_name, name)
        raise DemonstrationError(
            f"{without} does not contain its task, {with_task} does: save it again with "
            f"save_demonstrations(path, episodes, task)"
        )
    (size, layout), (other_size, other_layout) = map(_sizes, (dataset, other_dataset))
    if size != other_size or layout != other_layout:
        raise DemonstrationError(
            f"{other_name} has observations and actions of {_in_words(other_size)} numbers, {name} of "
            f"{_in_words(size)}{'' if size != other_size else ' in another layout'}: merge recordings of one task"
        )


def _sizes(dataset: Dataset) -> tuple[tuple[int, int], object]:
    first = dataset.episodes[0]
    return (first.observation_dim, first.action_dim), first.layout


def _in_words(size: tuple[int, int]) -> str:
    return f"{size[0]} and {size[1]}"


@dataclass(frozen=True)
class Conditions:
    """Conditions on whole episodes, all of which an episode must meet."""

    successes: bool = False
    """Whether to keep successful episodes only."""
    min_length: int | None = None
    """Smallest number of steps of an episode to keep. Higher values keep fewer episodes."""
    max_length: int | None = None
    """Largest number of steps of an episode to keep. Higher values keep more episodes."""
    min_return: float | None = None
    """Smallest undiscounted return of an episode to keep. Higher values keep fewer episodes."""
    where: str | None = None
    """Condition in words, such as `success and length < 200` (docs/how-to/edit-data.md lists the names)."""
    best: float | None = None
    """Percentage to keep, by return, of the episodes that meet all other conditions. Episodes with the same return as
    the last of them are kept as well. Higher values keep more episodes."""

    def __post_init__(self) -> None:
        for name in ("min_length", "max_length"):
            length = getattr(self, name)
            if length is not None and length < 1:
                raise ValueError(f"{name} must be at least 1 step, got {length}")
        if self.min_length is not None and self.max_length is not None and self.min_length > self.max_length:
            raise ValueError(f"min_length {self.min_length} is above max_length {self.max_length}: no length is both")
        if self.min_return is not None and not math.isfinite(self.min_return):
            raise ValueError(f"min_return must be a finite number, got {self.min_return}")
        if self.best is not None and not 0 < self.best <= 100:
            raise ValueError(f"best must be a percentage above 0 and up to 100, got {self.best:g}")
        if self.where is not None:
            parse(self.where)

    def keep(self, dataset: Dataset) -> Dataset:
        """Return the episodes that meet the conditions, in their order.

        Raises:
            UserError: No condition is set, no episode meets all of them, or `where` cannot be decided of an episode.
        """
        if self == Conditions():
            names = ", ".join(f"--{field.name.replace('_', '-')}" for field in fields(self))
            raise UserError(f"there is no condition to filter by: give at least one of {names}")
        kept = [episode for episode in self._where(dataset.episodes) if self._is_met(episode)]
        if self.best is not None and kept:
            rule = ImitationRule(f"top:{self.best!r}").choose(kept).rule
            kept = [episode for episode in kept if rule.worth(episode).any()]
        if not kept:
            raise UserError(f"no episode meets the conditions: there are {_ranges(dataset.episodes)}")
        return _dataset(kept, dataset.task)

    def _where(self, episodes: Sequence[Episode]) -> Sequence[Episode]:
        if self.where is None:
            return episodes
        is_met = parse(self.where)
        return [episode for index, episode in enumerate(episodes) if is_met(episode, index)]

    def _is_met(self, episode: Episode) -> bool:
        return (
            (episode.is_success or not self.successes)
            and (self.min_length is None or len(episode) >= self.min_length)
            and (self.max_length is None or len(episode) <= self.max_length)
            and (self.min_return is None or episode_return(episode) >= self.min_return)
        )


def _ranges(episodes: Sequence[Episode]) -> str:
    """Describe the episodes by what the conditions look at."""
    lengths, returns = list(map(len, episodes)), list(map(episode_return, episodes))
    return (
        f"{len(episodes)} episodes, {sum(episode.is_success for episode in episodes)} successes, lengths of "
        f"{min(lengths)} to {max(lengths)} steps, returns of {min(returns):g} to {max(returns):g}"
    )


def split(dataset: Dataset, share: float, seed: int) -> tuple[Dataset, Dataset]:
    """Split the episodes at random into two datasets, which keep them in their order.

    Args:
        dataset: At least two episodes.
        share: The share of the episodes in the first dataset, above 0 and below 1. Their number is rounded, but each
            dataset has at least one.
        seed: The seed of the random choice, 0 or more.

    Raises:
        UserError: There is only one episode, or `share` or `seed` is out of range.
    """
    if not 0 < share < 1:
        raise UserError(f"share must be above 0 and below 1, got {share:g}")
    if seed < 0:
        raise UserError(f"seed must be 0 or more, got {seed}")
    number = len(dataset.episodes)
    if number < 2:
        raise UserError("one episode cannot be split: whole episodes are, so there must be at least two")
    count = min(max(round(share * number), 1), number - 1)
    is_first = np.random.default_rng(seed).permutation(number) < count
    first, second = (
        _dataset([dataset.episodes[index] for index in np.flatnonzero(chosen)], dataset.task)
        for chosen in (is_first, ~is_first)
    )
    return first, second


def _dataset(episodes: Sequence[Episode], task: TaskSpec | None) -> Dataset:
    """Make a dataset of episodes that know its task and no other."""
    return Dataset([episode if episode.task == task else replace(episode, task=task) for episode in episodes], task)
