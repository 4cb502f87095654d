"""Camera images of a scene. OpenGL is not initialized before the first image is rendered."""

from __future__ import annotations

import os
from collections.abc import Sequence

import mujoco
import numpy as np
from numpy.typing import NDArray

from softflow.errors import UserError

Picture = NDArray[np.uint8]

OVERSAMPLING = 2
"""Factor by which observed images are rendered larger before averaging; half the cost of OpenGL's antialiasing."""

_drawing_process: int | None = None


def open_renderer(model: mujoco.MjModel, height: int, width: int) -> mujoco.Renderer:
    """Return a renderer of images (height, width, 3).

    Raises:
        RuntimeError: No OpenGL context can be created, or the parent process had already rendered when it forked
            this one, so that the inherited OpenGL context is unusable.
    """
    global _drawing_process
    if _drawing_process not in (None, os.getpid()):
        raise RuntimeError(
            "no OpenGL in a process forked from one that has drawn pictures: create environments in subprocesses "
            "before the main process renders anything"
        )
    try:
        renderer = mujoco.Renderer(model, height, width)
    except Exception as error:
        raise RuntimeError(
            "no OpenGL context for rendering: on a machine without a display set MUJOCO_GL=egl (or "
            "MUJOCO_GL=osmesa, in software) in the environment before Python starts"
        ) from error
    _drawing_process = os.getpid()
    return renderer


def with_inset(picture: Picture, inset: Picture) -> Picture:
    """Return a picture (height, width, 3) with a square of another one of this size, halved, in a corner."""
    height, width, border = picture.shape[0] // 2, picture.shape[1] // 2, 2
    halved = inset[: 2 * height, : 2 * width].reshape(height, 2, width, 2, 3).mean((1, 3))
    side = min(height, width) - border
    left = (width - side) // 2
    whole = picture.copy()
    whole[: side + border, -side - border :] = 255
    whole[:side, -side:] = halved[:side, left : left + side]
    return whole


class Cameras:
    """Cameras for image observations: small square images, without shadows because these take most of the time.

    Args:
        model: The scene's model.
        names: Names of the cameras to render.
        size: Height and width of an image in pixels.
    """

    def __init__(self, model: mujoco.MjModel, names: Sequence[str], size: int) -> None:
        self.names, self.size = names, size
        self._model = model
        self._renderer: mujoco.Renderer | None = None

    def draw(self, data: mujoco.MjData) -> dict[str, Picture]:
        """Render an image (size, size, 3) from each camera.

        Raises:
            UserError: No OpenGL context can be created.
        """
        if self._renderer is None:
            self._renderer = self._open()
        pictures = {}
        for name in self.names:
            self._renderer.update_scene(data, name)
            for effect in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION):
                self._renderer.scene.flags[effect] = 0
            fine = self._renderer.render().reshape(self.size, OVERSAMPLING, self.size, OVERSAMPLING, 3)
            pictures[name] = (fine.sum((1, 3), dtype=np.uint16) // OVERSAMPLING**2).astype(np.uint8)
        return pictures

    def close(self) -> None:
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    def _open(self) -> mujoco.Renderer:
        """Return a renderer with buffers of the required size; the model's own, meant for videos, take 170 MB."""
        size, quality, film = self.size * OVERSAMPLING, self._model.vis.quality, self._model.vis.global_
        before = quality.shadowsize, quality.offsamples, film.offwidth, film.offheight
        quality.shadowsize, quality.offsamples, film.offwidth, film.offheight = 0, 0, size, size
        try:
            return open_renderer(self._model, size, size)
        except RuntimeError as error:
            raise UserError(f"pictures cannot be observed: {error}") from error
        finally:
            quality.shadowsize, quality.offsamples, film.offwidth, film.offheight = before
