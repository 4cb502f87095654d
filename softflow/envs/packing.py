"""Observations packed into one array: numbers, or bytes if there are images."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from softflow.boundary import MalformedStep, as_array
from softflow.task import TaskSpec
from softflow.task.layout import ObservationLayout
from softflow.task.spaces import observation_leaves, part_name


class ObservationRows(gymnasium.ObservationWrapper[NDArray[Any], Any, Any]):
    """Wrapper that turns observations into rows of their `TaskSpec`: float32, or uint8 if there are images.

    Args:
        env: The environment.
        spec: The result of `TaskSpec.from_env` for this environment.

    Raises:
        MalformedStep: In `reset` and `step`, a part of the observation is missing or does not fit its space.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], spec: TaskSpec) -> None:
        super().__init__(env)
        self._spec, self._leaves = spec, list(observation_leaves(env.observation_space))
        self.observation_space = _space_of_rows(env.observation_space, spec)

    def observation(self, observation: Any) -> NDArray[Any]:
        return self._spec.join([_read(path, space, observation)[None] for path, space in self._leaves])[0]


def flatten_observations(env: gymnasium.Env[Any, Any], spec: TaskSpec) -> gymnasium.Env[Any, Any]:
    """Turn observations into rows; an environment with one-dimensional Box observations is returned unchanged."""
    space = env.observation_space
    return env if isinstance(space, spaces.Box) and len(space.shape) == 1 else ObservationRows(env, spec)


def find_layout(env: gymnasium.Env[Any, Any]) -> ObservationLayout | None:
    """Return the layout of packed observations of an environment made by `make_env`, or None if they are not packed."""
    spec: TaskSpec | None = env.metadata.get("task_spec")
    return spec.layout if spec is not None else None


def _space_of_rows(space: spaces.Space[Any], spec: TaskSpec) -> spaces.Box:
    if spec.layout is not None:
        return spaces.Box(0, 255, (spec.layout.size,), np.uint8)
    flat = spaces.flatten_space(space)
    assert isinstance(flat, spaces.Box)
    with np.errstate(over="ignore"):  # bounds beyond the range of float32 become infinite
        return spaces.Box(flat.low.astype(np.float32), flat.high.astype(np.float32))


def _read(path: tuple[Any, ...], space: spaces.Space[Any], observation: Any) -> NDArray[Any]:
    name = part_name(path)
    for key in path:
        if key not in observation:
            raise MalformedStep(f"the observation has no {name!r}, only {', '.join(map(str, observation))}")
        observation = observation[key]
    array = as_array(name, observation, space)
    if not isinstance(space, spaces.Box) and not space.contains(array if array.ndim else array[()]):
        raise MalformedStep(f"{name} is {observation}, which is not in {space}")
    return array
