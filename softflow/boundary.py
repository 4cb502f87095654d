"""Values that cross the boundary to an environment: copied, and checked against what the environment promised.

An environment may reuse its arrays, write into those it is given, or return what its spaces do not allow. Training,
recording, corrections and evaluation all see copies that have passed these checks.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.spaces import Space

LARGEST = float(np.finfo(np.float32).max)


class MalformedStep(ValueError):
    """An environment was given, or returned, something that its spaces or gymnasium's interface do not allow."""


def as_array(name: str, value: Any, space: Space[Any]) -> np.ndarray:
    """A copy of `value` in the dtype of `space`, which has a shape: a Box, for instance.

    Raises:
        MalformedStep: another shape, no numbers, not finite as float32, or not representable in an integer dtype.
    """
    array = np.asarray(value)
    if array.shape != space.shape or array.dtype.kind not in "biuf":
        raise MalformedStep(f"{name} is {_kind(array)}, its space has shape {space.shape}")
    if array.dtype == space.dtype == np.float32:  # the usual case, at every step: without numpy's error states
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
    """The reward of a step. Raises `MalformedStep` unless it is one number, finite as float32."""
    number = np.asarray(value)
    if number.size != 1 or number.dtype.kind not in "biuf":
        raise MalformedStep(f"the reward is {_kind(number)}, not one number")
    if not abs(number.item()) <= LARGEST:
        raise MalformedStep(f"the reward is {number.item():g}, not a finite float32")
    return float(number.item())


def as_flag(name: str, value: Any) -> bool:
    """The flag `name`, such as `is_success`: true, false, 1 or 0, alone or as the only element of an array.

    Raises:
        MalformedStep: anything else, for instance 0.25, NaN, -1, None or "False".
    """
    if isinstance(value, bool):
        return value
    flag = np.asarray(value)
    if flag.size != 1 or flag.dtype.kind not in "biuf" or flag.item() not in (0, 1):
        raise MalformedStep(f"{name} is {value!r}, expected true or false, or 1 or 0")
    return bool(flag.item())


def _kind(array: np.ndarray) -> str:
    return f"{array.dtype} of shape {array.shape}"
