"""In what two parts of the same name differ, in words."""

from __future__ import annotations

import numpy as np

from softflow.task.parts import ActionPart, ObservationPart


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
        return ""
    assert isinstance(expected, ActionPart) and isinstance(got, ActionPart)
    if got.size != expected.size:
        return f"has {got.size} numbers, expected {expected.size}"
    for index, bounds in enumerate(zip(got.low, got.high, expected.low, expected.high, strict=True)):
        if not np.allclose(bounds[:2], bounds[2:], rtol=1e-5, atol=1e-8):
            return f"has [{index}] in {bounds[0]:g} ... {bounds[1]:g}, expected {bounds[2]:g} ... {bounds[3]:g}"
    return ""


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
