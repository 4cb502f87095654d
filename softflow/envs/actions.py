"""Actions of other people's environments as numbers in [-1, 1]."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import TransformAction
from numpy.typing import NDArray

from softflow.errors import UserError

LARGEST_BOUND = 1e9
"""Bounds beyond it are a way to say that there are none."""
_TRANSFORM = "gymnasium.wrappers.TransformAction"


def unit_actions(env: gymnasium.Env[Any, Any], environment: str) -> gymnasium.Env[Any, Any]:
    """Rescale actions to ``Box(-1, 1, (A,), float32)``.

    Dimensions with one possible value, such as locked joints, always get it, and are not among the A.

    Args:
        env: its actions are a Box of real numbers.
        environment: what errors call it.

    Raises:
        UserError: its actions are something else, or have no bounds that mean anything.
    """
    space = env.action_space
    if not isinstance(space, spaces.Box) or not np.issubdtype(space.dtype, np.floating):
        raise UserError(f"actions must be a Box of real numbers, {environment} has {space}: {_advice(space)}")
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    if not (np.maximum(np.abs(low), np.abs(high)) < LARGEST_BOUND).all() or not (low <= high).all():
        raise UserError(
            f"actions are scaled by their limits and must have finite bounds within +-{LARGEST_BOUND:g}, {environment} "
            f"has {space}: give the real limits with {_TRANSFORM}(env, lambda action: action, Box(low, high))"
        )
    free = low < high
    if not free.any():
        raise UserError(f"no action of {environment} has more than one possible value: {space}")
    unit = spaces.Box(-1.0, 1.0, (int(free.sum()),), np.float32)
    if space == unit:
        return env

    def to_native(action: NDArray[np.floating]) -> NDArray[np.floating]:
        native = low.copy()
        native[free] += (np.asarray(action, np.float64) + 1) / 2 * (high - low)[free]
        return np.clip(native, low, high).astype(space.dtype)  # never past a bound by rounding

    env = TransformAction(env, to_native, unit)
    env.metadata = {**env.metadata, "locked_actions": int(free.size - free.sum())}
    return env


def _advice(space: spaces.Space[Any]) -> str:
    if isinstance(space, spaces.Dict | spaces.Tuple):
        return (
            f"join them with {_TRANSFORM}(env, lambda action: spaces.unflatten(env.action_space, action), "
            "spaces.flatten_space(env.action_space))"
        )
    if isinstance(space, spaces.Box):
        return f"round them with {_TRANSFORM}(env, function, Box(low, high))"
    return f"policies are continuous; choose by the largest of n with {_TRANSFORM}(env, function, Box(-1, 1, (n,)))"
