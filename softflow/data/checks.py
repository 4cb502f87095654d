"""Conversion and checks of the arrays in data classes: float32, finite, of a known shape, and read-only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from softflow.data.damage import REPAIR
from softflow.data.row_file import unchanging
from softflow.task.layout import ObservationLayout
from softflow.task.parts import ACTION_TOLERANCE

RESCALE = "rescale actions to [-1, 1], as Episode.from_native does with the bounds of the robot"
"""What to do with actions in other units."""


def numbers(name: str, value: Any, shape: Sequence[str]) -> np.ndarray:
    """Return `value` as a new read-only float32 array with the axes that `shape` names.

    Raises:
        ValueError: The number of axes differs, an axis other than the first is empty, or the values are not finite
            numbers.
    """
    array = np.asarray(value)
    if array.ndim != len(shape) or array.dtype.kind not in "biuf":
        raise ValueError(f"{name} must be an array of numbers of shape ({', '.join(shape)}), got {kind_of(array)}")
    if empty := [axis for axis, size in zip(shape[1:], array.shape[1:], strict=True) if not size]:
        raise ValueError(f"{name} has no columns: {empty[0]} must be at least 1")
    with np.errstate(over="ignore"):
        converted = array.astype(np.float32)
    bad = np.argwhere(~np.isfinite(converted))
    if len(bad):
        raise ValueError(f"{name}{_at(array, bad[0])} is not a finite float32: {REPAIR}")
    converted.flags.writeable = False
    return converted


def actions(name: str, value: Any, shape: Sequence[str]) -> np.ndarray:
    """Return actions like `numbers`, and check that they lie in [-1, 1]. Values outside due to rounding are clipped.

    Raises:
        ValueError: `numbers` rejects the values, or they are outside [-1, 1].
    """
    array = numbers(name, value, shape)
    outside = np.argwhere(np.abs(array) > 1 + ACTION_TOLERANCE)
    if len(outside):
        raise ValueError(f"{name}{_at(array, outside[0])} is outside [-1, 1]: {RESCALE}")
    clipped = np.clip(array, -1, 1)
    clipped.flags.writeable = False
    return clipped


def numbers_or_bytes(name: str, value: Any, shape: Sequence[str]) -> np.ndarray:
    """Return `value` like `numbers`, but keep packed observations as uint8."""
    array = numbers(name, value, shape)
    if np.asarray(value).dtype == np.uint8:
        array = array.astype(np.uint8)
        array.flags.writeable = False
    return array


def packed(name: str, value: Any, layout: ObservationLayout) -> np.ndarray:
    """Return `value` as a read-only array (rows, O) of packed observations: in a file (`rows_in_file`), or as a copy.

    Raises:
        ValueError: The bytes do not match the layout, or numbers in them are not finite.
        UserError: There is no space left for the file.
    """
    array = np.asarray(value)
    if array.ndim != 2 or array.dtype != np.uint8 or array.shape[1] != layout.size:
        raise ValueError(f"{name} must be uint8 of shape (rows, {layout.size}), got {kind_of(array)}")
    bad = np.argwhere(~np.isfinite(layout.numbers(array)))
    if len(bad):
        raise ValueError(f"{name}[{bad[0][0]}] holds a number that is not finite: repair or drop the episode")
    return unchanging(array)


def kind_of(array: np.ndarray) -> str:
    """Return the dtype and shape, for an error message."""
    return f"{array.dtype} of shape {array.shape}"


def _at(array: np.ndarray, index: np.ndarray) -> str:
    return f"[{', '.join(map(str, index))}] = {array[tuple(index)]:.8g}"
