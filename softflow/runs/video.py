"""Films of episodes, side by side in a grid, with the outcome and the value of what is done written on them."""

from __future__ import annotations

import errno
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from softflow.errors import UserError
from softflow.files import written_whole
from softflow.training.checked_environment import ENVIRONMENT_ERRORS, CheckedEnvironment
from softflow.training.failures import EnvironmentFailed, Failure
from softflow.training.global_state import environments_turn

LARGEST_WIDTH = 1280
"""Largest width of a grid in pixels."""
HOLD = 1.0
"""Seconds for which the last frame stays."""
SUFFIXES = (".mp4", ".gif")


class Choice(NamedTuple):
    """What a policy does next: actions, (n, A), and the value that its critic expects. None without a critic."""

    actions: np.ndarray
    value: float | None


@dataclass
class Film:
    """The frames of an episode.

    Attributes:
        caption: What the film shows.
        frames: The pictures, (height, width, 3) of uint8: that of the start, then one after each step.
        values: The value of the chunk that was executed before each picture. None where it is not known.
        frames_per_second: The rate of the environment.
        is_success: Whether the episode was a success.
        total: The sum of its rewards.
    """

    caption: str
    frames: list[np.ndarray] = field(default_factory=list)
    values: list[float | None] = field(default_factory=list)
    frames_per_second: float = 20
    is_success: bool = False
    total: float = 0.0


def film_episode(
    environment: CheckedEnvironment, choose: Callable[[np.ndarray], Choice], seed: int, caption: str = ""
) -> Film:
    """Run one episode in an environment with `render_mode="rgb_array"` and film it.

    Args:
        environment: The environment.
        choose: The policy, which maps an observation (1, O) to what it does.
        seed: The seed of the episode.
        caption: What the film shows. By default the seed.

    Raises:
        UserError: The environment renders no pictures.
        EnvironmentFailed: The environment raised an error.
    """
    film = Film(caption or f"seed {seed}", frames_per_second=environment.metadata.get("render_fps") or 20)
    with _their_turn():
        observation, _ = environment.reset(seed=seed)
        film.frames.append(picture_of(environment))
    film.values.append(None)
    ended = False
    while not ended:
        choice = choose(observation[None])
        with _their_turn():
            for action in choice.actions:
                observation, reward, terminated, truncated, info = environment.step(action)
                film.frames.append(picture_of(environment))
                film.values.append(choice.value)
                film.total += float(reward)
                film.is_success = info["is_success"]
                if ended := terminated or truncated:
                    break
    return film


def write_films(path: Path, films: Sequence[Film], columns: int | None = None) -> None:
    """Write films side by side, row after row. One that ends early shows its last frame until all have ended.

    Args:
        path: An .mp4 file, which needs ffmpeg, or a .gif file.
        films: The films. Their pictures must have the same size.
        columns: The number of films in a row. By default the grid is about as wide as high.

    Raises:
        UserError: imageio, or ffmpeg for an .mp4 file, is not installed, or the file cannot be written.
    """
    try:
        import imageio.v2 as imageio
    except ModuleNotFoundError as error:
        raise UserError("a video needs imageio and ffmpeg: pip install 'softflow[video]'") from error
    rate = films[0].frames_per_second
    options: dict[str, Any] = (
        {"fps": rate, "macro_block_size": 2} if path.suffix == ".mp4" else {"fps": rate, "loop": 0}
    )
    with written_whole(path) as file:
        try:
            writer: Any = imageio.get_writer(file, **options)  # its declared type lacks `append_data`
        except (ImportError, ValueError) as error:  # imageio without ffmpeg finds no backend
            raise UserError("a video needs imageio and ffmpeg: pip install 'softflow[video]'") from error
        with writer as output:
            for frame in grid(films, columns or math.ceil(math.sqrt(len(films)))):
                output.append_data(frame)
        try:
            imageio.get_reader(file).close()
        except Exception as error:  # ffmpeg reports no error when the disk is full
            raise OSError(errno.EIO, "the film that was written cannot be read: is the disk full?") from error


def grid(films: Sequence[Film], columns: int) -> Iterator[np.ndarray]:
    """Yield the frames of the films in a grid, (height, width, 3) of uint8, `HOLD` seconds beyond their ends."""
    from PIL import Image

    height, width, _ = films[0].frames[0].shape
    columns = min(columns, len(films))
    scale = min(1.0, LARGEST_WIDTH / (columns * width))
    size = max(2, int(width * scale) // 2 * 2), max(2, int(height * scale) // 2 * 2)  # video codecs need even sizes
    rows = math.ceil(len(films) / columns)
    sheet = Image.new("RGB", (columns * size[0], rows * size[1]))
    length = max(len(film.frames) for film in films) + round(HOLD * films[0].frames_per_second)
    for step in range(length):
        for index, film in enumerate(films):
            if step <= len(film.frames):  # afterwards its last frame, with the outcome, stays
                picture = _written_on(film, step, size)
                sheet.paste(picture, (index % columns * size[0], index // columns * size[1]))
        yield np.asarray(sheet).copy()


def _written_on(film: Film, step: int, size: tuple[int, int]) -> Any:
    """Return a frame at a size, with caption and value, and with the outcome if the episode has ended."""
    from PIL import Image, ImageDraw

    shown, has_ended = min(step, len(film.frames) - 1), step >= len(film.frames) - 1
    picture = Image.fromarray(film.frames[shown]).resize(size, Image.Resampling.LANCZOS)
    pen, font = ImageDraw.Draw(picture), max(9, size[0] // 26)
    value = film.values[shown]
    lines = [film.caption, *([] if value is None else [f"value {value:.2f}"])]
    margin = font // 2
    style: dict[str, Any] = {"font_size": font, "stroke_width": max(1, font // 9), "stroke_fill": "black"}
    pen.multiline_text((margin, margin), "\n".join(lines), fill="white", **style)
    if has_ended:
        color, text = ((60, 200, 120), "success") if film.is_success else ((240, 90, 90), "failure")
        pen.rectangle((0, 0, size[0] - 1, size[1] - 1), outline=color, width=max(2, size[0] // 90))
        place = (margin, size[1] - margin)
        pen.text(place, f"{text} after {len(film.frames) - 1} steps", fill=color, anchor="ld", **style)
    return picture


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
