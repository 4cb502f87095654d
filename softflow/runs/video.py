"""Videos of episodes."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from softflow.errors import UserError
from softflow.files import written_whole
from softflow.training.checked_environment import ENVIRONMENT_ERRORS, CheckedEnvironment
from softflow.training.failures import EnvironmentFailed, Failure
from softflow.training.global_state import environments_turn
from softflow.training.rollout import Act


def write_video(path: Path, environment: CheckedEnvironment, act: Act, n_action_steps: int, seed: int) -> None:
    """Run one episode in an environment with `render_mode="rgb_array"` and write it as a video.

    Raises:
        UserError: imageio with ffmpeg is not installed, or the file cannot be written.
        EnvironmentFailed: The environment raised an error.
    """
    try:
        import imageio.v2 as imageio
    except ModuleNotFoundError as error:
        raise UserError("a video needs imageio and ffmpeg: pip install 'softflow[video]'") from error
    frames_per_second = environment.metadata.get("render_fps", 20)
    with written_whole(path) as file:
        writer: Any = imageio.get_writer(file, fps=frames_per_second)  # its declared type lacks `append_data`
        with writer as film:
            for frame in _frames(environment, act, n_action_steps, seed):
                film.append_data(frame)
        try:
            imageio.get_reader(file).close()
        except Exception as error:  # ffmpeg reports no error when the disk is full
            raise OSError(errno.EIO, "ffmpeg left a film that cannot be read: is the disk full?") from error


def _frames(environment: CheckedEnvironment, act: Act, n_action_steps: int, seed: int) -> Iterator[np.ndarray]:
    with _their_turn():
        observation, _ = environment.reset(seed=seed)
        frames = [picture_of(environment)]
    ended = False
    while not ended:
        yield from frames
        frames, chunk = [], act(observation[None])[0, :n_action_steps]
        with _their_turn():
            for action in chunk:
                observation, _, terminated, truncated, _ = environment.step(action)
                frames.append(picture_of(environment))
                if ended := terminated or truncated:
                    break
    yield from frames


@contextmanager
def _their_turn() -> Iterator[None]:
    with environments_turn():
        try:
            yield
        except UserError:
            raise
        except ENVIRONMENT_ERRORS as error:
            raise EnvironmentFailed(f"in the episode of the film: {Failure.of(error).message}") from error


def picture_of(environment: CheckedEnvironment) -> np.ndarray:
    """Render a picture, (height, width, 3) of uint8.

    Raises:
        UserError: The environment renders something else.
    """
    picture = environment.render()
    if not isinstance(picture, np.ndarray) or picture.dtype != np.uint8 or picture.shape[2:] != (3,):
        raise UserError('the environment does not render pictures (render_mode="rgb_array", height x width x 3 bytes)')
    return picture
