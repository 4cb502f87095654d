"""The spaces of gymnasium's environments as parts of observations and actions."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces

from softflow.errors import UserError, did_you_mean
from softflow.task.layout import SMALLEST_IMAGE
from softflow.task.parts import UNNAMED, ActionPart, ObservationPart

WHOLE = "observation"
"""The name of the one part of an observation that is no Dict."""
NUMBERS = "numbers"
LARGEST_ONE_HOT = 10_000
LARGEST_BOUND = 1e9
"""Bounds of an action beyond it are a way to say that there are none."""
_WRAPPERS = "gymnasium.wrappers"
Leaf = tuple[tuple[Any, ...], spaces.Space[Any]]
"""The keys of nested Dicts that lead to an array, and its space."""


def observation_leaves(space: spaces.Space[Any]) -> Iterator[Leaf]:
    """The keys that lead to each part of `observation_parts`, and its space, in the same order."""
    return ((path, leaf) for path, leaf in _leaves(space, ()) if spaces.flatdim(leaf))


def observation_parts(
    space: spaces.Space[Any], observed_as: Mapping[str, Any], environment: str
) -> tuple[ObservationPart, ...]:
    """Return the parts of an observation, in the order in which gymnasium flattens them; empty ones are left out.

    A Box is an image if it is uint8 in 0 ... 255 and exactly two axes, next to each other, have `SMALLEST_IMAGE` pixels
    or more. What looks like an image but may be none, or may not be taken for one without loss, is refused unless
    `observed_as` says what it is.

    Args:
        space: The space of the observation.
        observed_as: By the name of a part, `"numbers"`, or the axes of an image by a letter each, H and W its height
            and width: `"HWC"`, `"CHW"`, `"KHWC"`. An image that is not uint8 is then rounded to 256 values between the
            bounds of its space.
        environment: What errors call it.

    Raises:
        UserError: A space has no fixed number of numbers, or is ambiguous; or `observed_as` does not fit it.
    """
    if not isinstance(observed_as, Mapping):
        raise UserError(f"observed_as must be a mapping such as {{camera: HWC}}, got {observed_as!r}")
    names = [part_name(path) for path, _ in _leaves(space, ())]
    for name in observed_as:
        if name not in names:
            raise UserError(f"observed_as: {environment} observes no {name!r}: {did_you_mean(str(name), names)}")
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"{environment} observes two parts that are called {twice[0]!r}: rename one")
    for path, leaf in _leaves(space, ()):
        _require_numbers(part_name(path), leaf, environment)
    named = [(part_name(path), leaf) for path, leaf in observation_leaves(space)]
    if not named:
        raise UserError(f"{environment} observes nothing: its space is {space}")
    return tuple(_part(name, leaf, observed_as.get(name), environment) for name, leaf in named)


def part_name(path: Sequence[Any]) -> str:
    """The keys of nested Dicts, joined by "/"."""
    return "/".join(map(str, path)) or WHOLE


def action_parts(space: spaces.Space[Any], environment: str) -> tuple[ActionPart, ...]:
    """Return the one part of an action that is a Box of real numbers, flattened.

    Raises:
        UserError: It is something else, or has no bounds that mean anything.
    """
    transform = f"{_WRAPPERS}.TransformAction"
    if not isinstance(space, spaces.Box) or not np.issubdtype(space.dtype, np.floating):
        advice = _advice(space, transform)
        raise UserError(f"actions must be a Box of real numbers, {environment} has {space}: {advice}")
    low, high = (bound.astype(np.float64).reshape(-1) for bound in (space.low, space.high))
    if not (np.maximum(np.abs(low), np.abs(high)) < LARGEST_BOUND).all() or not (low <= high).all():
        raise UserError(
            f"actions are scaled by their limits and must have finite bounds within +-{LARGEST_BOUND:g}, {environment} "
            f"has {space}: give the real limits with {transform}(env, lambda action: action, Box(low, high))"
        )
    if not (low < high).any():
        raise UserError(f"no action of {environment} has more than one possible value: {space}")
    return (ActionPart(UNNAMED, tuple(low.tolist()), tuple(high.tolist())),)


def control_rate(env: Any, environment: str) -> float | None:
    """Return how many actions an environment executes in a second of its own time, None if it does not say so.

    It is `metadata["control_rate"]`, or else 1 / `dt`, as the environments of gymnasium's MuJoCo have it.

    Raises:
        UserError: `metadata["control_rate"]` is no positive number.
    """
    said = env.metadata.get("control_rate")
    if said is not None:
        if not _is_positive(said):
            raise UserError(f"{environment} has a control_rate of {said!r} in its metadata: give a number of hertz")
        return float(said)
    dt = getattr(env.unwrapped, "dt", None)
    return 1 / float(dt) if _is_positive(dt) else None  # type: ignore[arg-type]


def _is_positive(value: Any) -> bool:
    is_number = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    return is_number and 0 < value < math.inf


def _leaves(space: spaces.Space[Any], path: tuple[Any, ...]) -> Iterator[Leaf]:
    if isinstance(space, spaces.Dict):
        for key, below in space.items():
            yield from _leaves(below, (*path, key))
    else:
        yield path, space


def _require_numbers(name: str, space: spaces.Space[Any], environment: str) -> None:
    what = f"{environment}: its observation {name!r} is"
    if isinstance(space, spaces.Tuple):
        raise UserError(f"{what} a Tuple: flatten it with {_WRAPPERS}.FlattenObservation, or make it a Dict")
    if not isinstance(space, spaces.Box | spaces.Discrete | spaces.MultiBinary | spaces.MultiDiscrete):
        raise UserError(
            f"{what} a {type(space).__name__}, of no fixed number of numbers: make a Box of it with "
            f"{_WRAPPERS}.TransformObservation, or leave it out of a Dict with {_WRAPPERS}.FilterObservation"
        )
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete) and spaces.flatdim(space) > LARGEST_ONE_HOT:
        size = f"{spaces.flatdim(space):,}"
        raise UserError(
            f"{what} {space}, {size} numbers as one-hot: make a Box of it with {_WRAPPERS}.TransformObservation"
        )


def _part(name: str, space: spaces.Space[Any], said: Any, environment: str) -> ObservationPart:
    assert space.shape is not None and space.dtype is not None
    axes = _axes(name, space, said, environment)
    categories = starts = None
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
        counts = [space.n] if isinstance(space, spaces.Discrete) else space.nvec
        categories = tuple(np.asarray(counts).reshape(-1).tolist())
        first = tuple(np.broadcast_to(space.start, space.shape).reshape(-1).tolist())
        starts = first if any(first) else None
    value_range = _bounds(space) if axes is not None and space.dtype != np.uint8 else None
    return ObservationPart(name, space.shape, space.dtype.name, axes, value_range, categories, starts)


def _axes(name: str, space: spaces.Space[Any], said: Any, environment: str) -> str | None:
    """The axes of an image by a letter each; None of numbers."""
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
        return _likely_axes(space.shape)
    if not is_bytes and len(space.shape) == 2 and _bounds(space) not in ((0, 1), (0, 255)):
        return None  # a table, such as the latest observations of a frame stack
    low, high = _bounds(space)
    raise UserError(
        f"{environment}: its observation {name!r}, {space.dtype} of shape {space.shape} in {low:g} ... {high:g}, may "
        f"be an image or not: say --env-options.observed-as '{{{name}: {NUMBERS}}}', or for an image its axes in their "
        f"order, height H and width W, such as '{{{name}: {_likely_axes(space.shape)}}}'; or make it "
        f"uint8 of shape (H, W, C) with {_WRAPPERS}.TransformObservation"
    )


def _likely_axes(shape: Sequence[int]) -> str:
    """The two largest axes are most likely height and width."""
    largest = sorted(np.argsort(shape, kind="stable")[-2:].tolist())
    letters, others = dict(zip(largest, "HW", strict=True)), iter("CKLMNABDEFGIJOPQRSTUVXYZ")
    return "".join(letters.get(axis) or next(others) for axis in range(len(shape)))


def _said_axes(name: str, space: spaces.Box, said: Any, environment: str) -> str:
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
            f"to the 256 values of a pixel: make it uint8 with {_WRAPPERS}.TransformObservation"
        )
    return str(said)


def _bounds(space: Any) -> tuple[float, float]:
    """The lowest and the highest of all."""
    return float(space.low.min()), float(space.high.max())


def _advice(space: spaces.Space[Any], transform: str) -> str:
    if isinstance(space, spaces.Dict | spaces.Tuple):
        return (
            f"join them with {transform}(env, lambda action: spaces.unflatten(env.action_space, action), "
            "spaces.flatten_space(env.action_space))"
        )
    if isinstance(space, spaces.Box):
        return f"round them with {transform}(env, function, Box(low, high))"
    return f"policies are continuous; choose by the largest of n with {transform}(env, function, Box(-1, 1, (n,)))"
