"""Rescaling of third-party environments' actions to [-1, 1]."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import TransformAction
from numpy.typing import NDArray

from softflow.task import TaskSpec


def unit_actions(env: gymnasium.Env[Any, Any], spec: TaskSpec) -> gymnasium.Env[Any, Any]:
    """Rescale actions to ``Box(-1, 1, (A,), float32)``; an environment with that action space is returned unchanged.

    Dimensions with a single possible value, such as locked joints, always get that value and are not among the A.

    Args:
        env: An environment whose action space is a Box of real numbers.
        spec: The result of `TaskSpec.from_env` for this environment.
    """
    space, unit = env.action_space, spaces.Box(-1.0, 1.0, (spec.action_dim,), np.float32)
    if space == unit:
        return env
    shape, dtype = space.shape, space.dtype

    def to_native(action: NDArray[np.floating]) -> NDArray[np.floating]:
        return spec.native_actions(action, dtype).reshape(shape)

    return TransformAction(env, to_native, unit)
