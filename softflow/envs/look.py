"""Light and colours of a scene that vary between episodes, for policies that see."""

from __future__ import annotations

import mujoco
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

LIGHT_SHIFT = 0.5  # m, largest displacement of a light in x and y at strength 1


class Look:
    """Light and colours of a scene, as random changes of the model's own.

    Brightness and position of each light vary, brightness of the headlight, and each colour. Things of the same colour
    keep a common one, and textures are tinted as a whole. Nothing else in the model changes, so motions stay the same.

    Args:
        model: The scene's model, which is changed.
        strength: Size of the changes, in [0, 1]. At 1, a light is up to twice as bright or off, and the red, green and
            blue of a colour change by up to 0.5.

    Attributes:
        numbers: What was drawn last, (N,) in [-1, 1]; zeros for the model's own look.
    """

    def __init__(self, model: mujoco.MjModel, strength: float) -> None:
        self.strength = strength
        self._model, headlight = model, model.vis.headlight
        self._headlight = np.stack([headlight.ambient, headlight.diffuse])
        self._lights, self._positions = model.light_diffuse.copy(), model.light_pos.copy()
        self._materials = model.mat_rgba[:, :3].copy()
        self._colours, self._colour_of = np.unique(model.geom_rgba[:, :3], axis=0, return_inverse=True)
        shapes = ((2, 1), (model.nlight, 1), (model.nlight, 2), self._materials.shape, self._colours.shape)
        self._shapes, self._ends = shapes, np.cumsum([int(np.prod(shape)) for shape in shapes])
        self.numbers = np.zeros(self._ends[-1])

    def draw(self, rng: np.random.Generator) -> None:
        """Draw another look. It is seen after the next step of the simulation."""
        self.set(rng.uniform(-1, 1, len(self.numbers)))

    def set(self, numbers: Array) -> None:
        """Take the look with these ``numbers``.

        Raises:
            ValueError: They are not (N,).
        """
        if numbers.shape != self.numbers.shape:
            raise ValueError(f"this scene's look has {len(self.numbers)} numbers, got shape {numbers.shape}")
        self.numbers = numbers.copy()
        parts = np.split(self.strength * numbers, self._ends[:-1])
        headlight, light, shift, material, colour = (
            part.reshape(shape) for part, shape in zip(parts, self._shapes, strict=True)
        )
        model = self._model
        ambient, diffuse = self._headlight * (1 + headlight)
        model.vis.headlight.ambient, model.vis.headlight.diffuse = ambient, diffuse
        model.light_diffuse[:] = self._lights * (1 + light)
        model.light_pos[:, :2] = self._positions[:, :2] + LIGHT_SHIFT * shift
        model.mat_rgba[:, :3] = np.clip(self._materials + 0.5 * material, 0, 1)
        model.geom_rgba[:, :3] = np.clip(self._colours + 0.5 * colour, 0, 1)[self._colour_of.ravel()]
