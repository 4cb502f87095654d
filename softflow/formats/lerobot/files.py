"""The files of a LeRobot dataset: where the steps and frames of each episode are."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from softflow.files import FREE_MEMORY, MEMORY_PER_BYTE, require_size
from softflow.formats.lerobot.info import DATA_PATH, VIDEO_PATH, Feature, IncompleteError, Info, read_json_lines
from softflow.formats.lerobot.tables import numbers, open_table, readable

EPISODES = Path("meta/episodes")
EPISODE_LINES = Path("meta/episodes.jsonl")
EPISODE_INDEX = Feature("episode_index", "int64", (1,), None)
FRAME_INDEX = Feature("frame_index", "int64", (1,), None)
BATCH = 256
"""Rows that are read at once."""
VIDEO_MEMORY_PER_BYTE = 100 * MEMORY_PER_BYTE
"""Maximum ratio of decoded to encoded bytes of a video. A scene that stands still reaches some thousand."""


@dataclass(frozen=True)
class Recording:
    """Where an episode is stored.

    Attributes:
        index: Its number, counted from 0.
        length: The number of its steps.
        data: The Parquet file of its rows, relative to the dataset.
        videos: For each camera, the video file and the time of the first frame in it, in seconds.
    """

    index: int
    length: int
    data: Path
    videos: Mapping[str, tuple[Path, float]]


def data_file(chunk: int, file: int) -> Path:
    """Return the table of steps with these numbers, of version 3."""
    return Path(DATA_PATH[3].format(chunk_index=chunk, file_index=file))


def video_file(camera: str, chunk: int, file: int) -> Path:
    """Return the video of a camera with these numbers, of version 3."""
    return Path(VIDEO_PATH[3].format(video_key=camera, chunk_index=chunk, file_index=file))


def numbers_of(path: Path) -> tuple[int, int]:
    """Return the numbers of a table or a video, from its path; (0, 0) if it is called otherwise."""
    chunk, file = (re.search(r"\d+$", name) for name in (path.parent.name, path.stem))
    return (int(chunk[0]), int(file[0])) if chunk and file else (0, 0)


def read_recordings(root: Path, info: Info) -> list[Recording]:
    """Return all episodes of a dataset, in order.

    Raises:
        ValueError: A file is damaged.
        IncompleteError: The list of episodes is missing, or it disagrees with `info` or with the other files.
    """
    recordings = sorted(_listed(root, info) if info.version == 3 else _lines(root, info), key=lambda one: one.index)
    if [one.index for one in recordings] != list(range(len(recordings))):
        raise IncompleteError("the list of episodes has gaps or repetitions")
    steps = sum(one.length for one in recordings)
    if (len(recordings), steps) != (info.episodes, info.frames):
        raise IncompleteError(
            f"meta/info.json claims {info.episodes} episodes and {info.frames} steps, {len(recordings)} episodes with "
            f"{steps} steps are listed"
        )
    for data, group in groupby(recordings, key=lambda one: one.data):
        expected = sum(one.length for one in group)
        if not (root / data).is_file():
            raise IncompleteError(f"{data} is missing")
        try:
            with readable(data):
                rows = pq.read_metadata(root / data).num_rows
        except ValueError as error:  # it may be unfinished
            raise IncompleteError(str(error)) from error
        if rows != expected:
            raise IncompleteError(f"{data} has {rows} steps, its episodes are listed with {expected}")
    return recordings


def _listed(root: Path, info: Info) -> Iterator[Recording]:
    """The episodes of version 3, which are listed in tables."""
    files = sorted((root / EPISODES).rglob("*.parquet"))
    if not files:
        raise IncompleteError(f"{EPISODES} is missing")
    cameras = {camera.name: f"videos/{camera.name}/" for camera in info.videos}
    places = [prefix + column for prefix in cameras.values() for column in ("chunk_index", "file_index")]
    counts = ["episode_index", "length", "data/chunk_index", "data/file_index", *places]
    times = [f"{prefix}from_timestamp" for prefix in cameras.values()]
    columns = [Feature(name, "float64", (1,), None) for name in (*counts, *times)]
    for file in files:
        path = file.relative_to(root)
        try:
            opened = open_table(root, path, columns)
            with readable(path):
                table = opened.read([column.name for column in columns])
        except ValueError as error:  # such as the end of a file that was still being written
            raise IncompleteError(str(error)) from error
        values = {column.name: numbers(path, table, column)[:, 0] for column in columns}
        for name in counts:
            if values[name].dtype.kind not in "iu" or (values[name] < (name == "length")).any():
                raise ValueError(f"{path} has a {name} that is no count: copy the dataset again")
        for row in range(len(table)):
            at = {name: column[row].item() for name, column in values.items()}
            videos = {
                name: (
                    video_file(name, at[f"{prefix}chunk_index"], at[f"{prefix}file_index"]),
                    at[f"{prefix}from_timestamp"],
                )
                for name, prefix in cameras.items()
            }
            data = data_file(at["data/chunk_index"], at["data/file_index"])
            yield Recording(at["episode_index"], at["length"], data, videos)


def _lines(root: Path, info: Info) -> Iterator[Recording]:
    """The episodes of version 2, which has a file for each of them."""
    if not (root / EPISODE_LINES).is_file():
        raise IncompleteError(f"{EPISODE_LINES} is missing")
    for line in read_json_lines(root, EPISODE_LINES):
        index, length = line.get("episode_index"), line.get("length")
        if type(index) is not int or type(length) is not int or index < 0 or length < 1:
            raise ValueError(f"{EPISODE_LINES} needs an episode_index and a length in each line, got {str(line)[:80]}")
        where = {"episode_chunk": index // info.chunk_size, "episode_index": index}
        videos = {one.name: (Path(VIDEO_PATH[2].format(video_key=one.name, **where)), 0.0) for one in info.videos}
        yield Recording(index, length, Path(DATA_PATH[2].format(**where)), videos)


def require_modest_video(root: Path, camera: Feature, recordings: Sequence[Recording]) -> None:
    """Check the files of a camera before any of them is decoded.

    Raises:
        IncompleteError: A file is missing.
        SizeError: The frames need more memory than files of this size may.
    """
    files = sorted({one.videos[camera.name][0] for one in recordings})
    for file in files:
        if not (root / file).is_file():
            raise IncompleteError(f"{file} is missing")
    encoded = sum((root / file).stat().st_size for file in files)
    frames = camera.size * sum(one.length for one in recordings)
    require_size(f"the video of {camera.name}", frames, FREE_MEMORY + VIDEO_MEMORY_PER_BYTE * encoded)


def episode_tables(root: Path, recordings: Sequence[Recording], columns: Sequence[Feature]) -> Iterator[pa.Table]:
    """Yield the rows of each episode. Files are read in batches, so that little more than one episode is in memory.

    Raises:
        ValueError: A file is damaged, lacks a column, or does not hold the steps of its episodes in order.
        SizeError: A file needs more memory than one of its size may.
    """
    columns = [*columns, EPISODE_INDEX, FRAME_INDEX]
    for data, group in groupby(recordings, key=lambda one: one.data):
        opened = open_table(root, data, columns)
        with readable(data):
            batches = opened.iter_batches(BATCH, columns=[column.name for column in columns])
            table = opened.schema_arrow.empty_table().select([column.name for column in columns])
            for recording in group:
                read = [table]
                while sum(map(len, read)) < recording.length and (batch := next(batches, None)) is not None:
                    read.append(pa.Table.from_batches([batch]))
                table = pa.concat_tables(read)
                episode, table = table.slice(0, recording.length), table.slice(recording.length)
                expected = [np.full(recording.length, recording.index), np.arange(recording.length)]
                for column, values in zip((EPISODE_INDEX, FRAME_INDEX), expected, strict=True):
                    if not np.array_equal(numbers(data, episode, column)[:, 0], values):
                        raise ValueError(
                            f"{data} does not hold the {recording.length} steps of episode {recording.index} where "
                            f"they should be, by its column {column.name}: copy or record the dataset again"
                        )
                yield episode
