"""The files below `meta/` of a LeRobot dataset of version 3.0, apart from `info.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from softflow.errors import UserError
from softflow.formats.lerobot.files import EPISODES, Recording, numbers_of
from softflow.formats.lerobot.info import TASKS, Feature, read_json_lines
from softflow.formats.lerobot.statistics import Statistics
from softflow.formats.lerobot.tables import readable

TASK_LINES = Path("meta/tasks.jsonl")
"""The tasks of version 2."""
TASK_INDEX = Feature("task_index", "int64", (1,), None)


def require_new_folder(target: Path) -> None:
    """Raise `UserError` if there is something at the path of a dataset that is to be written."""
    if target.exists() or target.is_symlink():
        raise UserError(f"{target} already exists: give the name of a folder that does not")


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object as LeRobot lays it out."""
    path.write_text(json.dumps(content, indent=4), encoding="utf-8")


def task_texts(root: Path, version: int = 3) -> dict[int, str]:
    """Return what the robot does, in words, by the index of the task. Nothing if there is no list of tasks.

    Raises:
        ValueError: The list is damaged, or has other columns.
    """
    if version == 2:
        lines = read_json_lines(root, TASK_LINES) if (root / TASK_LINES).is_file() else []
        return {index: str(line.get("task", "")) for index, line in enumerate(lines)}
    if not (root / TASKS).is_file():
        return {}
    with readable(TASKS):
        table = pq.read_table(root / TASKS)
    names = [name for name in table.column_names if name != TASK_INDEX.name]
    if TASK_INDEX.name not in table.column_names or len(names) != 1:
        raise ValueError(f"{TASKS} has the columns {', '.join(table.column_names)}, expected task_index and the task")
    return dict(zip(table[TASK_INDEX.name].to_pylist(), map(str, table[names[0]].to_pylist()), strict=True))


def write_task_text(root: Path, text: str) -> None:
    """Write the table of a single task. LeRobot reads it with pandas and expects the text as the index."""
    table = pa.table({TASK_INDEX.name: [0], "task": [text]})
    kinds = {TASK_INDEX.name: ("int64", "int64"), "task": ("unicode", "object")}
    columns = [
        {"name": name, "field_name": name, "pandas_type": kind, "numpy_type": dtype, "metadata": None}
        for name, (kind, dtype) in kinds.items()
    ]
    pandas = {"index_columns": ["task"], "column_indexes": [], "columns": columns}
    pq.write_table(table.replace_schema_metadata({"pandas": json.dumps(pandas)}), root / TASKS)


def write_episode_list(
    root: Path,
    episodes: Sequence[Recording],
    fps: float,
    texts: Sequence[Sequence[str]],
    statistics: Sequence[Mapping[str, Statistics]],
) -> None:
    """Write the list of episodes, with the columns by which LeRobot finds their steps and frames.

    Args:
        root: The folder of the dataset.
        episodes: The episodes, in order.
        fps: The frame rate in hertz.
        texts: What the robot does in each episode, in words.
        statistics: For each episode, the statistics of its features by name; none if they are not known.
    """
    rows: list[dict[str, Any]] = []
    first = 0
    for one, words, known in zip(episodes, texts, statistics, strict=True):
        end = first + one.length
        row: dict[str, Any] = {
            "episode_index": one.index,
            "length": one.length,
            "dataset_from_index": first,
            "dataset_to_index": end,
            "tasks": list(words),
        }
        places = {"data": one.data, **{f"videos/{camera}": file for camera, (file, _) in one.videos.items()}}
        for prefix, file in places.items():
            row[f"{prefix}/chunk_index"], row[f"{prefix}/file_index"] = numbers_of(file)
        for camera, (_, start) in one.videos.items():
            row[f"videos/{camera}/from_timestamp"] = start
            row[f"videos/{camera}/to_timestamp"] = start + one.length / fps
        for name, found in known.items():
            row |= {f"stats/{name}/{statistic}": value for statistic, value in found.items()}
        rows.append(row | {"meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0})
        first = end
    folder = root / EPISODES / "chunk-000"
    folder.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), folder / "file-000.parquet")
