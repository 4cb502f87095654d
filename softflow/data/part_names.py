"""Parts of a task that a dataset calls by other names: what to ask a reader for, and what its answer means."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from softflow.data.demonstrations import Dataset, with_columns
from softflow.data.part_places import Place, Sources, listed, place_of, require_place, sizes_named, sizes_of, sources_of
from softflow.task import ActionPart, ObservationPart, TaskSpec
from softflow.task.parts import UNNAMED, joined

Renaming = Mapping[str, str]
"""The names of parts and of single numbers in a dataset, by their names in the task."""


class RecordedParts(NamedTuple):
    """The parts of a dataset, by whose names a user may choose them."""

    observation: tuple[ObservationPart, ...]
    action: Mapping[str, int] | None = None
    """How many numbers each part of an action has, by its name. None if the actions are one array without names."""

    @classmethod
    def of(cls, task: TaskSpec | None) -> RecordedParts:
        """Return the parts of a task.

        Raises:
            ValueError: There is no task.
        """
        if task is None:
            raise ValueError("it does not contain its task, so its parts have no names: save it with its task")
        return cls(task.observation, {part.name: part.size for part in task.action})


def in_names_of_dataset(wanted: TaskSpec | None, names: Renaming, there: RecordedParts) -> TaskSpec | None:
    """Return the task that is wanted with the dataset's names, by which a reader finds its parts.

    A part of the dataset of which single numbers are named is asked for as it is stored.

    Args:
        wanted: The task. None if there is none, in which case the dataset's observation is reduced to the named parts.
        names: The names in the dataset, by those in the task. On either side, `vel[0]` is the first number of `vel`, a
            part of numbers along one axis, without categories. If one number of a part of the task is named, all of
            them must be. The numbers of an action without names are `action[0]`, `action[1]` and so on.
        there: All parts of the dataset.

    Raises:
        ValueError: A name is unknown, a number would be used twice, or one of the dataset's action would not be used.
            The message lists the names that there are.
    """
    observed, acted = _sources(wanted, names, there)
    if wanted is None:
        return None
    recorded = {part.name: part for part in there.observation}
    asked: dict[str, ObservationPart] = {}
    for part in wanted.observation:
        places = observed[part.name]
        for place in places:
            asked[place.part] = replace(part, name=place.part) if _is_whole(places) else recorded[place.part]
    action = wanted.action if acted is None else _asked_action(wanted, acted, there)
    return replace(wanted, observation=tuple(asked.values()), action=action)


def in_names_of_task(dataset: Dataset, wanted: TaskSpec | None, names: Renaming) -> Dataset:
    """Return a dataset, as it was read, with the parts and names of the task that is wanted.

    Parts that are not wanted are left out. The arguments are those of `in_names_of_dataset`.

    Raises:
        ValueError: A part is missing, or the actions have other parts.
    """
    observed, acted = _sources(wanted, names, RecordedParts.of(dataset.task))
    dataset = with_columns(dataset, dict(_columns(dataset, observed, wanted)))
    return dataset if wanted is None or acted is None else _with_action(dataset, wanted, acted)


def left_out(names: Renaming, there: RecordedParts) -> list[str]:
    """Return what is not named of the observation of a dataset: parts, and single numbers of parts that are divided.

    The names are valid ones, which `in_names_of_dataset` has accepted.
    """
    sizes = sizes_of(there.observation)
    used = {place for source in names.values() if (place := place_of(source, sizes)) is not None}
    divided = {place.part for place in used if place.number is not None}
    places = [
        place
        for name, size in sizes.items()
        for place in ([Place(name, index) for index in range(size or 0)] if name in divided else [Place(name)])
    ]
    return [str(place) for place in places if place not in used]


def _sources(wanted: TaskSpec | None, names: Renaming, there: RecordedParts) -> tuple[Sources, Sources | None]:
    """Return where the dataset has the observation and the action of the task. None if no action is named."""
    for source in names.values():
        if len(users := [name for name, other in names.items() if other == source]) > 1:
            raise ValueError(f"{source!r} is given for {' and '.join(map(repr, users))}: a part can be used once")
    recorded = sizes_of(there.observation)
    if wanted is None:
        return sources_of("observation", sizes_named(names), names, recorded), None
    observed, acted = sizes_of(wanted.observation), {part.name: part.size for part in wanted.action}
    for name in names:
        places = place_of(name, observed), place_of(name, acted)
        if places == (None, None):
            raise ValueError(f"the task has no part {name!r}: it has {listed({**observed, **acted})}")
        if None not in places:
            raise ValueError(f"{name!r} is a part of the observation and of the action: rename one of them in the task")
    observation = sources_of("observation", observed, names, recorded)
    if not any(place_of(name, acted) for name in names):
        return observation, None
    return observation, sources_of("action", acted, names, _action_sizes(wanted, there))


def _is_whole(places: Sequence[Place]) -> bool:
    return len(places) == 1 and places[0].number is None


def _columns(
    dataset: Dataset, observed: Sources, wanted: TaskSpec | None
) -> Iterator[tuple[ObservationPart, NDArray[np.int64]]]:
    """Yield each part of the observation that is wanted, with its columns in the rows of the dataset."""
    assert dataset.task is not None
    recorded, columns = {part.name: part for part in dataset.task.observation}, dataset.task.columns
    sizes = sizes_of(recorded.values())
    shapes = {} if wanted is None else {part.name: part.shape for part in wanted.observation}
    for name, places in observed.items():
        parts = [recorded[require_place(place.part, "observation", sizes).part] for place in places]
        if _is_whole(places):
            yield replace(parts[0], name=name), columns[parts[0].name]
            continue
        # A number takes one column, or four where rows are bytes.
        chosen = [np.split(columns[place.part], sizes[place.part] or 1)[place.number or 0] for place in places]
        dtype = np.result_type(*(part.dtype for part in parts))
        yield ObservationPart(name, shapes.get(name, (len(places),)), dtype.name), np.concatenate(chosen)


def _action_sizes(wanted: TaskSpec, there: RecordedParts) -> Mapping[str, int]:
    return there.action if there.action is not None else {UNNAMED: joined(wanted.action).size}


def _action_places(wanted: TaskSpec, acted: Sources, there: Mapping[str, int]) -> list[Place]:
    """Return where the dataset has each number of an action. All of its numbers must be used."""
    used = []
    for part in wanted.action:
        for place in acted[part.name]:
            size = there[require_place(place.part, "action", there).part]
            numbers = [Place(place.part, i) for i in range(size)] if place.number is None else [place]
            if _is_whole(acted[part.name]) and size != part.size:
                raise ValueError(
                    f"{part.name!r} has the size {part.size}, {place.part!r} of the dataset {size}: name numbers"
                )
            used += numbers
    if unused := [place for place in _numbers(there) if place not in used]:
        raise ValueError(
            f"the action of the dataset has {', '.join(map(str, unused))} as well, and all numbers of an action must "
            "be used: choose the environment it was made in"
        )
    return used


def _numbers(sizes: Mapping[str, int]) -> list[Place]:
    return [Place(name, index) for name, size in sizes.items() for index in range(size)]


def _asked_action(wanted: TaskSpec, acted: Sources, there: RecordedParts) -> tuple[ActionPart, ...]:
    """Return the action in the parts and the order of the dataset, with the bounds of the task."""
    sizes, whole = _action_sizes(wanted, there), joined(wanted.action)
    bounds = dict(zip(_action_places(wanted, acted, sizes), zip(whole.low, whole.high, strict=True), strict=True))
    return _parts(sizes, [bounds[place] for place in _numbers(sizes)])


def _with_action(dataset: Dataset, wanted: TaskSpec, acted: Sources) -> Dataset:
    """Put the numbers of actions in the order of the task that is wanted, and give its parts their names."""
    assert dataset.task is not None
    sizes, whole = {part.name: part.size for part in dataset.task.action}, joined(dataset.task.action)
    indices = {place: index for index, place in enumerate(_numbers(sizes))}
    order = [indices[place] for place in _action_places(wanted, acted, sizes)]
    is_free = np.less(whole.low, whole.high)
    learnt = np.cumsum(is_free) - 1  # a number with one possible value has no column
    columns = [int(learnt[index]) for index in order if is_free[index]]
    parts = _parts({part.name: part.size for part in wanted.action}, [(whole.low[i], whole.high[i]) for i in order])
    task = replace(dataset.task, action=parts)
    episodes = [
        replace(
            episode,
            action=episode.action[:, columns],
            proposals=None if episode.proposals is None else episode.proposals.with_columns(columns),
            task=task,
        )
        for episode in dataset.episodes
    ]
    return Dataset(episodes, task)


def _parts(sizes: Mapping[str, int], bounds: Sequence[tuple[float, float]]) -> tuple[ActionPart, ...]:
    """Make parts of the bounds of all numbers of an action."""
    remaining = iter(bounds)
    return tuple(ActionPart(name, *zip(*islice(remaining, size), strict=True)) for name, size in sizes.items())
