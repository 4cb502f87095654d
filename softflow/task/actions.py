"""Between the native units of actions and [-1, 1]."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softflow.errors import did_you_mean
from softflow.task.parts import ACTION_TOLERANCE, ActionPart, as_numbers, kind_of


class ActionOutOfBounds(ValueError):
    """A native action leaves its bounds.

    Args:
        message: Which number does, and what its bounds are.
        fits_unit: Whether all numbers that were given lie in [-1, 1], so that they may be scaled already.
    """

    def __init__(self, message: str, fits_unit: bool) -> None:
        super().__init__(message)
        self.fits_unit = fits_unit


class ActionScale:
    """The scale of each number of an action.

    Args:
        parts: The parts of an action, of N numbers together, of which A have more than one possible value.

    Attributes:
        low: The lowest values, (N,), in native units.
        high: The highest values, (N,).
        size: A.
    """

    def __init__(self, parts: Sequence[ActionPart]) -> None:
        self._parts = parts
        self.low = np.concatenate([part.low for part in parts], dtype=np.float64)
        self.high = np.concatenate([part.high for part in parts], dtype=np.float64)
        self._free = self.low < self.high
        self.size = int(self._free.sum())
        self._free_low, self._span = self.low[self._free], (self.high - self.low)[self._free]
        self._is_unit = (self._free_low == -1) & (self._span == 2)  # scaling would round these
        self._rounded_bounds: dict[np.dtype, tuple[NDArray[Any], NDArray[Any]]] = {}

    def to_unit(self, action: Any) -> NDArray[np.float32]:
        """See `TaskSpec.unit_actions`."""
        native, precision = self._joined(action)
        low, high = self.low, self.high
        slack = precision * np.maximum(high - low, np.maximum(np.abs(low), np.abs(high)))
        outside = ~((native >= low - slack) & (native <= high + slack))  # NaN is outside, too
        if outside.any():
            *where, column = np.argwhere(outside)[0].tolist()
            at = f" of action {where[0] if len(where) == 1 else where}" if where else ""
            raise ActionOutOfBounds(
                f"{self._number(column)} = {native[(*where, column)]:g}{at} is outside its bounds "
                f"{low[column]:g} ... {high[column]:g}",
                fits_unit=bool((np.abs(native) <= 1 + ACTION_TOLERANCE).all()),
            )
        given = native[..., self._free]
        unit = np.where(self._is_unit, given, 2 * (given - self._free_low) / self._span - 1)
        return unit.clip(-1, 1).astype(np.float32)

    def to_native(self, unit: Any, dtype: Any) -> NDArray[Any]:
        """See `TaskSpec.native_actions`."""
        given = _require_size("an action in [-1, 1]", as_numbers("an action in [-1, 1]", unit), self.size)
        exact = given.astype(np.float64)
        native = np.where(self._is_unit, exact, (exact + 1) / 2 * self._span + self._free_low)
        if self.size < len(self.low):
            free, native = native, np.empty((*given.shape[:-1], len(self.low)))
            native[...] = self.low
            native[..., self._free] = free
        lowest, highest = self._bounds_in(np.dtype(dtype))
        return np.minimum(np.maximum(native.astype(dtype), lowest), highest)  # np.clip's checks take longer

    def _bounds_in(self, dtype: np.dtype) -> tuple[NDArray[Any], NDArray[Any]]:
        """The bounds, rounded inward; a number with one possible value to the nearest."""
        if dtype not in self._rounded_bounds:
            lowest, highest = self.low.astype(dtype), self.high.astype(dtype)
            up, down = (np.nextafter(bound, dtype.type(way)) for bound, way in ((lowest, np.inf), (highest, -np.inf)))
            self._rounded_bounds[dtype] = (
                np.where(self._free & (lowest < self.low), up, lowest),
                np.where(self._free & (highest > self.high), down, highest),
            )
        return self._rounded_bounds[dtype]

    def _joined(self, action: Any) -> tuple[NDArray[np.float64], float]:
        """All numbers (..., N) of actions, and how far they are rounded, as a share."""
        if isinstance(action, Mapping):
            known = [part.name for part in self._parts]
            for name in action:
                if name not in known:
                    raise ValueError(f"the action has no part {name!r}: {did_you_mean(str(name), known)}")
            parts = []
            for part in self._parts:
                if part.name not in action:
                    raise ValueError(f"action {part.name!r} is missing, got {', '.join(map(str, action)) or 'nothing'}")
                what = f"action {part.name!r}"
                parts.append(_require_size(what, as_numbers(what, action[part.name]), part.size))
            if len({part.shape[:-1] for part in parts}) > 1:
                shapes = ", ".join(f"{name}: {part.shape}" for name, part in zip(known, parts, strict=True))
                raise ValueError(f"the parts of the action have different batch axes ({shapes})")
        else:
            what = f"an action ({', '.join(f'{part.name} ({part.size})' for part in self._parts)})"
            parts = [_require_size(what, as_numbers(what, action), len(self.low))]
        precision = max(float(np.finfo(part.dtype).eps) if part.dtype.kind == "f" else 0.0 for part in parts)
        return np.concatenate([part.astype(np.float64) for part in parts], -1), max(precision, ACTION_TOLERANCE)

    def _number(self, column: int) -> str:
        for part in self._parts:
            if column < part.size:
                return f"{part.name}[{column}]"
            column -= part.size
        raise IndexError(column)


def _require_size(what: str, array: NDArray[Any], size: int) -> NDArray[Any]:
    if array.ndim < 1 or array.shape[-1] != size:
        raise ValueError(f"{what} is {kind_of(array)}, expected {size} number{'s' * (size != 1)} along the last axis")
    return array
