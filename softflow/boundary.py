"""Values that cross the boundary to an environment are copied and checked against its spaces.

An environment may reuse its arrays, write to the arrays it is given, or return values outside its spaces. Training,
recording, corrections and evaluation therefore only see copies that have passed these checks.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.spaces import Space

LARGEST = float(np.finfo(np.float32).max)


class MalformedStep(ValueError):
    """An environment received or returned a value that its spaces or gymnasium's interface do not allow."""


class MalformedFlag(MalformedStep):
    """A flag is neither true nor false. Another episode would be no better, because the environment decides so."""


def as_array(name: str, value: Any, space: Space[Any]) -> np.ndarray:
    """Return a copy of `value` in the dtype of `space`, which must have a shape (a Box, for instance).

    Raises:
        MalformedStep: The shape differs, the values are not numbers, not finite as float32, or not representable in
            the integer dtype of the space.
    """
    array = np.asarray(value)
    if array.shape != space.shape or array.dtype.kind not in "biuf":
        raise MalformedStep(f"{name} is {_kind(array)}, its space has shape {space.shape}")
    if array.dtype == space.dtype == np.float32:  # the usual case, at every step: skip the cost of np.errstate
        copy = as_float32 = array.copy()
    else:
        with np.errstate(all="ignore"):
            copy = array.astype(space.dtype)
            as_float32 = copy.astype(np.float32, copy=False)
    if copy.dtype.kind == "f":
        right, expected = np.isfinite(as_float32), "a finite float32"
    else:
        right, expected = np.asarray(copy == array), f"a number of its space, {space.dtype}"
    if right.all():
        return copy
    index = np.argwhere(~right)[0].tolist()
    raise MalformedStep(f"{name}[{', '.join(map(str, index))}] is {array[tuple(index)]:g}, not {expected}")


def as_reward(value: Any) -> float:
    """Return the reward of a step. Raise `MalformedStep` unless it is a single number that is finite as float32."""
    number = np.asarray(value)
    if number.size != 1 or number.dtype.kind not in "biuf":
        raise MalformedStep(f"the reward is {_kind(number)}, not one number")
    if not abs(number.item()) <= LARGEST:
        raise MalformedStep(f"the reward is {number.item():g}, not a finite float32")
    return float(number.item())


def as_flag(name: str, value: Any) -> bool:
    """Return the flag `name`, such as `is_success`: true, false, 1 or 0, as a scalar or an array of one element.

    Raises:
        MalformedFlag: The value is anything else, for instance 0.25, NaN, -1, None or "False".
    """
    if isinstance(value, bool):
        return value
    flag = np.asarray(value)
    if flag.size != 1 or flag.dtype.kind not in "biuf" or flag.item() not in (0, 1):
        raise MalformedFlag(
            f"{name} is {value!r}, expected true or false, or 1 or 0: return a decision, such as bool(score >= 0.9)"
        )
    return bool(flag.item())


def _kind(array: np.ndarray) -> str:
    return f"{array.dtype} of shape {array.shape}"
