"""Parts of a task that a dataset calls by other names: what to ask a reader for, and what its answer means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from softflow.data.demonstrations import Dataset, with_parts
from softflow.task import ActionPart, TaskSpec
from softflow.task.parts import UNNAMED, joined

Renaming = Mapping[str, str]
"""The names of parts in a dataset, by their names in the task."""


class PartNames(NamedTuple):
    """What a dataset calls the parts of its observations and actions."""

    observation: tuple[str, ...]
    action: tuple[str, ...] = ()
    """Empty if the actions are an array whose numbers have no names."""

    @classmethod
    def of(cls, task: TaskSpec | None) -> PartNames:
        """Return the names in a task.

        Raises:
            ValueError: There is no task.
        """
        if task is None:
            raise ValueError("it does not contain its task, so its parts have no names: save it with its task")
        names = tuple(part.name for part in task.action)
        return cls(tuple(part.name for part in task.observation), () if names == (UNNAMED,) else names)


def in_names_of_dataset(wanted: TaskSpec | None, names: Renaming, there: PartNames) -> TaskSpec | None:
    """Return the task that is wanted with the dataset's names, by which a reader finds its parts.

    Args:
        wanted: The task. None if there is none, in which case the dataset's observation is reduced to the named parts.
        names: The names in the dataset, by those in the task. The numbers of an action without names are called
            `action[0]`, `action[1]` and so on, and all of them must be named if one is.
        there: All names in the dataset.

    Raises:
        ValueError: A name is unknown, or a part would be used twice. The message lists the names that there are.
    """
    for source in names.values():
        if len(users := [name for name, other in names.items() if other == source]) > 1:
            raise ValueError(f"{source!r} is given for {' and '.join(map(repr, users))}: a part can be used once")
    if wanted is None:
        for source in names.values():
            _require_there(source, "observation", there)
        return None
    observed, acted = [part.name for part in wanted.observation], [part.name for part in _numbers(wanted)]
    for name, source in names.items():
        if name not in observed + acted:
            raise ValueError(f"the task has no part {name!r}: it has {', '.join(observed + acted)}")
        if name in observed and name in acted:
            raise ValueError(f"{name!r} is a part of the observation and of the action: rename one of them in the task")
        _require_there(source, "observation" if name in observed else "action", there)
    for own in (observed, acted):
        for name in own:
            if name not in names and (user := next((one for one in own if names.get(one) == name), None)):
                raise ValueError(f"{name!r} is given for {user!r}, but the task has a part {name!r}: name it as well")
    observation = tuple(replace(part, name=names.get(part.name, part.name)) for part in wanted.observation)
    return replace(wanted, observation=observation, action=_asked_action(wanted, names))


def in_names_of_task(dataset: Dataset, wanted: TaskSpec | None, names: Renaming) -> Dataset:
    """Return a dataset, as it was read, with the parts and names of the task that is wanted.

    Parts that are not wanted are left out. The arguments are those of `in_names_of_dataset`.

    Raises:
        ValueError: A part is missing, or the actions have other parts.
    """
    chosen = dict(names)
    if wanted is not None:
        chosen = {part.name: names.get(part.name, part.name) for part in wanted.observation}
    for source in chosen.values():
        _require_there(source, "observation", PartNames.of(dataset.task))
    dataset = with_parts(dataset, chosen)
    if wanted is None or not any(part.name in names for part in _numbers(wanted)):
        return dataset
    return _with_action(dataset, wanted, _asked_action(wanted, names))


def _require_there(name: str, kind: str, there: PartNames) -> None:
    known = getattr(there, kind)
    if not known:
        raise ValueError(f"the dataset does not name the numbers of its {kind}s, so none is {name!r}")
    if name not in known:
        raise ValueError(f"the dataset has no {kind} {name!r}: it has {', '.join(known)}")


def _numbers(wanted: TaskSpec) -> tuple[ActionPart, ...]:
    """Return the parts of an action that can be renamed: those with names, or else the single numbers."""
    if [part.name for part in wanted.action] != [UNNAMED]:
        return wanted.action
    bounds = zip(wanted.action[0].low, wanted.action[0].high, strict=True)
    return tuple(ActionPart(f"{UNNAMED}[{index}]", (low,), (high,)) for index, (low, high) in enumerate(bounds))


def _asked_action(wanted: TaskSpec, names: Renaming) -> tuple[ActionPart, ...]:
    parts = _numbers(wanted)
    given = [part.name for part in parts if part.name in names]
    if not given:
        return wanted.action
    if parts != wanted.action and (missing := [part.name for part in parts if part.name not in names]):
        raise ValueError(f"{', '.join(missing)} of the task is not named: name all numbers of the action, or none")
    return tuple(replace(part, name=names.get(part.name, part.name)) for part in parts)


def _with_action(dataset: Dataset, wanted: TaskSpec, asked: Sequence[ActionPart]) -> Dataset:
    """Put the numbers of actions in the order of the parts that were asked for, and give them the wanted names."""
    assert dataset.task is not None
    recorded = {part.name: part for part in dataset.task.action}
    if {name: part.size for name, part in recorded.items()} != {part.name: part.size for part in asked}:
        raise ValueError(f"the action has the parts {_sizes(dataset.task.action)}, expected {_sizes(asked)}")
    free = {name: int(np.less(part.low, part.high).sum()) for name, part in recorded.items()}
    starts = dict(zip(free, np.cumsum([0, *free.values()]).tolist(), strict=False))
    columns = [starts[part.name] + index for part in asked for index in range(free[part.name])]
    parts = [recorded[part.name] for part in asked]
    if [part.name for part in wanted.action] == [UNNAMED]:
        parts = [joined(parts)]
    else:
        parts = [replace(part, name=own.name) for part, own in zip(parts, wanted.action, strict=True)]
    task = replace(dataset.task, action=tuple(parts))
    episodes = [replace(episode, action=episode.action[:, columns], task=task) for episode in dataset.episodes]
    return Dataset(episodes, task)


def _sizes(parts: Sequence[ActionPart]) -> str:
    return ", ".join(f"{part.name} ({part.size})" for part in parts)
