"""Descriptions of an environment's spaces and time limit, from the metadata that `make_env` attaches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray

from softflow.task import ObservationPart, TaskSpec
from softflow.task.spaces import WHOLE

AnyEnv = gymnasium.Env[Any, Any] | VectorEnv[Any, Any, Any]


def describe_spaces(env: AnyEnv) -> str:
    """Describe the spaces in one line: `observation: camera image 64x64x3 (uint8); action: 15 numbers in [-1, 1]`.

    Args:
        env: An environment made by `make_env`, or a vector environment of such.
    """
    spec = TaskSpec.from_env(env)
    observed = ", ".join(map(_describe, spec.observation))
    if len(spec.observation) == 1:
        observed = observed.removeprefix(f"{WHOLE} ")
    actions, locked = spec.action_dim, len(spec.low) - spec.action_dim
    free = spec.low < spec.high
    is_unit = bool((spec.low[free] == -1).all() and (spec.high[free] == 1).all())
    bounds = " in [-1, 1]" if is_unit else ", rescaled from native bounds to [-1, 1]"
    without = f", without {locked} of one possible value" if locked else ""
    return f"observation: {observed}; action: {actions} number{'s' * (actions != 1)}{bounds}{without}"


def time_limit(env: AnyEnv) -> int | None:
    """Return the number of steps after which the environment truncates an episode, or None if it is unknown."""
    return env.metadata["time_limit"]


def name_dimensions(env: AnyEnv, chosen: NDArray[np.bool_]) -> str:
    """Name the chosen (K,) entries of an observation: `joints[3-5, 17], touch[0]`, or `3-5, 17` if it has one part."""
    numbers = [part for part in TaskSpec.from_env(env).observation if not part.is_image]
    return _named([(part.name, np.arange(part.packed.size)) for part in numbers], chosen)


def name_actions(env: AnyEnv, chosen: NDArray[np.bool_]) -> str:
    """Name the chosen (A,) action dimensions, as `name_dimensions` does. Indices count all numbers of a part, also
    those of one possible value, which are not among the A."""
    parts = TaskSpec.from_env(env).action
    return _named([(part.name, np.flatnonzero(np.less(part.low, part.high))) for part in parts], chosen)


def _named(parts: Sequence[tuple[str, NDArray[np.int64]]], chosen: NDArray[np.bool_]) -> str:
    """Name the chosen entries of parts that are given by their names and the indices of their entries."""
    named, start = list[str](), 0
    for name, entries in parts:
        indices = entries[chosen[start : start + len(entries)]]
        start += len(entries)
        if len(indices):
            runs = np.split(indices, np.flatnonzero(np.diff(indices) > 1) + 1)
            text = ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)
            named.append(f"{name}[{text}]" if len(parts) > 1 else text)
    return ", ".join(named)


def _describe(part: ObservationPart) -> str:
    """Describe one part, such as `camera image 64x64x12 (4x64x64x3 uint8)`."""
    if part.is_image:
        given = "" if part.shape == part.packed.shape else f"{_by(part.shape)} "
        return f"{part.name} image {_by(part.packed.shape)} ({given}{part.dtype})"
    size = part.packed.size
    return f"{part.name} {size} number{'s' * (size != 1)}{_one_hot(part)}"


def _one_hot(part: ObservationPart) -> str:
    if part.categories is None:
        return ""
    counts, starts = (" ".join(map(str, values or ())) for values in (part.categories, part.starts))
    kind, numbers = ("MultiDiscrete", "[{}]") if part.shape else ("Discrete", "{}")  # as gymnasium writes them
    start = f", start={numbers.format(starts)}" if starts else ""
    return f" (one-hot, {kind}({numbers.format(counts)}{start}))"


def _by(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))
