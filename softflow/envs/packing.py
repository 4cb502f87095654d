"""Observations with images in one array of bytes."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from softflow.observation_layout import ObservationLayout, Part

WHOLE = "observation"
"""What the one part of an observation that is no Dict is called."""


class PackObservation(gymnasium.ObservationWrapper[NDArray[np.uint8], Any, Any]):
    """Packs the observation's images, and the numbers beside them as float32: ``Box(0, 255, (O,), uint8)``.

    What lies where is in its ``metadata["observation_layout"]``, which wrappers and vector environments hand on.

    Args:
        env: its observations are a Box or a Dict of Boxes, of which `has_images`.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        parts = (
            Part(name, box.shape, "uint8" if _is_image(box) else "float32")
            for name, box in _boxes(env.observation_space).items()
        )
        self._layout = ObservationLayout(tuple(parts))
        self.metadata = {**env.metadata, "observation_layout": self._layout}
        self.observation_space = spaces.Box(0, 255, (self._layout.size,), np.uint8)

    def observation(self, observation: Any) -> NDArray[np.uint8]:
        parts = observation if isinstance(self.env.observation_space, spaces.Dict) else {WHOLE: observation}
        return self._layout.pack(parts)


def has_images(space: spaces.Space[Any]) -> bool:
    """Whether a Box, or one in a Dict, holds images: uint8 of shape (height, width, channels)."""
    return any(map(_is_image, _boxes(space).values()))


def find_layout(env: gymnasium.Env[Any, Any]) -> ObservationLayout | None:
    """The layout of an environment's packed observations; None if they are not packed."""
    return env.metadata.get("observation_layout")


def _boxes(space: spaces.Space[Any]) -> dict[str, Any]:
    return dict(space.items()) if isinstance(space, spaces.Dict) else {WHOLE: space}


def _is_image(space: spaces.Space[Any]) -> bool:
    return isinstance(space, spaces.Box) and space.dtype == np.uint8 and len(space.shape) == 3
