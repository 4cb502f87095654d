"""Saving and restoring an environment in the middle of an episode.

The environment, or a wrapper around it, must have two methods:

    get_state() -> {name: array}      everything that the rest of the episode depends on: numbers, bools and strings
    set_state(state)                  restores the state, so that the following steps are the same
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.wrappers import OrderEnforcing, PassiveEnvChecker, TimeLimit

from softflow.training.checked_environment import ENVIRONMENT_ERRORS, CheckedEnvironment

_KNOWN_RESETS = tuple(
    wrapper.reset
    for wrapper in (
        gym.Wrapper, gym.ObservationWrapper, OrderEnforcing, PassiveEnvChecker, TimeLimit, CheckedEnvironment
    )
)  # fmt: skip
"""A wrapper with a `reset` of its own may keep state of the episode. For these wrappers, that state is known."""


def save_environment(env: gym.Env) -> dict[str, Any] | None:
    """Return the state of `env` and its wrappers as arrays.

    None if it cannot be saved: `get_state` or `set_state` is missing or means something else, `get_state` does not
    return a mapping of plain arrays, or an outer wrapper may keep state of its own.
    """
    elapsed, progress = list[int](), dict[str, float]()
    layer: Any = env
    while not _has_state(layer):
        if not isinstance(layer, gym.Wrapper) or type(layer).reset not in _KNOWN_RESETS:
            return None
        if isinstance(layer, TimeLimit):
            elapsed.append(layer._elapsed_steps or 0)
        elif isinstance(layer, CheckedEnvironment):
            progress = layer.progress()
        layer = layer.env
    simulator = _state_of(layer)
    return None if simulator is None else {"elapsed": np.array(elapsed), "progress": progress, "simulator": simulator}


def load_environment(env: gym.Env, state: Mapping[str, Any]) -> bool:
    """Restore a state of `save_environment`. `env` must just have been reset, so that its wrappers are in an episode.

    Returns:
        Whether the state was restored. If not, because `set_state` failed or did not reproduce the state, reset `env`
        again.
    """
    elapsed = iter(np.asarray(state["elapsed"]).tolist())
    layer: Any = env
    while not _has_state(layer):
        if isinstance(layer, TimeLimit):
            layer._elapsed_steps = next(elapsed)
        elif isinstance(layer, CheckedEnvironment) and state.get("progress"):  # older checkpoints have none
            layer.set_progress(state["progress"])
        layer = layer.env
    wanted = {name: np.array(value) for name, value in state["simulator"].items()}
    try:
        layer.set_state({name: value.copy() for name, value in wanted.items()})
    except ENVIRONMENT_ERRORS:
        return False
    reached = _state_of(layer)
    return reached is not None and _equal(reached, wanted)


def _state_of(layer: Any) -> dict[str, np.ndarray] | None:
    """Return a copy of the result of `get_state`, None if it cannot be saved."""
    try:
        state = layer.get_state()
    except ENVIRONMENT_ERRORS:  # for instance because it requires arguments
        return None
    if not isinstance(state, Mapping) or not all(type(name) is str and _is_plain(state[name]) for name in state):
        return None
    return {name: _native(np.array(value)) for name, value in state.items()}


def _native(array: np.ndarray) -> np.ndarray:
    """Convert an array to the native byte order, which torch requires."""
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _equal(one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> bool:
    return one.keys() == other.keys() and all(
        np.array_equal(one[name], other[name], equal_nan=one[name].dtype.kind == "f") for name in one
    )


def _has_state(layer: Any) -> bool:
    return hasattr(layer, "get_state") and hasattr(layer, "set_state")


def _is_plain(value: Any) -> bool:
    dtype = np.asarray(value).dtype
    return dtype.kind == "U" or (dtype.kind in "biuf" and dtype.itemsize <= 8)
