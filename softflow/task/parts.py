"""The parts of an observation and of an action, by name, as a robot or an environment gives and takes them."""

from __future__ import annotations

import math
import operator
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softflow.errors import NotFinite, one_line
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
        dtype: The name of the numpy dtype in which it is given, such as "float32".
        axes: For an image, one letter per axis: H is its height, W its width, and all other axes become its channels
            in their order, as in "HWC", "CHW" or "KHWC". None if the part is numbers.
        value_range: The values of black and white in an image that is not uint8. None otherwise.
        categories: For categorical numbers, how many values each of them takes; they become one-hot. None otherwise.
        starts: The lowest value of each categorical number. None if all of them count from 0.
        names: What the robot calls each number, in their order, such as "shoulder_pan.pos". None if it is not known.

    Raises:
        ValueError: No such part is possible.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    axes: str | None = None
    value_range: tuple[float, float] | None = None
    categories: tuple[int, ...] | None = None
    starts: tuple[int, ...] | None = None
    names: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", _sizes(self.name, self.shape))
        if not isinstance(self.name, str) or not _are_integers(self.shape, lowest=1):
            raise ValueError(f"observation {self.name!r}: expected a name and a shape of positive sizes, got {self}")
        try:
            dtype = np.dtype(self.dtype)
        except (TypeError, ValueError, SyntaxError) as error:  # numpy parses texts such as "(1,"
            raise ValueError(f"observation {self.name!r}: {self.dtype!r} is no dtype") from error
        if dtype.kind not in "biuf":
            raise ValueError(f"observation {self.name!r}: {self.dtype} is no dtype of numbers")
        object.__setattr__(self, "dtype", dtype.name)
        self._check_image()
        self._check_categories()
        self._check_names()

    def _check_image(self) -> None:
        what = f"observation {self.name!r}"
        if self.axes is None:
            if self.value_range is not None:
                raise ValueError(f"{what} has a value_range, but no axes: only an image has one")
            return
        letters = set(self.axes)
        if len(letters) != len(self.axes) or len(self.axes) != len(self.shape) or not {"H", "W"} <= letters:
            raise ValueError(
                f"{what}: axes {self.axes!r} do not fit the shape {self.shape}: give one letter per axis, H for the "
                "height and W for the width, such as HWC"
            )
        if (self.dtype == "uint8") != (self.value_range is None):
            raise ValueError(f"{what}: an image has a value_range if, and only if, it is not uint8")
        if self.value_range is not None:
            low, high = self.value_range
            if not (math.isfinite(high - low) and low < high):
                raise ValueError(f"{what}: {low:g} ... {high:g} is no range of values")

    def _check_categories(self) -> None:
        what, size = f"observation {self.name!r}", math.prod(self.shape)
        if self.categories is not None and (
            self.axes is not None or len(self.categories) != size or not _are_integers(self.categories, lowest=1)
        ):
            raise ValueError(f"{what}: give the number of values of each of its {size} numbers as categories")
        if self.starts is not None and (
            self.categories is None or len(self.starts) != size or not _are_integers(self.starts)
        ):
            raise ValueError(f"{what}: give the lowest value of each of its {size} categorical numbers as starts")

    def _check_names(self) -> None:
        if self.names is None:
            return
        size = math.prod(self.shape)
        if self.is_image or len(set(self.names)) != size or not all(isinstance(name, str) for name in self.names):
            raise ValueError(f"observation {self.name!r}: give each of its {size} numbers a name of its own as names")

    @property
    def is_image(self) -> bool:
        """Whether the part is an image."""
        return self.axes is not None

    @property
    def choices(self) -> tuple[range, ...]:
        """The values that each categorical number takes; empty if the part is not categorical."""
        starts = self.starts or (0,) * len(self.categories or ())
        return tuple(range(start, start + n) for start, n in zip(starts, self.categories or (), strict=True))

    @property
    def packed(self) -> Part:
        """How the part is stored: an image as uint8 (height, width, channels), anything else as float32."""
        if self.axes is not None:
            sizes = dict(zip(self.axes, self.shape, strict=True))
            channels = math.prod(size for axis, size in sizes.items() if axis not in "HW")
            return Part(self.name, (sizes["H"], sizes["W"], channels), "uint8")
        shape = self.shape if self.categories is None else (sum(self.categories),)
        return Part(self.name, shape, "float32")

    def batched(self, value: Any) -> tuple[NDArray[Any], bool]:
        """The value as an array (B, *shape), and whether it came with the batch axis.

        Raises:
            ValueError: The value has another shape, is not made of numbers, or is not what the part describes.
        """
        what = f"observation {self.name!r}"
        array = as_numbers(what, value)
        is_batch = array.shape[1:] == self.shape and array.ndim == len(self.shape) + 1
        if not (is_batch or array.shape == self.shape):
            raise ValueError(f"{what} is {kind_of(array)}, expected {self._expected()}")
        if self.is_image:
            low, high = self.value_range or (0, 255)
            if (array.dtype == np.uint8) != (self.dtype == "uint8"):
                raise ValueError(f"{what} is an image of {array.dtype}, expected {self.dtype} in {low:g} ... {high:g}")
            # A pixel may be somewhat brighter than white; 255 in an image of 0 ... 1 is another unit.
            if self.value_range is not None and (np.abs(array - (low + high) / 2) > 2 * (high - low)).any():
                raise ValueError(f"{what} has pixels far outside of {low:g} ... {high:g}: scale it, or clip it")
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
        rows = value.reshape(len(value), math.prod(self.shape))
        if self.categories is not None:
            return self._one_hot(rows)
        if rows.dtype.kind != "f":
            return rows.astype(np.float32)
        with np.errstate(over="ignore"):
            numbers = rows.astype(np.float32)
        if not np.isfinite(numbers).all():
            row, column = np.argwhere(~np.isfinite(numbers))[0]
            index = [int(i) for i in np.unravel_index(column, self.shape)]
            where = f"{self.name}{index}" if index else self.name
            raise NotFinite(f"observation {where} is {rows[row, column]:g}, not a finite float32", int(row))
        return numbers

    def _one_hot(self, rows: NDArray[Any]) -> NDArray[np.float32]:
        columns = []
        for value, choices in zip(rows.T, self._choices, strict=True):
            is_choice = value[:, None] == choices
            if not (known := is_choice.any(1)).all():
                wrong = value[~known][0]
                raise ValueError(f"observation {self.name!r} is {wrong}, expected {choices[0]} ... {choices[-1]}")
            columns.append(is_choice)
        return np.concatenate(columns, 1, dtype=np.float32)

    def unpack(self, packed: NDArray[Any]) -> NDArray[Any]:
        """Return the arrays (B, *shape), in the dtype of the part, that `pack` stored.

        Raises:
            ValueError: No arrays of this dtype, or of these categories, are stored so.
        """
        if self.axes is not None:
            others = [size for axis, size in zip(self.axes, self.shape, strict=True) if axis not in "HW"]
            image = packed.reshape(*packed.shape[:3], *others)
            native = np.moveaxis(image, (1, 2), [1 + self.axes.index(axis) for axis in "HW"])
            if self.value_range is None:
                return native
            low, high = self.value_range
            native = _as_dtype(low + native / 255 * (high - low), self.dtype)
        elif self.categories is not None:
            one_hot = np.split(packed, np.cumsum(self.categories)[:-1], axis=1)
            chosen = [choices[columns.argmax(1)] for choices, columns in zip(self._choices, one_hot, strict=True)]
            native = np.stack(chosen, 1).astype(self.dtype).reshape(len(packed), *self.shape)
        else:
            native = _as_dtype(packed, self.dtype).reshape(len(packed), *self.shape)
        wrong = (self.pack(native).reshape(len(packed), -1) != packed.reshape(len(packed), -1)).any(1)
        if wrong.any():
            kind = self.dtype if self.categories is None else f"{self.dtype} with {self.categories} categories"
            raise ValueError(f"observation {self.name!r} of step {wrong.argmax()} holds values that are not {kind}")
        return native

    @cached_property
    def _choices(self) -> list[NDArray[np.int64]]:
        return [np.array(choices) for choices in self.choices]

    def _expected(self) -> str:
        """The dtype and shape in words, for errors."""
        batch = ", ".join(["B", *map(str, self.shape)])
        return f"{self.dtype} of shape {self.shape}, or of a batch ({batch}{',' * (not self.shape)})"

    def describe(self) -> dict[str, Any]:
        """Return plain values from which `build` makes the same part."""
        described: dict[str, Any] = {"name": self.name, "shape": list(self.shape), "dtype": self.dtype}
        for name in ("axes", "value_range", "categories", "starts", "names"):
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
        for end in ("low", "high"):
            object.__setattr__(self, end, _bounds(self.name, getattr(self, end)))
        if not isinstance(self.name, str) or not self.low or len(self.low) != len(self.high):
            raise ValueError(
                f"action {self.name!r}: give its lowest and highest values, as many of one as of the other"
            )
        for index, (low, high) in enumerate(zip(self.low, self.high, strict=True)):
            if not (math.isfinite(high - low) and low <= high):
                raise ValueError(f"action {self.name!r}: {self.name}[{index}] has bounds {low:g} ... {high:g}")

    @property
    def size(self) -> int:
        """The number of values in the part."""
        return len(self.low)

    def describe(self) -> dict[str, Any]:
        """Return plain values from which `build` makes the same part."""
        return {"name": self.name, "low": list(self.low), "high": list(self.high)}

    @classmethod
    def build(cls, described: Mapping[str, Any]) -> ActionPart:
        """Make the part that `describe` described."""
        return cls(described["name"], *(tuple(map(float, described[name])) for name in ("low", "high")))


