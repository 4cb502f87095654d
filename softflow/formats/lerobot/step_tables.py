"""The tables of steps of a LeRobot dataset, as they are written."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from softflow.formats.lerobot.files import data_file
from softflow.formats.lerobot.info import Feature

FILES_PER_FOLDER = 1000
FILE_SIZE = 100
"""Size of a table in 10^6 bytes. The episode that reaches it is the last one in its table."""


def write_steps(root: Path, features: Sequence[Feature], episodes: Iterable[Mapping[str, NDArray[Any]]]) -> list[Path]:
    """Write the steps of episodes.

    Args:
        root: The folder of the dataset.
        features: The features, which are numbers or images.
        episodes: For each episode the values (T, *shape) of each feature, by name.

    Returns:
        For each episode, the table that it is in, relative to the dataset.
    """
    schema = pa.schema([(feature.name, _arrow_type(feature)) for feature in features])
    if images := {feature.name: {"_type": "Image"} for feature in features if feature.is_image}:
        # With this, Hugging Face's datasets decode images whoever loads the tables.
        schema = schema.with_metadata({"huggingface": json.dumps({"info": {"features": images}})})
    places: list[Path] = []
    number, size = 0, 0
    with ExitStack() as opened:
        for columns in episodes:
            if not places or size >= FILE_SIZE * 10**6:
                opened.close()
                file = data_file(*divmod(number, FILES_PER_FOLDER))
                number += 1
                (root / file).parent.mkdir(parents=True, exist_ok=True)
                # Without a dictionary of equal values, tables of a camera that sees the same all the time stay large
                # enough to be read, because what unpacks to more than 100 times its size is refused.
                writer = opened.enter_context(pq.ParquetWriter(root / file, schema, use_dictionary=False))
            arrays = [_arrow_array(columns[feature.name], feature) for feature in features]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
            places.append(file)
            size = (root / file).stat().st_size
    return places


def _arrow_type(feature: Feature) -> pa.DataType:
    if feature.is_image:
        return pa.struct({"bytes": pa.binary(), "path": pa.string()})
    kind = pa.from_numpy_dtype(np.dtype(feature.dtype))
    if feature.shape == (1,):
        return kind
    for size in reversed(feature.shape):
        kind = pa.list_(kind, size)
    return kind


def _arrow_array(values: NDArray[Any], feature: Feature) -> pa.Array:
    if feature.is_image:
        pictures = [{"bytes": _png(image), "path": f"frame-{index:06d}.png"} for index, image in enumerate(values)]
        return pa.array(pictures, _arrow_type(feature))
    array = pa.array(values.reshape(-1))
    if feature.shape != (1,):
        for size in reversed(feature.shape):
            array = pa.FixedSizeListArray.from_arrays(array, size)
    return array


def _png(image: NDArray[np.uint8]) -> bytes:
    """Encode an image (height, width, channels) of 1, 3 or 4 channels."""
    encoded = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).save(encoded, "PNG")
    return encoded.getvalue()
