"""The description of a LeRobot dataset: its features, its sizes and the ranges of its actions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from softflow.formats.json_files import parse_json, read_json
from softflow.task import ObservationPart

INFO = Path("meta/info.json")
STATS = Path("meta/stats.json")
TASKS = Path("meta/tasks.parquet")
EPISODE_STATS = Path("meta/episodes_stats.jsonl")
"""The statistics of version 2.1, episode by episode."""
DATA_PATH = {
    2: "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
    3: "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
}
VIDEO_PATH = {
    2: "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
    3: "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
}
AXES = {"height": "H", "width": "W", "channel": "C", "channels": "C"}


class IncompleteError(ValueError):
    """Parts of a dataset are missing or disagree, as after an interrupted recording or copy."""


@dataclass(frozen=True)
class Feature:
    """One column of a dataset, or one camera.

    Attributes:
        name: The key in `info.json`, such as "observation.state".
        dtype: A numpy dtype; "image" for pictures in the rows, "video" for frames in separate files.
        shape: The shape of one value.
        names: The names of the numbers. For an image, the names of its axes. None if there are none.
        is_depth: Whether a video is a depth map.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    names: tuple[str, ...] | None
    is_depth: bool = False

    @property
    def is_image(self) -> bool:
        return self.dtype in ("image", "video")

    @property
    def is_numbers(self) -> bool:
        try:
            return np.dtype(self.dtype).kind in "biuf"
        except TypeError:  # "string" and "language" are no dtypes
            return False

    @property
    def size(self) -> int:
        """How many numbers or pixel values it has per step."""
        return math.prod(self.shape)

    @property
    def axes(self) -> str:
        """The axes of an image in the order of its shape, such as "HWC"."""
        axes = "".join(AXES.get(name, "?") for name in self.names or ())
        if sorted(axes) == ["C", "H", "W"] and len(self.shape) == 3:
            return axes
        raise ValueError(
            f"{self.name} in {INFO} has the shape {list(self.shape)} and the names {self.names}: an image needs three "
            "axes with the names height, width and channels"
        )

    @property
    def frame_shape(self) -> tuple[int, int, int]:
        """The shape (height, width, channels) of an image."""
        height, width, channels = (self.shape[self.axes.index(axis)] for axis in "HWC")
        return height, width, channels

    def as_part(self) -> ObservationPart:
        """Describe it as a part of an observation. Frames are decoded to (height, width, channels)."""
        if self.is_image:
            return ObservationPart(self.name, self.frame_shape, "uint8", axes="HWC")
        names = self.names or ()
        is_named = len(set(names)) == self.size
        return ObservationPart(self.name, self.shape, self.dtype, names=names if is_named else None)


@dataclass(frozen=True)
class Info:
    """The content of `meta/info.json`.

    Attributes:
        version: 3 for the layout with many episodes in a file, 2 for the one with a file for each episode.
        fps: Control rate and frame rate in hertz.
        features: All features by name.
        episodes: The number of episodes that the dataset claims.
        frames: The number of steps that it claims.
        chunk_size: Episodes in a folder of version 2.
    """

    version: int
    fps: float
    features: Mapping[str, Feature]
    episodes: int
    frames: int
    chunk_size: int

    @property
    def videos(self) -> list[Feature]:
        return [feature for feature in self.features.values() if feature.dtype == "video"]


def read_json_lines(root: Path, path: Path) -> list[dict[str, Any]]:
    """Read a file of the dataset with a JSON object in each line.

    Raises:
        ValueError: It is something else.
    """
    lines = (root / path).read_bytes().decode(errors="replace").splitlines()
    content = [parse_json(path, line) for line in lines if line.strip()]
    for line in content:
        if not isinstance(line, dict):
            raise ValueError(f"{path} holds {str(line)[:80]!r} in a line, expected an object: copy the dataset again")
    return content


