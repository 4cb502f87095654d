"""The parts of an observation and of an action, by name, as a robot or an environment gives and takes them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softflow.task.layout import Part

Bounds = tuple[float, ...]
ACTION_TOLERANCE = 1e-6
"""How far an action may lie outside its bounds by rounding, as a share of their distance."""


@dataclass(frozen=True)
class ObservationPart:
    """One array of an observation.

    Attributes:
        name: The key of the array; keys of nested mappings are joined by "/".
        shape: The shape of one such array, without a batch axis.
        dtype: The numpy dtype in which it is given.
        axes: For an image, one letter per axis: H is its height, W its width, and all other axes become its channels
            in their order, as in "HWC", "CHW" or "KHWC". None if the part is numbers.
        value_range: The values of black and white in an image that is not uint8. None otherwise.
        categories: For categorical numbers, how many values each of them takes; they become one-hot. None otherwise.

    Raises:
        ValueError: No such part is possible.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    axes: str | None = None
    value_range: tuple[float, float] | None = None
    categories: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not all(isinstance(size, int) and size > 0 for size in self.shape):
            raise ValueError(f"observation {self.name!r}: expected a name and a shape of positive sizes, got {self}")
        if np.dtype(self.dtype).kind not in "biuf":
            raise ValueError(f"observation {self.name!r}: {self.dtype} is no dtype of numbers")
        if self.axes is not None:
            letters = set(self.axes)
            if len(letters) != len(self.axes) or len(self.axes) != len(self.shape) or not {"H", "W"} <= letters:
                raise ValueError(
                    f"observation {self.name!r}: axes {self.axes!r} do not fit the shape {self.shape}: give one letter "
                    "per axis, H for the height and W for the width, such as HWC"
                )
            is_uint8 = np.dtype(self.dtype) == np.uint8
            if is_uint8 != (self.value_range is None):
                raise ValueError(
                    f"observation {self.name!r}: an image has a value_range if, and only if, it is not uint8"
                )
            if self.value_range is not None:
                low, high = self.value_range
                if not (math.isfinite(high - low) and low < high):
                    raise ValueError(f"observation {self.name!r}: {low:g} ... {high:g} is no range of values")
        if self.categories is not None and (
            self.axes is not None or len(self.categories) != math.prod(self.shape) or min(self.categories) < 1
        ):
            raise ValueError(
                f"observation {self.name!r}: give the number of values of each of its {self.shape} numbers"
            )

    @property
    def is_image(self) -> bool:
        return self.axes is not None

    @property
    def packed(self) -> Part:
        """How the part is stored: an image as uint8 (height, width, channels), anything else as float32."""
        if self.axes is not None:
            sizes = dict(zip(self.axes, self.shape, strict=True))
            channels = math.prod(size for axis, size in sizes.items() if axis not in "HW")
            return Part(self.name, (sizes["H"], sizes["W"], channels), "uint8")
        shape = self.shape if self.categories is None else (sum(self.categories),)
        return Part(self.name, shape or (1,), "float32")

    def batched(self, value: Any) -> tuple[NDArray[Any], bool]:
        """The value as an array (B, *shape), and whether it came with the batch axis.

        Raises:
            ValueError: The value has another shape, is not made of numbers, or is not what the part describes.
        """
        array = np.asarray(value)
        is_batch = array.shape[1:] == self.shape and array.ndim == len(self.shape) + 1
        if array.dtype.kind not in "biuf" or not (is_batch or array.shape == self.shape):
            raise ValueError(f"observation {self.name!r} is {_kind(array)}, expected {self.describe_shape()}")
        if self.is_image and (array.dtype == np.uint8) != (np.dtype(self.dtype) == np.uint8):
            low, high = self.value_range or (0, 255)
            expected = f"{self.dtype} in {low:g} ... {high:g}"
            raise ValueError(f"observation {self.name!r} is an image of {array.dtype}, expected {expected}")
        return array if is_batch else array[None], is_batch

    def pack(self, value: NDArray[Any]) -> NDArray[Any]:
        """Store arrays (B, *shape): images as uint8 (B, height, width, channels), anything else as float32 (B, n).

        Raises:
            ValueError: A number is not finite as float32, or is none of its categories.
        """
        if self.axes is not None:
            if value.dtype.kind == "f" and not np.isfinite(value).all():
                raise ValueError(f"observation {self.name!r} has pixels that are not finite")
            image = np.moveaxis(value, [1 + self.axes.index(axis) for axis in "HW"], (1, 2))
            return _as_bytes(image, self.value_range).reshape(len(value), *self.packed.shape)
        rows = value.reshape(len(value), -1)
        if self.categories is not None:
            return self._one_hot(rows)
        with np.errstate(over="ignore"):
            numbers = rows.astype(np.float32)
        if not np.isfinite(numbers).all():
            row, column = np.argwhere(~np.isfinite(numbers))[0]
            index = [int(i) for i in np.unravel_index(column, self.shape)]
            where = f"{self.name}{index}" if index else self.name
            raise ValueError(f"observation {where} is {rows[row, column]:g}, not a finite float32")
        return numbers

    def _one_hot(self, rows: NDArray[Any]) -> NDArray[np.float32]:
        assert self.categories is not None
        columns = []
        for value, count in zip(rows.T, self.categories, strict=True):
            inside = np.isin(value, np.arange(count))
            if not inside.all():
                raise ValueError(f"observation {self.name!r} is {value[~inside][0]}, expected 0 ... {count - 1}")
            columns.append(np.eye(count, dtype=np.float32)[value.astype(int)])
        return np.concatenate(columns, 1)

    def describe_shape(self) -> str:
        """The dtype and shape in words, for errors."""
        return f"{self.dtype} of shape {self.shape}, or (B, {', '.join(map(str, self.shape))})"

    def describe(self) -> dict[str, Any]:
        """Return plain values from which `build` makes the same part."""
        described: dict[str, Any] = {"name": self.name, "shape": list(self.shape), "dtype": self.dtype}
        for name in ("axes", "value_range", "categories"):
            value = getattr(self, name)
            if value is not None:
                described[name] = list(value) if isinstance(value, tuple) else value
        return described

    @classmethod
    def build(cls, described: Mapping[str, Any]) -> ObservationPart:
        """Make the part that `describe` described."""
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in described.items()}
        return cls(**values)


