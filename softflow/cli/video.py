"""One episode as a film."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from softflow.envs.registry import Env
from softflow.errors import UserError
from softflow.files import written_whole
from softflow.training.rollout import Act


def write_video(path: Path, environment: Env, act: Act, execute: int, seed: int) -> None:
    """Run one episode in an environment with `render_mode="rgb_array"` and write it.

    Raises:
        UserError: imageio with ffmpeg is not installed, or the file cannot be written.
    """
    try:
        import imageio.v2 as imageio
    except ModuleNotFoundError as error:
        raise UserError("a video needs imageio and ffmpeg: pip install 'softflow[video]'") from error
    frames_per_second = environment.metadata.get("render_fps", 20)
    with written_whole(path) as file:
        writer: Any = imageio.get_writer(file, fps=frames_per_second)  # its type does not say what it can do
        with writer as film:
            for frame in _frames(environment, act, execute, seed):
                film.append_data(frame)
        try:
            imageio.get_reader(file).close()
        except Exception as error:  # ffmpeg ends in silence when the disk is full
            raise OSError(errno.EIO, "ffmpeg left a film that cannot be read: is the disk full?") from error


def _frames(environment: Env, act: Act, execute: int, seed: int) -> Iterator[np.ndarray]:
    observation, _ = environment.reset(seed=seed)
    yield _frame(environment)
    while True:
        for action in act(observation[None])[0, :execute]:
            observation, _, terminated, truncated, _ = environment.step(action)
            yield _frame(environment)
            if terminated or truncated:
                return


def _frame(environment: Env) -> np.ndarray:
    frame = environment.render()
    if not isinstance(frame, np.ndarray):
        raise UserError("the environment does not render to rgb_array: no video can be made of it")
    return frame
