"""A picture of a few episodes of a dataset, to see what its cameras recorded."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from softflow.data.demonstrations import Dataset, DemonstrationError
from softflow.data.episodes import Episode
from softflow.errors import UserError
from softflow.files import written_whole
from softflow.task.layout import ObservationLayout, Part

if TYPE_CHECKING:
    from PIL.Image import Image

EPISODES = 6
FRAME = (160, 120)
"""Width and height in pixels into which every frame is fitted."""
LONGEST_NAME = 60
"""Letters of a camera's name that are shown."""
GAP, LINE = 6, 16
"""Space between frames, and height of a line of text, in pixels."""


def save_contact_sheet(path: str | os.PathLike[str], dataset: Dataset) -> None:
    """Write a PNG with a row for each of a few episodes, from the first to the last of the dataset.

    A row has the first, middle and last frame of every camera. Its label is the number of the episode, its length and
    whether it is a success. Transparency is left out. Of stacked frames, the last three channels are shown, or the last
    one if their number is no multiple of three.

    Args:
        path: The file. An existing one is replaced.
        dataset: At least one episode.

    Raises:
        DemonstrationError: The observations contain no images.
        UserError: Pillow is not installed.
        WriteError: The file cannot be written.
    """
    path = Path(path)
    layout = dataset.episodes[0].layout
    if layout is None:
        raise DemonstrationError(f"{path}: there are no images in the observations to make a contact sheet of")
    chosen = np.unique(np.linspace(0, len(dataset.episodes) - 1, EPISODES).round().astype(int)).tolist()
    try:
        sheet = _sheet(layout, {index: dataset.episodes[index] for index in chosen})
    except ModuleNotFoundError as error:
        raise UserError(f"a contact sheet needs the package {error.name!r}: pip install pillow") from error
    with written_whole(path) as unfinished:
        sheet.save(unfinished, "PNG")


def _sheet(layout: ObservationLayout, episodes: Mapping[int, Episode]) -> Image:
    """Draw the sheet of episodes, by their numbers."""
    from PIL import Image, ImageDraw

    cameras = [_fitted(part) for part in layout.images]
    titles = [f"{' '.join(part.name.split())[:LONGEST_NAME]}: first, middle, last" for part in layout.images]
    ruler = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    widths = [
        max(3 * (width + GAP), math.ceil(ruler.textlength(title)) + GAP)
        for (width, _), title in zip(cameras, titles, strict=True)
    ]
    lefts = [GAP + before for before in accumulate(widths, initial=0)]
    tallest = max(height for _, height in cameras)
    row_height = LINE + tallest + GAP
    sheet = Image.new("RGB", (lefts[-1], LINE + GAP + len(episodes) * row_height), "white")
    draw = ImageDraw.Draw(sheet)
    for left, title in zip(lefts, titles, strict=False):
        draw.text((left, GAP), title, "black")
    for row, (number, episode) in enumerate(episodes.items()):
        top = LINE + GAP + row * row_height
        outcome = "success" if episode.is_success else "no success"
        draw.text((GAP, top), f"episode {number}: {len(episode)} step{'s' * (len(episode) != 1)}, {outcome}", "black")
        images = layout.unpack(episode.observation[[0, len(episode) // 2, len(episode)]])
        for part, left, size in zip(layout.images, lefts, cameras, strict=False):
            for index, image in enumerate(images[part.name]):
                frame = Image.fromarray(visible_channels(image)).convert("RGB")
                frame = frame.resize(size, Image.Resampling.BOX)  # enlarged without blur
                sheet.paste(frame, (left + index * (size[0] + GAP), top + LINE))
    return sheet


def _fitted(part: Part) -> tuple[int, int]:
    """The width and height of a camera's frames on the sheet."""
    height, width, _ = part.shape
    scale = min(FRAME[0] / width, FRAME[1] / height)
    return max(round(width * scale), 1), max(round(height * scale), 1)


def visible_channels(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the channels of an image (height, width, channels) that are shown."""
    channels = image.shape[2]
    if channels in (3, 4):
        return image[..., :3]
    return image[..., -3:] if channels % 3 == 0 else image[..., -1]