def read_info(root: Path) -> Info:
    """Read and check `meta/info.json`.

    Raises:
        ValueError: It is missing or damaged, or of a version or layout that is not known.
    """
    content = read_json(root, INFO)
    version = {"v2.0": 2, "v2.1": 2, "v3.0": 3}.get(str(content.get("codebase_version")))
    if version is None:
        raise ValueError(
            f"{INFO} has the version {content.get('codebase_version')!r}, expected v2.0, v2.1 or v3.0: convert the "
            "dataset with a matching version of lerobot"
        )
    for key, expected in (("data_path", DATA_PATH[version]), ("video_path", VIDEO_PATH[version])):
        if content.get(key) not in (expected, None):
            raise ValueError(f"{INFO} has {key} {content[key]!r}, expected {expected!r}: rename the files accordingly")
    features = content.get("features")
    if not isinstance(features, dict):
        raise ValueError(f"{INFO} has no features: copy the dataset again")
    fps = content.get("fps")
    if not isinstance(fps, int | float) or not 0 < fps < math.inf:
        raise ValueError(f"{INFO} has fps {fps!r}, expected a positive number of hertz")
    return Info(
        version=version,
        fps=float(fps),
        features={name: _feature(name, value) for name, value in features.items()},
        episodes=_count(content, "total_episodes"),
        frames=_count(content, "total_frames"),
        chunk_size=_count(content, "chunks_size", lowest=1) if version == 2 else 1,
    )


def _count(content: Mapping[str, Any], key: str, lowest: int = 0) -> int:
    value = content.get(key)
    if type(value) is not int or value < lowest:
        raise ValueError(f"{INFO} has {key} {value!r}, expected an integer of at least {lowest}")
    return value


def _feature(name: str, value: Any) -> Feature:
    if "/" in name or "\\" in name:
        raise ValueError(
            f"{INFO}: the feature {name!r} has a slash in its name, which lerobot does not allow: rename it"
        )
    dtype, shape = (value.get("dtype"), value.get("shape")) if isinstance(value, dict) else (None, None)
    if not isinstance(dtype, str) or not isinstance(shape, list) or not all(type(n) is int and n > 0 for n in shape):
        raise ValueError(f"{INFO}: {name} needs a dtype and a shape of positive integers, got {str(value)[:80]}")
    details = value.get("info") if isinstance(value.get("info"), dict) else value.get("video_info")
    is_depth = isinstance(details, dict) and bool(details.get("is_depth_map", details.get("video.is_depth_map", False)))
    return Feature(name, dtype, tuple(shape), _names(value.get("names")), is_depth)


def _names(value: Any) -> tuple[str, ...] | None:
    """Flatten the names of a feature, which are a list, or a mapping from a group such as "motors" to a list."""
    if isinstance(value, dict) and all(type(index) is int for index in value.values()):
        value = sorted(value, key=value.__getitem__)  # from the name to the index
    names = list(_texts(value.values() if isinstance(value, dict) else value))
    return tuple(names) or None


def _texts(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Iterable):
        for item in value:
            yield from _texts(item)


def action_range(root: Path, action: Feature) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the lowest and highest value of each number of the recorded actions, from the statistics of the dataset.

    Raises:
        ValueError: There are no statistics of the actions, or not as many as the actions have numbers.
    """
    all_stats: list[Any]
    if (root / STATS).is_file():
        where, all_stats = STATS, [read_json(root, STATS)]
    elif (root / EPISODE_STATS).is_file():
        where, lines = EPISODE_STATS, read_json_lines(root, EPISODE_STATS)
        all_stats = [line.get("stats") for line in lines]
    else:
        raise ValueError(
            f"the bounds of the actions are not known, because {STATS} is missing: copy it as well, or give the task"
        )
    ends = []
    for end, extreme in (("min", np.min), ("max", np.max)):
        try:
            values = np.array([stats[action.name][end] for stats in all_stats], np.float64)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{where} has no {end} of {action.name}: compute the statistics with lerobot") from error
        if not len(values) or values[0].size != action.size or not np.isfinite(values).all():
            raise ValueError(f"{where} has no {action.size} finite numbers as {end} of {action.name}: compute it again")
        ends.append(tuple(extreme(values.reshape(len(values), -1), axis=0).tolist()))
    return ends[0], ends[1]
