"""An environment in the middle of an episode: what a checkpoint keeps of it, and how it is returned to.

The environment, or a wrapper around it, has

    get_state() -> {name: array}      all that the rest of the episode depends on; numbers, bools and strings
    set_state(state)                  steps from here are the same as they would have been
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.wrappers import OrderEnforcing, PassiveEnvChecker, TimeLimit

from softflow.training.checked_environment import CheckedEnvironment

_KNOWN_RESETS = tuple(
    wrapper.reset
    for wrapper in (
        gym.Wrapper, gym.ObservationWrapper, OrderEnforcing, PassiveEnvChecker, TimeLimit, CheckedEnvironment
    )
)  # fmt: skip
"""A wrapper that keeps something of an episode has a `reset` of its own; of these we know what they keep."""


def save_environment(env: gym.Env) -> dict[str, Any] | None:
    """The state of `env` within its wrappers, as arrays.

    None if it cannot be saved: there is no `get_state` and `set_state`, what it gives are not plain arrays, or a
    wrapper around them keeps something of the episode to itself.
    """
    elapsed = list[int]()
    layer: Any = env
    while not _has_state(layer):
        if not isinstance(layer, gym.Wrapper) or type(layer).reset not in _KNOWN_RESETS:
            return None
        if isinstance(layer, TimeLimit):
            elapsed.append(layer._elapsed_steps or 0)
        layer = layer.env
    state = layer.get_state()
    if not isinstance(state, Mapping) or not all(map(_is_plain, state.values())):
        return None
    return {"elapsed": np.array(elapsed), "simulator": dict(state)}


def load_environment(env: gym.Env, state: Mapping[str, Any]) -> None:
    """Return to what `save_environment` gave. `env` has just been reset, so that its wrappers know of an episode."""
    elapsed = iter(np.asarray(state["elapsed"]).tolist())
    layer: Any = env
    while not _has_state(layer):
        if isinstance(layer, TimeLimit):
            layer._elapsed_steps = next(elapsed)
        layer = layer.env
    layer.set_state({name: np.asarray(value) for name, value in state["simulator"].items()})


def _has_state(layer: Any) -> bool:
    return hasattr(layer, "get_state") and hasattr(layer, "set_state")


def _is_plain(value: Any) -> bool:
    dtype = np.asarray(value).dtype
    return dtype.kind == "U" or (dtype.kind in "biuf" and dtype.itemsize <= 8)
