"""Parquet tables of a LeRobot dataset, and the numbers and pictures in their columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from softflow.errors import one_line
from softflow.files import FREE_MEMORY, MEMORY_PER_BYTE, require_size
from softflow.formats.lerobot.info import Feature
from softflow.formats.pictures import decoded


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn the errors that pyarrow raises for damaged files into one `ValueError` that names the file."""
    try:
        yield
    except (pa.ArrowException, OSError, MemoryError, OverflowError) as error:
        raise ValueError(f"{path} cannot be read ({one_line(error)}): copy the dataset again") from error


def open_table(root: Path, path: Path, columns: Sequence[Feature]) -> pq.ParquetFile:
    """Open a Parquet file.

    Args:
        root: The folder of the dataset.
        path: The file, relative to it.
        columns: The columns that are going to be read.

    Raises:
        ValueError: The file is damaged or lacks a column.
        SizeError: The columns need more memory than a file of its size may.
    """
    with readable(path):
        table = pq.ParquetFile(root / path)
        names = [column.name for column in columns]
        if missing := [name for name in names if name not in table.schema_arrow.names]:
            raise ValueError(f"{path} has no column {', '.join(missing)}: copy the dataset again")
        metadata = table.metadata
        groups = map(metadata.row_group, range(metadata.num_row_groups))
        chunks = (group.column(index) for group in groups for index in range(metadata.num_columns))
        pages = sum(one.total_uncompressed_size for one in chunks if one.path_in_schema.startswith(tuple(names)))
        decoded = metadata.num_rows * sum(column.size * (1 if column.is_image else 4) for column in columns)
    require_size(str(path), max(pages, decoded), FREE_MEMORY + MEMORY_PER_BYTE * (root / path).stat().st_size)
    return table


def numbers(path: Path, table: pa.Table, feature: Feature) -> np.ndarray:
    """Return a column of numbers as an array (T, *shape).

    Raises:
        ValueError: The column holds something else, or another number of numbers; `path` names its file.
    """
    column = table[feature.name].combine_chunks()
    kind, has_gaps, is_even = column.type, column.null_count > 0, True
    while pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind) or pa.types.is_large_list(kind):
        is_even = is_even and pc.count_distinct(pc.list_value_length(column)).as_py() < 2
        column = column.flatten()
        kind, has_gaps = column.type, has_gaps or column.null_count > 0
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)) or has_gaps:
        raise ValueError(
            f"{path} has {table.schema.field(feature.name).type} in {feature.name}, expected numbers, none missing"
        )
    values = column.to_numpy(zero_copy_only=False)
    if not is_even:
        raise ValueError(f"{path} has rows of different lengths in {feature.name}: copy or record the dataset again")
    if len(values) != len(table) * feature.size:
        raise ValueError(
            f"{path} has {len(values)} numbers in {len(table)} rows of {feature.name}, expected {feature.size} in "
            "each, as meta/info.json says"
        )
    return values.reshape(len(table), *feature.shape)


def pictures(path: Path, table: pa.Table, feature: Feature) -> np.ndarray:
    """Decode a column of PNG or JPEG files to an array (T, height, width, channels) of uint8.

    Raises:
        ValueError: The column holds something else, or a picture is damaged or of another size.
    """
    column = table[feature.name].combine_chunks()
    if not pa.types.is_struct(column.type) or column.type.get_field_index("bytes") < 0:
        raise ValueError(f"{path} has {column.type} in {feature.name}, expected the bytes of pictures")
    frames = np.empty((len(table), *feature.frame_shape), np.uint8)
    for index, content in enumerate(column.field("bytes")):
        try:
            stored = content.as_py()
            if not isinstance(stored, bytes):
                raise ValueError("its bytes are not in the table: store images inside the dataset")
            frames[index] = decoded(stored, feature.frame_shape, ("PNG", "JPEG"))
        except Exception as error:  # Pillow raises errors of many types for damaged files
            raise ValueError(f"{path}: picture {index} of an episode, {feature.name}: {one_line(error)}") from error
    return frames
