"""What each part of an environment's observation is taken for: numbers or an image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from softflow.boundary import MalformedStep, as_array
from softflow.errors import UserError, did_you_mean
from softflow.task.layout import SMALLEST_IMAGE

WHOLE = "observation"
"""Name of the one part of an observation that is no Dict."""
NUMBERS = "numbers"
LARGEST_ONE_HOT = 10_000
_TRANSFORM = "gymnasium.wrappers.TransformObservation"


@dataclass(frozen=True)
class ObservedPart:
    """One array of an observation.

    Attributes:
        name: keys of nested Dicts, joined by "/".
        path: these keys.
        space: Box, Discrete, MultiBinary or MultiDiscrete.
        axes: which axes of an image are its height and width; the others become its channels, in their order. None of
            numbers.
    """

    name: str
    path: tuple[str, ...]
    space: spaces.Space[Any]
    axes: tuple[int, int] | None = None

    @property
    def is_image(self) -> bool:
        return self.axes is not None

    @property
    def shape(self) -> tuple[int, ...]:
        """(height, width, channels) of an image; that of a Box, or else how many numbers gymnasium flattens it to."""
        if self.axes is None:
            return self.space.shape if isinstance(self.space, spaces.Box) else (spaces.flatdim(self.space),)
        full = self.space.shape
        assert full is not None
        height, width = (full[axis] for axis in self.axes)
        return height, width, int(np.prod(full)) // (height * width)

    def read(self, observation: Any) -> NDArray[Any]:
        """This part (*shape) of an observation: of an image uint8, of numbers in the dtype that gymnasium flattens to.

        Raises:
            MalformedStep: it is missing, or does not fit its space.
        """
        for key in self.path:
            if key not in observation:
                raise MalformedStep(f"the observation has no {self.name!r}, only {', '.join(observation)}")
            observation = observation[key]
        value = self._checked(observation)
        if self.axes is None:
            return np.asarray(spaces.flatten(self.space, value)).reshape(self.shape)
        return np.moveaxis(self._bytes(value), self.axes, (0, 1)).reshape(self.shape)

    def describe(self) -> str:
        """In words, such as `camera image 64x64x12 (4x64x64x3 uint8)`."""
        if self.axes is not None:
            given = "" if self.space.shape == self.shape else f"{_by(self.space.shape)} "
            source = f"{given}{self.space.dtype}"
            return f"{self.name} image {_by(self.shape)} ({source})"
        size = spaces.flatdim(self.space)
        one_hot = f" (one-hot, {self.space})" if isinstance(self.space, spaces.Discrete | spaces.MultiDiscrete) else ""
        return f"{self.name} {size} number{'s' * (size != 1)}{one_hot}"

    def _checked(self, value: Any) -> Any:
        array = as_array(self.name, value, self.space)
        if not isinstance(self.space, spaces.Box) and not self.space.contains(array if array.ndim else array[()]):
            raise MalformedStep(f"{self.name} is {value}, which is not in {self.space}")
        return array

    def _bytes(self, image: NDArray[Any]) -> NDArray[np.uint8]:
        if image.dtype == np.uint8:
            return image
        low, high = _bounds(self.space)
        brightness = (image.astype(np.float64) - low) / (high - low)
        return np.rint(255 * brightness.clip(0, 1)).astype(np.uint8)


def observed_parts(
    space: spaces.Space[Any], observed_as: Mapping[str, Any], environment: str
) -> tuple[ObservedPart, ...]:
    """The parts of an observation, in the order in which gymnasium flattens them; those without a number left out.

    A Box is an image if it is uint8 in 0 ... 255 and exactly two axes, next to each other, have `SMALLEST_IMAGE` pixels
    or more. What looks like an image but may be none, or may not be taken for one without loss, is refused unless
    `observed_as` says what it is.

    Args:
        space: of the observation.
        observed_as: by name of a part, `"numbers"`, or the axes of an image by a letter each, H and W its height and
            width: `"HWC"`, `"CHW"`, `"KHWC"`. An image that is not uint8 is then rounded to 256 values between the
            bounds of its space.
        environment: what errors call it.

    Raises:
        UserError: a space that has no fixed number of numbers, or is ambiguous; or `observed_as` does not fit it.
    """
    if not isinstance(observed_as, Mapping):
        raise UserError(f"observed_as must be a mapping such as {{camera: HWC}}, got {observed_as!r}")
    leaves = list(_leaves(space, ()))
    names = ["/".join(map(str, path)) or WHOLE for path, _ in leaves]
    for name in observed_as:
        if name not in names:
            raise UserError(f"observed_as: {environment} observes no {name!r}: {did_you_mean(str(name), names)}")
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"{environment} observes two parts that are called {twice[0]!r}: rename one")
    parts = []
    for name, (path, leaf) in zip(names, leaves, strict=True):
        _require_numbers(name, leaf, environment)
        if spaces.flatdim(leaf):
            said = observed_as.get(name)
            parts.append(ObservedPart(name, path, leaf, _axes(name, leaf, said, environment)))
    if not parts:
        raise UserError(f"{environment} observes nothing: its space is {space}")
    return tuple(parts)


def _leaves(space: spaces.Space[Any], path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], spaces.Space[Any]]]:
    if isinstance(space, spaces.Dict):
        for key, below in space.items():
            yield from _leaves(below, (*path, key))
    else:
        yield path, space


def _require_numbers(name: str, space: spaces.Space[Any], environment: str) -> None:
    what = f"{environment}: its observation {name!r} is"
    if isinstance(space, spaces.Tuple):
        raise UserError(f"{what} a Tuple: flatten it with gymnasium.wrappers.FlattenObservation, or make it a Dict")
    if not isinstance(space, spaces.Box | spaces.Discrete | spaces.MultiBinary | spaces.MultiDiscrete):
        raise UserError(
            f"{what} a {type(space).__name__}, of no fixed number of numbers: make a Box of it with {_TRANSFORM}, or "
            "leave it out of a Dict with gymnasium.wrappers.FilterObservation"
        )
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete) and spaces.flatdim(space) > LARGEST_ONE_HOT:
        size = f"{spaces.flatdim(space):,}"
        raise UserError(f"{what} {space}, {size} numbers as one-hot: make a Box of it with {_TRANSFORM}")


def _axes(name: str, space: spaces.Space[Any], said: Any, environment: str) -> tuple[int, int] | None:
    """Which are height and width of an image; None of numbers."""
    if said == NUMBERS:
        return None
    if not isinstance(space, spaces.Box):
        if said is not None:
            raise UserError(f"observed_as: {name!r} of {environment} is {space}, which is always numbers")
        return None
    if said is not None:
        return _said_axes(name, space, said, environment)
    large = [axis for axis, size in enumerate(space.shape) if size >= SMALLEST_IMAGE]
    is_bytes = space.dtype == np.uint8
    if len(large) < 2 and not (is_bytes and len(space.shape) > 2):
        return None
    if is_bytes and _bounds(space) == (0, 255) and len(large) == 2 and large[1] == large[0] + 1:
        return large[0], large[1]
    if not is_bytes and len(space.shape) == 2 and _bounds(space) not in ((0, 1), (0, 255)):
        return None  # a table, such as the latest observations of a frame stack
    low, high = _bounds(space)
    raise UserError(
        f"{environment}: its observation {name!r}, {space.dtype} of shape {space.shape} in {low:g} ... {high:g}, may "
        f"be an image or not: say --env-options.observed-as '{{{name}: {NUMBERS}}}', or for an image its axes in their "
        f"order, height H and width W, such as '{{{name}: {_likely_letters(space.shape)}}}'; or make it "
        f"uint8 of shape (H, W, C) with {_TRANSFORM}"
    )


def _likely_letters(shape: Sequence[int]) -> str:
    """The two largest axes are most likely height and width."""
    largest = sorted(np.argsort(shape, kind="stable")[-2:].tolist())
    letters, others = dict(zip(largest, "HW", strict=True)), iter("CKLMN")
    return "".join(letters.get(axis) or next(others, "?") for axis in range(len(shape)))


def _said_axes(name: str, space: spaces.Box, said: Any, environment: str) -> tuple[int, int]:
    is_text = isinstance(said, str) and said.isalpha() and len(set(said)) == len(said)
    if not is_text or not {"H", "W"} <= set(said) or len(said) != len(space.shape):
        raise UserError(
            f"observed_as: {said!r} does not fit {name!r} of {environment}, of shape {space.shape}: say {NUMBERS}, or "
            "for an image a letter for each axis, height H and width W, such as HWC"
        )
    low, high = _bounds(space)
    if space.dtype != np.uint8 and not (np.isfinite([low, high, high - low]).all() and low < high):
        raise UserError(
            f"observed_as: {name!r} of {environment} is {space.dtype} in {low:g} ... {high:g}, which cannot be scaled "
            f"to the 256 values of a pixel: make it uint8 with {_TRANSFORM}"
        )
    return said.index("H"), said.index("W")


def _bounds(space: Any) -> tuple[float, float]:
    """Lowest and highest of all."""
    return float(space.low.min()), float(space.high.max())


def _by(shape: Sequence[int] | None) -> str:
    return "x".join(map(str, shape or ()))
