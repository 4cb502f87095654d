"""Packed observations: images and numbers as the bytes of one array, with a layout that describes its parts.

All code between an environment and a policy handles a batch of observations as one array (N, O). It contains either
float32 numbers or the packed bytes of images and numbers. Only the code that packs and unpacks knows the layout.
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
"""Minimum height and width of an image in pixels that an encoder accepts."""


@dataclass(frozen=True)
class Part:
    """One array of an observation.

    Attributes:
        name: The name of the array.
        shape: The shape of the array; (height, width, channels) for an image.
        dtype: "uint8" for an image, "float32" for numbers.

    Raises:
        ValueError: The name, shape or dtype is not valid.
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
        """The number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class ObservationLayout:
    """The order of images and numbers in the bytes of a packed observation.

    Attributes:
        parts: The parts in their order, with unique names.

    Raises:
        ValueError: Two parts have the same name, or no part is an image: numbers alone need no packing.
    """

    parts: tuple[Part, ...]

    def __post_init__(self) -> None:
        if len({part.name for part in self.parts}) < len(self.parts):
            raise ValueError(f"two parts have one name: {[part.name for part in self.parts]}")
        if not self.images:
            raise ValueError("no part is an image: an observation of numbers alone is not packed")

    @property
    def slices(self) -> dict[str, slice]:
        """The range of bytes of each part, by name."""
        sizes = [part.size * np.dtype(part.dtype).itemsize for part in self.parts]
        bounds = pairwise(accumulate(sizes, initial=0))
        return {part.name: slice(*between) for part, between in zip(self.parts, bounds, strict=True)}

    @property
    def size(self) -> int:
        """The number O of bytes in a packed observation."""
        return max(where.stop for where in self.slices.values())

    @property
    def images(self) -> tuple[Part, ...]:
        return tuple(part for part in self.parts if part.is_image)

    @property
    def number_count(self) -> int:
        """The number K of float32 numbers in an observation."""
        return sum(part.size for part in self.parts if not part.is_image)

    def pack(self, observation: Mapping[str, Any]) -> NDArray[np.uint8]:
        """Return the bytes (O,) of one observation.

        Raises:
            ValueError: A part is missing, has another shape, is an image but not uint8, or is not finite as float32.
        """
        return np.concatenate([_as_part(part, observation).reshape(-1).view(np.uint8) for part in self.parts])

    def unpack(self, packed: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        """Return the parts of packed observations (..., O) by name, as arrays (..., *shape) in their own dtypes."""
        return {
            part.name: packed[..., where].copy().view(part.dtype).reshape(*packed.shape[:-1], *part.shape)
            for part, where in zip(self.parts, self.slices.values(), strict=True)
        }

    def numbers(self, packed: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return all float32 numbers of packed observations, part after part: (..., O) -> (..., K)."""
        where = [self.slices[part.name] for part in self.parts if not part.is_image]
        none = np.zeros((*packed.shape[:-1], 0), np.float32)
        return np.concatenate([none, *(packed[..., columns].copy().view(np.float32) for columns in where)], -1)

    def describe(self) -> list[dict[str, Any]]:
        """Return plain values from which `build` makes an equal layout."""
        return [{"name": part.name, "shape": list(part.shape), "dtype": part.dtype} for part in self.parts]

    @classmethod
    def build(cls, parts: Sequence[Mapping[str, Any]]) -> ObservationLayout:
        """Build a layout from the result of `describe`.

        Raises:
            ValueError: `parts` does not describe a layout.
        """
        try:
            return cls(tuple(Part(part["name"], tuple(part["shape"]), part["dtype"]) for part in parts))
        except (KeyError, TypeError) as error:
            raise ValueError(f"not the layout of an observation: {parts!r}") from error


ObservationSize = int | ObservationLayout
"""The size of an observation: the number O of its numbers, or the layout of its bytes."""


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
