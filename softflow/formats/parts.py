"""Which arrays of a dataset are the parts of a task's observation: by name, shape and axes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from softflow.console import remark
from softflow.task import ObservationPart, TaskSpec


class Observed(NamedTuple):
    """The parts of an observation, and where the dataset stores them."""

    parts: tuple[ObservationPart, ...]
    stored: dict[str, str]
    """The name of the array in the dataset, by the name of the part."""
    assumptions: list[str]
    """What is not certain about it, in words."""


def observed_parts(
    recorded: Sequence[ObservationPart],
    wanted: Sequence[ObservationPart] | None,
    spellings: Callable[[str], Iterable[str]] = lambda name: (name,),
) -> Observed:
    """Choose the arrays of a dataset that a task observes.

    The only image of the task, or its only part that is no image, may have another name if it is the only such array
    of the dataset as well; this is an assumption. If a part is not found, all other arrays are chosen too, so that an
    error about the difference names them.

    Args:
        recorded: The arrays of the dataset.
        wanted: The parts that the task observes. By default, all arrays are chosen.
        spellings: Returns what the dataset may call a part, by the name of the part.

    Raises:
        ValueError: Two parts would be the same array.
    """
    by_name = {part.name: part for part in recorded}
    if wanted is None:
        return Observed(tuple(recorded), {name: name for name in by_name}, [])
    stored: dict[str, str] = {}
    assumptions: list[str] = []
    for part in wanted:
        name = next((one for one in spellings(part.name) if one in by_name), None)
        if name is None:
            alike = [other for other in recorded if other.is_image == part.is_image]
            if len(alike) == sum(other.is_image == part.is_image for other in wanted) == 1:
                name = alike[0].name
                assumptions.append(f"{name} is taken for the observation {part.name!r}")
        if name is not None:
            stored[part.name] = name
    for name, array in stored.items():
        if other := next((one for one, its in stored.items() if its == array and one != name), None):
            raise ValueError(f"{array} would be two parts of the task, {name!r} and {other!r}: name both")
    named = {part.name: part for part in wanted}
    if len(stored) < len(wanted):
        stored |= {name: name for name in by_name if name not in stored.values()}
    parts = tuple(_described(name, by_name[array], named.get(name)) for name, array in stored.items())
    return Observed(parts, stored, assumptions)


def _described(name: str, recorded: ObservationPart, wanted: ObservationPart | None) -> ObservationPart:
    """Describe an array as the part `wanted` if it can be read as such, and else as it is stored."""
    stored = replace(recorded, name=name)
    if wanted is None or (recorded.categories is not None and recorded.choices != wanted.choices):
        return stored
    if recorded.axes is not None and wanted.axes is not None:
        if sorted(recorded.axes) != sorted(wanted.axes):
            return stored
        sizes = dict(zip(recorded.axes, recorded.shape, strict=True))
        return replace(stored, shape=tuple(sizes[axis] for axis in wanted.axes), axes=wanted.axes)
    if recorded.is_image or wanted.is_image:
        return wanted if (recorded.shape, recorded.dtype) == (wanted.shape, wanted.dtype) else stored
    # A single number may be stored as one along an axis.
    is_same = recorded.shape in (wanted.shape, (*wanted.shape, 1)) and not _is_in_another_order(recorded, wanted)
    return wanted if is_same else stored


def _is_in_another_order(recorded: ObservationPart, wanted: ObservationPart) -> bool:
    """Return whether a number has the same name in both parts, but another index. Other names may mean the same."""
    places = {name: index for index, name in enumerate(recorded.names or ())}
    return any(places.get(name, index) != index for index, name in enumerate(wanted.names or ()))


def arranged(array: np.ndarray, recorded: ObservationPart, part: ObservationPart) -> np.ndarray:
    """Return the recorded array (T, *recorded.shape) with the axes of the part, (T, *part.shape).

    Raises:
        ValueError: The array has another shape.
    """
    if array.shape[1:] != recorded.shape:
        raise ValueError(f"{recorded.name} has the shape {array.shape[1:]} in each step, expected {recorded.shape}")
    if recorded.axes is not None and part.axes is not None:
        return array.transpose(0, *(1 + recorded.axes.index(axis) for axis in part.axes))
    return array.reshape(len(array), *part.shape)


def known_rate(source: object, stored: float | None, wanted: TaskSpec) -> float | None:
    """Return the control rate of a dataset: the stored one, or else that of the task. Say so if they differ."""
    if None not in (stored, wanted.rate) and not math.isclose(stored or 0, wanted.rate or 0, rel_tol=1e-3):
        remark(f"{source}: recorded at {stored:g} Hz, which is kept in place of the {wanted.rate:g} Hz of the task")
    return wanted.rate if stored is None else stored
