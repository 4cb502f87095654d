"""Recovery of the whole episodes of a LeRobot recording that was interrupted."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from softflow.data.readers import why_unread
from softflow.errors import UserError
from softflow.files import written_whole
from softflow.formats.json_files import read_json
from softflow.formats.lerobot.files import (
    BATCH,
    EPISODE_INDEX,
    FRAME_INDEX,
    Recording,
    data_file,
    numbers_of,
    read_recordings,
    video_file,
)
from softflow.formats.lerobot.info import INFO, STATS, TASKS, Feature, IncompleteError, Info, read_info
from softflow.formats.lerobot.metadata import (
    TASK_INDEX,
    require_new_folder,
    task_texts,
    write_episode_list,
    write_json,
)
from softflow.formats.lerobot.statistics import number_statistics
from softflow.formats.lerobot.tables import numbers, open_table, readable


class Remains(NamedTuple):
    """What an interrupted recording left."""

    whole: list[Recording]
    """The episodes of which every step and every frame is there."""
    others: list[str]
    """Whatever else is there, in words."""


def repair(source: Path, target: Path) -> str:
    """Write the whole episodes of an interrupted recording to a new dataset, and return a summary in one line.

    The source is not changed. If it is complete, nothing is written. The list of episodes is made anew from the tables
    of steps and the lengths of the videos, the statistics of numbers are computed anew, and those of images are kept.

    Args:
        source: The folder of the recording, of version 3.0.
        target: A folder that does not exist yet.

    Raises:
        UserError: The target exists or is inside the source, which is no LeRobot dataset or has no whole episode.
    """
    try:
        info = read_info(source)
        if info.version != 3:
            raise ValueError(
                "only datasets of version v3.0 can be repaired: record the episodes that are missing again"
            )
        remains = find_remains(source, info)
        if not remains.whole:
            raise ValueError("no whole episode can be recovered")
        if not (source / TASKS).is_file():
            raise ValueError(f"{TASKS} is missing: copy it as well")
    except ValueError as error:
        raise UserError(f"{source}: {why_unread(source, 'lerobot', error)}") from error
    if _is_complete(source, info, remains):
        return f"{source}: nothing is to be repaired, {_in_words(remains.whole)} are complete; {target} is not written"
    require_new_folder(target)
    if target.resolve().is_relative_to(source.resolve()):
        raise UserError(f"{target} is inside {source}, which is not changed: give the name of a folder elsewhere")
    with written_whole(target) as folder:
        try:
            _write(source, folder, info, remains.whole)
        except ValueError as error:
            raise UserError(f"{source}: {error}") from error
    left = f"; left behind: {', '.join(remains.others)}" if remains.others else ""
    return f"{target}: {_in_words(remains.whole)} recovered{left}"


def _is_complete(root: Path, info: Info, remains: Remains) -> bool:
    """Return whether nothing that repair writes is missing."""
    try:
        read_recordings(root, info)
    except IncompleteError:
        return False
    return len(remains.whole) == info.episodes and (root / STATS).is_file()


def advice(root: Path, info: Info) -> str:
    """Say what an incomplete dataset holds, and what can be done about it."""
    if info.version != 3:
        return "copy the dataset again"
    remains = find_remains(root, info)
    also = f" (also there: {', '.join(remains.others)})" if remains.others else ""
    if not remains.whole:
        return f"no whole episode can be recovered{also}: copy or record the dataset again"
    return (
        f"copy it again if it was copied; if its recording was interrupted, {_in_words(remains.whole)} can be recovered"
        f"{also} by: softflow-data repair {root} TARGET"
    )


def _in_words(whole: Sequence[Recording]) -> str:
    return f"{len(whole)} whole episode{'s' * (len(whole) != 1)} with {sum(one.length for one in whole)} steps"


def find_remains(root: Path, info: Info) -> Remains:
    """Find the episodes from the first on of which every step and every frame was written."""
    others: list[str] = []
    found = list(_written_episodes(root, others))
    videos: list[dict[str, tuple[Path, float]]] = [{} for _ in found]
    count = len(found)
    for camera in info.videos:
        places = list(_frames_of_episodes(root, camera.name, [length for _, length in found], info.fps))
        count = min(count, len(places))
        for one, place in zip(videos, places, strict=False):
            one[camera.name] = place
    if count < len(found):
        others.append(
            f"steps of {len(found) - count} episode{'s' * (len(found) - count != 1)} without all video frames"
        )
    whole = [Recording(index, length, data, videos[index]) for index, (data, length) in enumerate(found[:count])]
    unfinished: dict[int, int] = {}
    for image in (root / "images").rglob("*.png"):
        episode = re.fullmatch(r"episode-(\d+)", image.parent.name)
        if episode and int(episode[1]) >= count:
            unfinished[int(episode[1])] = unfinished.get(int(episode[1]), 0) + 1
    others += [f"{images} images of episode {episode}" for episode, images in sorted(unfinished.items())]
    return Remains(whole, others)


def _written_episodes(root: Path, others: list[str]) -> Iterator[tuple[Path, int]]:
    """The table and the length of each episode, until one is missing or not whole. LeRobot writes them in order."""
    expected = 0
    for file in sorted((root / "data").rglob("file-*.parquet")):
        path = file.relative_to(root)
        if path != data_file(*numbers_of(path)):
            continue
        try:
            table = open_table(root, path, [EPISODE_INDEX, FRAME_INDEX])
            with readable(path):
                rows = table.read([EPISODE_INDEX.name, FRAME_INDEX.name])
            episode, frame = (numbers(path, rows, column)[:, 0] for column in (EPISODE_INDEX, FRAME_INDEX))
        except ValueError:  # the end of a file that was being written is missing, and with it the places of its columns
            others.append(f"{path}, which is unfinished")
            return
        starts = np.flatnonzero(np.diff(episode, prepend=-1))
        for start, end in zip(starts, [*starts[1:], len(episode)], strict=True):
            if episode[start] != expected or not np.array_equal(frame[start:end], np.arange(end - start)):
                others.append(f"steps from episode {expected} on that are not in order, in {path}")
                return
            expected += 1
            yield path, int(end - start)


def _frames_of_episodes(root: Path, camera: str, lengths: Sequence[int], fps: float) -> Iterator[tuple[Path, float]]:
    """The video file of each episode and the time of its first frame, as far as there are frames of all its steps.

    LeRobot writes the episodes in order, and each of them into one file.
    """
    waiting = list(lengths)
    for file in sorted((root / "videos" / camera).rglob("file-*.mp4")):
        path = file.relative_to(root)
        if path != video_file(camera, *numbers_of(path)):
            continue
        frames, used = _count_frames(file), 0
        while waiting and used + waiting[0] <= frames:
            yield path, used / fps
            used += waiting.pop(0)
        if used < frames:  # some of its frames belong to no whole episode, so those of later files cannot be told
            return


def _count_frames(file: Path) -> int:
    """Count the frames of a video without decoding them; 0 if it cannot be read."""
    try:
        with av.open(str(file), format="mp4") as container:
            return sum(packet.pts is not None for packet in container.demux(video=0))
    except (av.FFmpegError, OSError, IndexError):
        return 0


def _write(source: Path, target: Path, info: Info, whole: Sequence[Recording]) -> None:
    """Write a dataset of the episodes `whole`."""
    for file in {path for one in whole for path, _ in one.videos.values()}:
        (target / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / file, target / file)
    (target / TASKS).parent.mkdir(parents=True)
    shutil.copyfile(source / TASKS, target / TASKS)
    columns = {feature.name: feature for feature in info.features.values() if feature.is_numbers}
    columns |= {feature.name: feature for feature in (EPISODE_INDEX, FRAME_INDEX, TASK_INDEX)}
    collected: dict[str, list[np.ndarray]] = {name: [] for name in columns}
    for data, group in groupby(whole, key=lambda one: one.data):
        for rows in _copied_rows(source, target, data, sum(one.length for one in group), list(columns.values())):
            for name, feature in columns.items():
                collected[name].append(numbers(data, rows, feature))
    values = {name: np.concatenate(arrays) for name, arrays in collected.items()}

    texts, ends = task_texts(source), np.cumsum([one.length for one in whole])[:-1]
    tasks = [np.unique(index).tolist() for index in np.split(values[TASK_INDEX.name][:, 0], ends)]
    in_words = [[texts.get(index, "") for index in indices] for indices in tasks]
    write_episode_list(target, whole, info.fps, in_words, [{} for _ in whole])
    described = read_json(source, INFO)
    described |= {"total_episodes": len(whole), "total_frames": len(values[FRAME_INDEX.name])}
    described["splits"] = {"train": f"0:{len(whole)}"}
    kept = read_json(source, STATS) if (source / STATS).is_file() else {}
    images = {name: kept[name] for name, feature in info.features.items() if feature.is_image and name in kept}
    statistics = {name: number_statistics(array) for name, array in values.items() if name in info.features}
    for path, content in ((INFO, described), (STATS, images | statistics)):
        write_json(target / path, content)


def _copied_rows(source: Path, target: Path, data: Path, count: int, columns: Sequence[Feature]) -> Iterator[pa.Table]:
    """Copy the first `count` rows of a table with all its columns, and yield them piece by piece."""
    opened = open_table(source, data, columns)
    (target / data).parent.mkdir(parents=True, exist_ok=True)
    with readable(data), pq.ParquetWriter(target / data, opened.schema_arrow) as writer:
        for batch in opened.iter_batches(BATCH):
            rows = pa.Table.from_batches([batch]).slice(0, count)
            writer.write_table(rows)
            yield rows
            count -= len(rows)
            if not count:
                return
