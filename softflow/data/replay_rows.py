"""The rows of a replay: their columns, their memory, and the conversion of observations to them."""

from __future__ import annotations

import mmap
import sys
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from softflow.data.observation_statistics import ABSOLUTE_FLOOR


def row_dtype(observation_dim: int, action_dim: int, observation_dtype: DTypeLike = np.float32) -> np.dtype:
    """Return the structured dtype of a row of a replay. Its `itemsize` is the number of bytes per step."""
    return np.dtype(
        [
            ("observation", observation_dtype, (observation_dim,)),
            ("action", np.float32, (action_dim,)),
            ("reward", np.float32),
            ("remaining", np.int32),  # steps to the episode's end, 0 on its last row
            ("return_to_go", np.float32),
            ("terminated", np.bool_),  # the same for all rows of an episode, as is `success`
            ("success", np.bool_),
        ]
    )


_MAP_NORESERVE = 0x4000
"""A flag of Linux, which the module `mmap` only names from Python 3.13 on."""


def zeros_on_demand(shape: tuple[int, ...], dtype: DTypeLike) -> np.ndarray:
    """Return zeros that take memory as they are written, even if all of them would not fit in it.

    Raises:
        ValueError: There are more of them than an array can have.
        MemoryError: They do not even fit in the address space.
    """
    try:
        return np.zeros(shape, dtype)
    except MemoryError as error:  # Linux refuses what is larger than the memory
        if sys.platform != "linux":
            raise
        size = int(np.prod(shape, dtype=object)) * np.dtype(dtype).itemsize
        try:
            memory = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE)
        except OSError:
            raise error from None
        return np.ndarray(shape, dtype, memory)


def cast_observation(observation: np.ndarray, dtype: Any) -> np.ndarray:
    """Cast `observation` to `dtype`.

    Raise `ValueError` if the rounding error exceeds 0.1 % of a dimension's magnitude, the precision of float16. The
    limit is relative so that dimensions in small units are not lost: float16 cannot represent numbers below 6e-8.
    """
    if dtype == observation.dtype:
        return observation
    if np.uint8 in (dtype, observation.dtype):
        raise ValueError(f"observations are {observation.dtype}, the replay's {dtype}: only packed ones are uint8")
    with np.errstate(over="ignore", invalid="ignore"):
        stored = observation.astype(dtype)
    tolerance = 1e-3 * np.abs(observation).max(0) + ABSOLUTE_FLOOR
    if not (np.abs(stored.astype(np.float32) - observation) <= tolerance).all():
        raise ValueError(f"observations do not fit the replay's {dtype}: store them as float32")
    return stored
