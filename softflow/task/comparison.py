"""In what two parts of the same name differ, in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from softflow.task.parts import UNNAMED, ActionPart, ObservationPart

PartT = TypeVar("PartT", ObservationPart, ActionPart)


def difference(expected: ObservationPart | ActionPart, got: ObservationPart | ActionPart) -> str:
    """Return what is different about `got`, such as `has shape (3,), expected (4,)`; an empty text if nothing is."""
    if isinstance(expected, ObservationPart) and isinstance(got, ObservationPart):
        if got.shape != expected.shape:
            return f"has shape {got.shape}, expected {expected.shape}"
        if _height_and_width(got) != _height_and_width(expected):  # other letters mean nothing
            return f"is {_meaning(got)}, expected {_meaning(expected)}"
        if got.value_range != expected.value_range:
            return f"has pixels in {_values(got)}, expected {_values(expected)}"
        if got.choices != expected.choices:
            return f"has {_values(got)}, expected {_values(expected)}"
        if None not in (got.names, expected.names) and got.names != expected.names:
            return f"has the numbers {', '.join(got.names or ())}, expected {', '.join(expected.names or ())}"
        return ""
    assert isinstance(expected, ActionPart) and isinstance(got, ActionPart)
    if got.size != expected.size:
        return f"has {got.size} numbers, expected {expected.size}"
    other = [
        f"[{index}] in {bounds[0]:g} ... {bounds[1]:g}, expected {bounds[2]:g} ... {bounds[3]:g}"
        for index, bounds in enumerate(zip(got.low, got.high, expected.low, expected.high, strict=True))
        if not np.allclose(bounds[:2], bounds[2:], rtol=1e-5, atol=1e-8)
    ]
    return f"has {' and '.join(other)}" if other else ""


def likely_renamed(
    expected: Sequence[ObservationPart] | Sequence[ActionPart], got: Sequence[ObservationPart] | Sequence[ActionPart]
) -> list[str]:
    """Return a pair such as `goal=target` for each missing part, with the one unexpected part that differs in its name.

    Where there is no such part, or several, the pair is `goal=NAME`. There are no pairs without unexpected parts, and
    none of an action that is one array without names.
    """
    names, there = ({part.name for part in parts} for parts in (expected, got))
    missing = [part for part in expected if part.name not in there]
    others = [part for part in got if part.name not in names]
    if not missing or not others or {UNNAMED} in (names, there):
        return []
    fits = [(part.name, other.name) for part in missing for other in others if not difference(part, other)]
    ours, theirs = (Counter(names) for names in zip(*fits, strict=True)) if fits else (Counter(), Counter())
    sure = {name: other for name, other in fits if ours[name] == theirs[other] == 1}
    return [f"{part.name}={sure.get(part.name, 'NAME')}" for part in missing]


def parts_in_order(expected: Sequence[PartT], got: Sequence[PartT]) -> tuple[PartT, ...]:
    """Return the parts `got` in the order of the expected ones if they have the same names, or else as they are."""
    named = {part.name: part for part in got}
    if sorted(named) != sorted(part.name for part in expected):
        return tuple(got)
    return tuple(named[part.name] for part in expected)


def _height_and_width(part: ObservationPart) -> tuple[int, int] | None:
    return (part.axes.index("H"), part.axes.index("W")) if part.axes is not None else None


def _meaning(part: ObservationPart) -> str:
    return f"an image with the axes {part.axes}" if part.is_image else "numbers"


def _values(part: ObservationPart) -> str:
    """What the numbers of a part are, where that decides how they are stored."""
    if part.is_image:
        low, high = part.value_range or (0, 255)
        return f"{low:g} ... {high:g} ({part.dtype})"
    return f"the values {', '.join(f'{one[0]} ... {one[-1]}' for one in part.choices)}" if part.choices else "numbers"
