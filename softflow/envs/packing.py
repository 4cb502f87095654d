"""Observations as one array: of numbers, or of bytes where there are images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from softflow.envs.observation_parts import ObservedPart, observed_parts
from softflow.task.layout import ObservationLayout, Part


class PackObservation(gymnasium.ObservationWrapper[NDArray[np.uint8], Any, Any]):
    """Packs the observation's images, and the numbers beside them as float32: ``Box(0, 255, (O,), uint8)``.

    What lies where is in its ``metadata["observation_layout"]``, which wrappers and vector environments hand on.

    Args:
        env: its observations have an image among their parts.
        parts: of its observations, `observed_parts` unless given.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], parts: Sequence[ObservedPart] | None = None) -> None:
        super().__init__(env)
        self._parts = parts or observed_parts(env.observation_space, {}, str(env))
        self._layout = ObservationLayout(
            tuple(Part(part.name, part.shape, "uint8" if part.is_image else "float32") for part in self._parts)
        )
        self.metadata = {**env.metadata, "observation_layout": self._layout}
        self.observation_space = spaces.Box(0, 255, (self._layout.size,), np.uint8)

    def observation(self, observation: Any) -> NDArray[np.uint8]:
        return self._layout.pack({part.name: part.read(observation) for part in self._parts})


class FlattenNumbers(gymnasium.ObservationWrapper[NDArray[Any], Any, Any]):
    """All numbers of an observation, part after part, in the space that gymnasium flattens it to."""

    def __init__(self, env: gymnasium.Env[Any, Any], parts: Sequence[ObservedPart]) -> None:
        super().__init__(env)
        self._parts = parts
        flat = spaces.flatten_space(env.observation_space)
        assert isinstance(flat, spaces.Box)
        self.observation_space = flat

    def observation(self, observation: Any) -> NDArray[Any]:
        flat = np.concatenate([part.read(observation).reshape(-1) for part in self._parts])
        return flat.astype(self.observation_space.dtype, copy=False)


def flatten_observations(
    env: gymnasium.Env[Any, Any], observed_as: Mapping[str, Any], environment: str
) -> gymnasium.Env[Any, Any]:
    """One array of numbers, or packed if there are images; arguments and errors as those of `observed_parts`.

    What was taken for what is in its ``metadata["observation_parts"]``.
    """
    space = env.observation_space
    parts = observed_parts(space, observed_as, environment)
    if any(part.is_image for part in parts):
        env = PackObservation(env, parts)
    elif not isinstance(space, spaces.Box) or len(space.shape) != 1:
        env = FlattenNumbers(env, parts)
    env.metadata = {**env.metadata, "observation_parts": parts}
    return env


def find_layout(env: gymnasium.Env[Any, Any]) -> ObservationLayout | None:
    """The layout of an environment's packed observations; None if they are not packed."""
    return env.metadata.get("observation_layout")
