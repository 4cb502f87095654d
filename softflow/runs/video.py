"""Films of episodes, side by side in a grid, with the outcome and the value of what is done written on them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from softflow.data.contact_sheet import visible_channels
from softflow.envs.packing import find_layout
from softflow.errors import UserError, did_you_mean
from softflow.files import written_whole
from softflow.task.layout import ObservationLayout
from softflow.training.checked_environment import ENVIRONMENT_ERRORS, CheckedEnvironment
from softflow.training.failures import EnvironmentFailed, Failure
from softflow.training.global_state import environments_turn

LARGEST_WIDTHS = {".mp4": 1280, ".gif": 800}
"""Largest width of a grid in pixels, by the suffix of the file."""
GIF_RATE = 10
"""Largest number of frames per second in a GIF, whose files are large."""
HOLD = 1.0
"""Seconds for which the last frame stays."""
SUFFIXES = tuple(LARGEST_WIDTHS)


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
        measured: What the environment measured, such as `turns 0.75`, for each picture. Empty if it is not shown.
    """

    caption: str
    frames: list[np.ndarray] = field(default_factory=list)
    values: list[float | None] = field(default_factory=list)
    frames_per_second: float = 20
    is_success: bool = False
    total: float = 0.0
    measured: list[str] = field(default_factory=list)

    @property
    def outcome(self) -> str:
        """How the episode ended, such as `success after 95 steps`."""
        return f"{'success' if self.is_success else 'failure'} after {len(self.frames) - 1} steps"


def film_episode(
    environment: CheckedEnvironment,
    choose: Callable[[np.ndarray], Choice],
    seed: int,
    caption: str = "",
    width: int = LARGEST_WIDTHS[".mp4"],
    shown: str | None = None,
) -> Film:
    """Run one episode in an environment with `render_mode="rgb_array"` and film it.

    Images in the observation are shown below the picture, so that one sees what the policy sees.

    Args:
        environment: The environment.
        choose: The policy, which maps an observation (1, O) to what it does.
        seed: The seed of the episode.
        caption: What the film shows. By default the seed.
        width: The largest width of a picture in pixels. Larger ones are reduced.
        shown: The name of a number in the environment's `info` that is shown as well.

    Raises:
        UserError: The environment renders no pictures, or does not report the number.
        EnvironmentFailed: The environment raised an error.
    """
    film = Film(caption or f"seed {seed}", frames_per_second=environment.metadata.get("render_fps") or 20)
    layout = find_layout(environment)

    def shoot() -> None:
        picture = _reduced(picture_of(environment), width)
        film.frames.append(picture if layout is None else _above_images(picture, observation, layout))

    with _their_turn():
        observation, info = environment.reset(seed=seed)
        shoot()
    film.values.append(None)
    if shown is not None:
        film.measured.append(_measured(info, shown))
    ended = False
    while not ended:
        choice = choose(observation[None])
        with _their_turn():
            for action in choice.actions:
                observation, reward, terminated, truncated, info = environment.step(action)
                shoot()
                film.values.append(choice.value)
                if shown is not None:
                    film.measured.append(_measured(info, shown))
                film.total += float(reward)
                film.is_success = info["is_success"]
                if ended := terminated or truncated:
                    break
    return film


def _measured(info: Mapping[str, Any], name: str) -> str:
    number = info.get(name)
    if not isinstance(number, int | float | np.number):
        numbers = sorted(key for key, value in info.items() if isinstance(value, int | float | np.number))
        raise UserError(f"the environment reports no number {name!r}: {did_you_mean(name, numbers)}")
    return f"{name} {number:.2f}"


def require_pictures(environment: CheckedEnvironment, seed: int) -> None:
    """Raise `UserError` if an environment cannot be filmed. It is reset with the seed."""
    try:
        with _their_turn():
            environment.reset(seed=seed)
            picture_of(environment)
    except EnvironmentFailed as error:
        raise UserError(f"no films can be made: {error}") from error


def columns_of(number: int) -> int:
    """Return the number of films in a row of a grid that is about as wide as high."""
    return math.ceil(math.sqrt(number))


def write_films(path: Path, films: Sequence[Film], columns: int) -> None:
    """Write films side by side, row after row. One that ends early shows its last frame until all have ended.

    Args:
        path: An .mp4 file, in H.264, or a .gif file.
        films: The films. Their pictures must have the same size.
        columns: The number of films in a row.

    Raises:
        UserError: Pillow, or PyAV for an .mp4 file, is not installed, or the file cannot be written.
    """
    with written_whole(path) as file:
        if path.suffix == ".gif":
            _write_gif(file, films, columns)
        else:
            _write_mp4(file, films, columns)


