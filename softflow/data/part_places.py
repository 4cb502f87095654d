"""Names such as `vel` and `vel[0]`: a part of a task or of a dataset, or one of its numbers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import NamedTuple

from softflow.task import ObservationPart

NUMBER = re.compile(r"(.+)\[(0|[1-9][0-9]*)\]")
"""The name of a single number: the part, and the index."""
MOST_MISSING = 9
"""Most names that an error lists as missing."""


class Place(NamedTuple):
    """A part, or one of its numbers."""

    part: str
    number: int | None = None
    """The index of the number. None means the part as a whole."""

    def __str__(self) -> str:
        return self.part if self.number is None else f"{self.part}[{self.number}]"


Sizes = Mapping[str, int | None]
"""How many numbers each part has, by its name. None if the part can be named as a whole only."""
Sources = Mapping[str, Sequence[Place]]
"""Where a dataset has each part of a task, by its name in the task: one place, or those of all of its numbers."""


def sizes_of(parts: Iterable[ObservationPart]) -> dict[str, int | None]:
    """Return the sizes of parts. Images, categories and parts of several axes can be named as a whole only."""
    return {part.name: part.packed.size if len(part.shape) < 2 and part.categories is None else None for part in parts}


def sizes_named(names: Iterable[str]) -> dict[str, int | None]:
    """Return the sizes of parts of which only names are known: `arm[0]` and `arm[1]` are the numbers of `arm`."""
    sizes: dict[str, int | None] = {}
    for name in names:
        match = NUMBER.fullmatch(name)
        part, size = (name, 1) if match is None else (match[1], int(match[2]) + 1)
        sizes[part] = max(size, sizes.get(part) or 0)
    return sizes


def place_of(name: str, sizes: Sizes) -> Place | None:
    """Return what a name means. None if there is no such part.

    Raises:
        ValueError: There is the part, but not the number.
    """
    if name in sizes:
        return Place(name)
    match = NUMBER.fullmatch(name)
    if match is None or match[1] not in sizes:
        return None
    part, index = match[1], int(match[2])
    if (size := sizes[part]) is None or index >= size:
        raise ValueError(f"there is no number {name!r}: {_in_words(part, size)}")
    return Place(part, index)


def require_place(name: str, kind: str, there: Sizes) -> Place:
    """Return what a name means in a dataset.

    Raises:
        ValueError: There is no such `kind` of part, an observation or an action.
    """
    if (place := place_of(name, there)) is None:
        raise ValueError(f"the dataset has no {kind} {name!r}: it has {listed(there)}")
    return place


def sources_of(kind: str, wanted: Sizes, names: Mapping[str, str], there: Sizes) -> Sources:
    """Return where a dataset has the parts of a task. Parts that are not named have the same name there.

    Args:
        kind: What the parts belong to, an observation or an action.
        wanted: The parts of the task.
        names: The names in the dataset, by those in the task. Names of other kinds are left out.
        there: The parts of the dataset.

    Raises:
        ValueError: A name does not exist in the dataset, a number would be used twice, or has no name while others of
            its part do.
    """
    given: dict[str, dict[int | None, Place]] = {}
    for name, source in names.items():
        if (place := place_of(name, wanted)) is not None:
            given.setdefault(place.part, {})[place.number] = require_place(source, kind, there)
    chosen = {name: _places(name, wanted[name], places, there) for name, places in given.items()}
    users = {place: name for name, places in given.items() for place in places.values()}
    for place in users:
        if place.number is not None and Place(place.part) in users:
            raise ValueError(f"'{place}' is a number of '{place.part}', which is given too: a part can be used once")
    for place, user in users.items():
        if place.part in wanted and place.part not in given:
            name = place.part
            raise ValueError(f"'{place}' is given for {user!r}, but the task has a part {name!r}: name it as well")
    return {name: chosen.get(name, [Place(name)]) for name in wanted}


def _places(name: str, size: int | None, given: Mapping[int | None, Place], there: Sizes) -> list[Place]:
    """Return where a dataset has a part that is named, by the index of each number or as a whole."""
    if None in given:
        if len(given) > 1:
            raise ValueError(f"{name!r} is named as a whole and by its numbers: name it in one way")
        if given[None].number is not None and size != 1:
            raise ValueError(f"'{given[None]}' is one number, {name!r} is not: {_in_words(name, size)}")
        return [given[None]]
    assert size is not None  # because it has numbers
    if missing := list(islice((f"{name}[{i}]" for i in range(size) if i not in given), MOST_MISSING)):
        raise ValueError(f"{', '.join(missing)} of the task is not named: name all numbers of {name!r}, or none")
    for index, place in given.items():
        if place.number is None and there[place.part] != 1:
            what = _in_words(place.part, there[place.part])
            raise ValueError(f"'{name}[{index}]' is one number, '{place}' is not: {what}")
    return [given[index] for index in range(size)]


def listed(sizes: Sizes) -> str:
    """List parts for an error, with an example of a single number."""
    several = next((name for name, size in sizes.items() if size is not None and size > 1), None)
    return ", ".join(sizes) + (f", and single numbers such as {several}[0]" if several is not None else "")


def _in_words(part: str, size: int | None) -> str:
    if size is None:
        return f"{part!r} is named as a whole, as are all images, categories and parts of several axes"
    return f"{part!r} has {part}[0]" + (f" to {part}[{size - 1}]" if size > 1 else " alone")
