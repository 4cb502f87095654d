"""Packed observations: images and numbers as the bytes of one array, and the layout that says what lies where.

All between an environment and a policy deals with one array (N, O) per observation, whatever is in it: float32 numbers,
or the bytes of images and numbers, packed. Only who packs and who unpacks has to know the layout.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

DTYPES = ("uint8", "float32")
SMALLEST_IMAGE = 16
"""Pixels of an image's height and width that an encoder needs."""


@dataclass(frozen=True)
class Part:
    """One array of an observation.

    Attributes:
        name: of the array.
        shape: of an image (height, width, channels).
        dtype: "uint8" of an image, "float32" of numbers.

    Raises:
        ValueError: no such part is possible.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str

    def __post_init__(self) -> None:
        sizes = all(isinstance(size, int) and size > 0 for size in self.shape)
        if not (isinstance(self.name, str) and sizes and self.dtype in DTYPES):
            raise ValueError(f"not a part of an observation: {self}")
        if self.is_image and len(self.shape) != 3:
            raise ValueError(f"{self.name}: an image has shape (height, width, channels), got {self.shape}")

    @property
    def is_image(self) -> bool:
        return self.dtype == "uint8"

    @property
    def size(self) -> int:
        """How many pixels' channels, or numbers."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class ObservationLayout:
    """How images and numbers follow one another in the bytes of a packed observation.

    Attributes:
        parts: in their order, with different names.

    Raises:
        ValueError: two parts of one name, or no image: numbers alone need no packing.
    """

    parts: tuple[Part, ...]

    def __post_init__(self) -> None:
        if len({part.name for part in self.parts}) < len(self.parts):
            raise ValueError(f"two parts have one name: {[part.name for part in self.parts]}")
        if not self.images:
            raise ValueError("no part is an image: an observation of numbers alone is not packed")

    @property
    def slices(self) -> dict[str, slice]:
        """Where the bytes of each part lie."""
        sizes = [part.size * np.dtype(part.dtype).itemsize for part in self.parts]
        bounds = pairwise(accumulate(sizes, initial=0))
        return {part.name: slice(*between) for part, between in zip(self.parts, bounds, strict=True)}

    @property
    def size(self) -> int:
        """O: bytes of a packed observation."""
        return max(where.stop for where in self.slices.values())

    @property
    def images(self) -> tuple[Part, ...]:
        return tuple(part for part in self.parts if part.is_image)

    @property
    def number_count(self) -> int:
        """K: numbers in an observation, in all of its parts."""
        return sum(part.size for part in self.parts if not part.is_image)

    def pack(self, observation: Mapping[str, Any]) -> NDArray[np.uint8]:
        """The bytes (O,) of one observation.

        Raises:
            ValueError: a part is missing, of another shape, no uint8 image, or not finite as float32.
        """
        return np.concatenate([_as_part(part, observation).reshape(-1).view(np.uint8) for part in self.parts])

    def unpack(self, packed: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        """The parts of packed observations (..., O): by name (..., *shape), in their dtypes."""
        return {
            part.name: packed[..., where].copy().view(part.dtype).reshape(*packed.shape[:-1], *part.shape)
            for part, where in zip(self.parts, self.slices.values(), strict=True)
        }

    def numbers(self, packed: NDArray[np.uint8]) -> NDArray[np.float32]:
        """All numbers of packed observations, part after part: (..., O) -> (..., K)."""
        where = [self.slices[part.name] for part in self.parts if not part.is_image]
        none = np.zeros((*packed.shape[:-1], 0), np.float32)
        return np.concatenate([none, *(packed[..., columns].copy().view(np.float32) for columns in where)], -1)

    def describe(self) -> list[dict[str, Any]]:
        """Plain values from which `build` makes the same again."""
        return [{"name": part.name, "shape": list(part.shape), "dtype": part.dtype} for part in self.parts]

    @classmethod
    def build(cls, parts: Sequence[Mapping[str, Any]]) -> ObservationLayout:
        """The inverse of `describe`.

        Raises:
            ValueError: it does not describe a layout.
        """
        try:
            return cls(tuple(Part(part["name"], tuple(part["shape"]), part["dtype"]) for part in parts))
        except (KeyError, TypeError) as error:
            raise ValueError(f"not the layout of an observation: {parts!r}") from error


ObservationSize = int | ObservationLayout
"""Size of an observation: O numbers, or the layout of its bytes."""


def _as_part(part: Part, observation: Mapping[str, Any]) -> NDArray[Any]:
    if part.name not in observation:
        raise ValueError(f"the observation has no {part.name!r}, only {', '.join(observation)}")
    array = np.asarray(observation[part.name])
    if array.shape != part.shape or (part.is_image and array.dtype != np.uint8):
        raise ValueError(
            f"{part.name}: expected {part.dtype} of shape {part.shape}, got {array.dtype} of {array.shape}"
        )
    with np.errstate(over="ignore"):
        array = np.ascontiguousarray(array, part.dtype)
    if not part.is_image and not np.isfinite(array).all():
        raise ValueError(f"{part.name}: not all of its numbers are finite as float32")
    return array