def _write_mp4(file: Path, films: Sequence[Film], columns: int) -> None:
    try:
        import av
    except ModuleNotFoundError as error:
        raise UserError("an .mp4 film needs PyAV: pip install 'softflow[video]'") from error
    frames = grid(films, columns)
    first = next(frames)
    with av.open(str(file), "w") as container:
        try:
            stream = container.add_stream("libx264", rate=Fraction(films[0].frames_per_second).limit_denominator(1000))
        except av.codec.codec.UnknownCodecError as error:
            raise UserError("this PyAV has no encoder of H.264 (libx264): write a .gif file") from error
        stream.height, stream.width, _ = first.shape
        stream.pix_fmt = "yuv420p"  # the only one that all browsers show
        for frame in chain([first], frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def _write_gif(file: Path, films: Sequence[Film], columns: int) -> None:
    image, rate = pillow_image(), films[0].frames_per_second
    every = max(1, round(rate / GIF_RATE))
    pictures = list(grid(films, columns, every))
    ends = image.fromarray(np.vstack([pictures[0], pictures[-1]]))
    palette = ends.quantize(256, method=image.Quantize.FASTOCTREE)  # others lose the colours of small things
    # With one palette, without dithering, what does not move takes no room.
    first, *others = [image.fromarray(one).quantize(palette=palette, dither=image.Dither.NONE) for one in pictures]
    first.save(file, save_all=True, append_images=others, duration=round(1000 * every / rate), loop=0)


def grid(films: Sequence[Film], columns: int, every: int = 1) -> Iterator[np.ndarray]:
    """Yield one of `every` frames of the films in a grid, (height, width, 3) of uint8, and hold the last for `HOLD`."""
    height, width, _ = films[0].frames[0].shape
    rows = math.ceil(len(films) / columns)
    sheet = np.zeros((rows * height, columns * width, 3), np.uint8)
    length = max(len(film.frames) for film in films) + round(HOLD * films[0].frames_per_second)
    for step in range(0, length, every):
        for index, film in enumerate(films):
            row, column = index // columns * height, index % columns * width
            shown = min(step, len(film.frames) - 1)  # the last frame, with the outcome, stays
            sheet[row : row + height, column : column + width] = _written_on(film, shown)
        yield sheet.copy()


def _written_on(film: Film, step: int) -> np.ndarray:
    """Return a frame with the caption and the value written on it, and on the last one the outcome."""
    from PIL import ImageDraw

    picture = pillow_image().fromarray(film.frames[step])
    width, height = picture.size
    pen, font, value = ImageDraw.Draw(picture), max(10, width // 26), film.values[step]
    lines = [film.caption, *film.measured[step : step + 1], *([] if value is None else [f"value {value:.2f}"])]
    margin = font // 2
    for number, line in enumerate(lines):
        _label(pen, (margin, margin + number * font * 3 // 2), line, "white", font, "la")
    if step == len(film.frames) - 1:
        color = (60, 200, 120) if film.is_success else (240, 90, 90)
        pen.rectangle((0, 0, width - 1, height - 1), outline=color, width=max(2, width // 90))
        _label(pen, (margin, height - margin), film.outcome, color, font, "ld")
    return np.asarray(picture)


def _label(pen: Any, place: tuple[int, int], text: str, color: Any, font: int, anchor: str) -> None:
    """Write a line on a black ground, which is readable on any picture."""
    left, top, right, bottom = pen.textbbox(place, text, font_size=font, anchor=anchor)
    pen.rectangle((left - 2, top - 2, right + 2, bottom + 2), fill="black")
    pen.text(place, text, fill=color, font_size=font, anchor=anchor)


def _reduced(picture: np.ndarray, width: int) -> np.ndarray:
    """Return a picture that is at most so wide, with even sizes, which codecs of videos need."""
    scale = min(1.0, width / picture.shape[1])
    size = int(picture.shape[1] * scale) // 2 * 2, int(picture.shape[0] * scale) // 2 * 2
    if size == picture.shape[1::-1]:
        return picture
    image = pillow_image()
    return np.asarray(image.fromarray(picture).resize(size, image.Resampling.LANCZOS))


def _above_images(picture: np.ndarray, observation: np.ndarray, layout: ObservationLayout) -> np.ndarray:
    """Return a picture with the images of a packed observation (O,) below it, each at most a third as wide."""
    image, seen = pillow_image(), layout.unpack(observation)
    width = picture.shape[1] // max(3, len(layout.images))
    heights = [max(1, round(width * part.shape[0] / part.shape[1])) for part in layout.images]
    below = image.new("RGB", (picture.shape[1], math.ceil(max(heights) / 2) * 2))
    for number, (part, height) in enumerate(zip(layout.images, heights, strict=True)):
        shown = image.fromarray(visible_channels(seen[part.name])).convert("RGB")
        below.paste(shown.resize((width, height), image.Resampling.BOX), (number * width, 0))
    return np.vstack([picture, np.asarray(below)])


def pillow_image() -> Any:
    """Return Pillow's module of images. Raise `UserError` if it is not installed."""
    try:
        from PIL import Image
    except ModuleNotFoundError as error:
        raise UserError("a video needs Pillow: pip install 'softflow[video]'") from error
    return Image


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
