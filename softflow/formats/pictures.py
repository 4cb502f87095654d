"""Decoding of the pictures of a dataset."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, UnidentifiedImageError

MODES = {1: "L", 3: "RGB", 4: "RGBA"}
"""Pillow's mode of a picture with 8 bits per channel, by the number of its channels."""


def decoded(content: bytes, shape: tuple[int, ...], formats: Sequence[str]) -> np.ndarray:
    """Decode a picture to an array of uint8.

    Args:
        content: The bytes of an image file.
        shape: The shape that the dataset states: (height, width) or (height, width, channels).
        formats: The names of the formats that the file may have, such as "PNG".

    Raises:
        ValueError: The picture has another size or other channels; it is not decoded then.
        Exception: The file is damaged. Pillow raises errors of many types.
    """
    height, width, channels = (*shape, 1)[:3]
    try:
        image = Image.open(io.BytesIO(content), formats=tuple(formats))
    except UnidentifiedImageError as error:  # whose message is about an object in memory
        raise ValueError(f"its bytes are not a picture of the format {' or '.join(formats)}") from error
    with image:
        if image.size != (width, height) or image.mode != MODES.get(channels):  # before anything is decoded
            raise ValueError(
                f"{image.width} x {image.height} pixels of mode {image.mode}, expected {width} x {height} of mode "
                f"{MODES.get(channels)}, as the dataset states"
            )
        return np.asarray(image).reshape(shape)