UNNAMED = "action"
"""The name of the one part of an action that is an array without names."""


def joined(parts: Sequence[ActionPart]) -> ActionPart:
    """Join the numbers of all parts of an action in one part."""
    return ActionPart(UNNAMED, sum((part.low for part in parts), ()), sum((part.high for part in parts), ()))


def _sizes(name: str, shape: Any) -> tuple[int, ...]:
    """A shape of any sequence of integers as a tuple."""
    try:
        return tuple(size if isinstance(size, bool) else operator.index(size) for size in shape)
    except TypeError as error:
        raise ValueError(f"observation {name!r}: a shape is a sequence of integers, got {shape!r}") from error


def _bounds(name: str, values: Any) -> Bounds:
    """One number, a sequence or an array as a tuple of floats."""
    array = np.asarray(values)
    if array.dtype.kind not in "iuf" or array.ndim > 1:
        raise ValueError(f"action {name!r}: bounds must be numbers along one axis, got {values!r}")
    return tuple(map(float, array.reshape(-1)))


def duplicate(parts: Sequence[ObservationPart] | Sequence[ActionPart]) -> str | None:
    """The first name that two parts share, or None."""
    counts = Counter(part.name for part in parts)
    return next((name for name, count in counts.items() if count > 1), None)


def _as_bytes(image: NDArray[Any], value_range: tuple[float, float] | None) -> NDArray[np.uint8]:
    if value_range is None:
        return image
    low, high = value_range
    brightness = (image.astype(np.float64) - low) / (high - low)
    return np.rint(255 * brightness.clip(0, 1)).astype(np.uint8)


def _as_dtype(values: NDArray[Any], dtype: str) -> NDArray[Any]:
    """Convert to a dtype, rounding to whole numbers if it has no others."""
    if np.dtype(dtype).kind in "iu":
        values = np.rint(values)
    with np.errstate(invalid="ignore", over="ignore"):  # of numbers that the dtype cannot hold
        return values.astype(dtype)


def as_numbers(what: str, value: Any) -> NDArray[Any]:
    """Return the value as an array of numbers.

    Raises:
        ValueError: It is none, with `what` in the message.
    """
    try:
        array = np.asarray(value)
    except Exception as error:  # of a ragged list, of a tensor on another device, of whatever converts itself
        raise ValueError(f"{what} cannot be read as an array: {one_line(error)}") from error
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{what} is {kind_of(array)}, expected numbers")
    return array


def kind_of(array: NDArray[Any]) -> str:
    """The dtype and shape in words, for errors."""
    return f"{array.dtype} of shape {array.shape}"


def _are_integers(values: Sequence[Any], lowest: float = -math.inf) -> bool:
    return all(isinstance(value, int) and value >= lowest for value in values)
