"""What was found out about an environment when it was made."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray

from softflow.envs.observation_parts import WHOLE, ObservedPart

AnyEnv = gymnasium.Env[Any, Any] | VectorEnv[Any, Any, Any]


def describe_spaces(env: AnyEnv) -> str:
    """One line, such as `observation: camera image 64x64x3 (uint8), joints 9 numbers; action: 15 numbers in [-1, 1]`.

    Args:
        env: an environment of `make_env`, or several side by side.
    """
    parts, space = _parts(env), env.single_action_space if isinstance(env, VectorEnv) else env.action_space
    observed = ", ".join(part.describe() for part in parts)
    if len(parts) == 1:
        observed = observed.removeprefix(f"{WHOLE} ")
    assert space.shape is not None
    actions, locked = space.shape[-1], env.metadata.get("locked_actions", 0)
    without = f", without {locked} of one possible value" if locked else ""
    return f"observation: {observed}; action: {actions} number{'s' * (actions != 1)} in [-1, 1]{without}"


def time_limit(env: AnyEnv) -> int | None:
    """Steps after which the environment cuts an episode off, None if that is not known."""
    return env.metadata["time_limit"]


def name_dimensions(env: AnyEnv, chosen: NDArray[np.bool_]) -> str:
    """The chosen (K,) of an observation's numbers: `joints[3-5, 17], touch[0]`, or `3-5, 17` if it has one part."""
    numbers, named, start = [part for part in _parts(env) if not part.is_image], list[str](), 0
    for part in numbers:
        size = spaces.flatdim(part.space)
        indices = np.flatnonzero(chosen[start : start + size])
        start += size
        if len(indices):
            runs = np.split(indices, np.flatnonzero(np.diff(indices) > 1) + 1)
            text = ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)
            named.append(f"{part.name}[{text}]" if len(numbers) > 1 else text)
    return ", ".join(named)


def _parts(env: AnyEnv) -> tuple[ObservedPart, ...]:
    return env.metadata["observation_parts"]