@dataclass(frozen=True)
class ActionPart:
    """Numbers of an action, in their own units.

    Attributes:
        name: What the numbers are called.
        low: The lowest value of each number, (n,), in the unit of the robot: radians, newton metres, metres.
        high: The highest value of each. Where it equals `low`, the number always has this value and is not learnt.

    Raises:
        ValueError: No such part is possible.
    """

    name: str
    low: Bounds
    high: Bounds

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.low or len(self.low) != len(self.high):
            raise ValueError(
                f"action {self.name!r}: give its lowest and highest values, as many of one as of the other"
            )
        for index, (low, high) in enumerate(zip(self.low, self.high, strict=True)):
            if not (math.isfinite(high - low) and low <= high):
                raise ValueError(f"action {self.name!r}: {self.name}[{index}] has bounds {low:g} ... {high:g}")

    @property
    def size(self) -> int:
        return len(self.low)

    def describe(self) -> dict[str, Any]:
        """Return plain values from which `build` makes the same part."""
        return {"name": self.name, "low": list(self.low), "high": list(self.high)}

    @classmethod
    def build(cls, described: Mapping[str, Any]) -> ActionPart:
        """Make the part that `describe` described."""
        return cls(described["name"], *(tuple(map(float, described[name])) for name in ("low", "high")))


def duplicate(parts: Sequence[ObservationPart] | Sequence[ActionPart]) -> str | None:
    """The first name that two parts share, or None."""
    names = [part.name for part in parts]
    return next((name for name in names if names.count(name) > 1), None)


def _as_bytes(image: NDArray[Any], value_range: tuple[float, float] | None) -> NDArray[np.uint8]:
    if value_range is None:
        return image
    low, high = value_range
    brightness = (image.astype(np.float64) - low) / (high - low)
    return np.rint(255 * brightness.clip(0, 1)).astype(np.uint8)


def _kind(array: NDArray[Any]) -> str:
    return f"{array.dtype} of shape {array.shape}"
