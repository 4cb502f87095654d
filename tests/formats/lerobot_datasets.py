"""LeRobot datasets for tests: genuine ones, changed copies of them, and small ones of numbers alone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from softflow.data import Dataset, Episode
from softflow.formats.lerobot.files import data_file
from softflow.task import ActionPart, ObservationPart, TaskSpec

GENUINE = Path(__file__).resolve().parents[1] / "data" / "formats" / "lerobot"
"""Written by lerobot 0.6.1 and 0.4.4. `v061_video_interrupted` is what a killed recording left, and `v044_two_routes`
holds the demonstrations of `two_routes.npz`."""
CAMERA = "observation.images.wrist"
SMALL = TaskSpec((ObservationPart("joints", (2,)),), (ActionPart("action", (-1.0,), (1.0,)),), rate=10.0, name="small")
DATA = data_file(0, 0)
VIDEO = Path("videos", CAMERA, "chunk-000/file-000.mp4")
EPISODES = Path("meta/episodes/chunk-000/file-000.parquet")


def copy_of(name: str, folder: Path) -> Path:
    """Copy a genuine dataset, to be changed."""
    return Path(shutil.copytree(GENUINE / name, folder / name))


def change_json(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def change_feature(root: Path, name: str, **values: Any) -> None:
    features = json.loads((root / "meta/info.json").read_text())["features"]
    change_json(root / "meta/info.json", features=features | {name: features[name] | values})


def change_table(path: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    table = change(pq.read_table(path))
    pq.write_table(table, path)


def with_column(table: pa.Table, name: str, values: Any) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, values)


def as_version_2(root: Path) -> None:
    """Turn a dataset of version 3.0 with images into the layout of version 2.1, which has a file for each episode."""
    steps, listed = pq.read_table(root / DATA), pq.read_table(root / EPISODES)
    shutil.rmtree(root / "data")
    shutil.rmtree(root / "meta/episodes")
    (root / "data/chunk-000").mkdir(parents=True)
    statistics = []
    for index in range(len(listed)):
        rows = steps.filter(pc.equal(steps["episode_index"], index))
        pq.write_table(rows, root / f"data/chunk-000/episode_{index:06d}.parquet")
        action = np.array(rows["action"].to_pylist())
        ranges = {"min": action.min(0).tolist(), "max": action.max(0).tolist()}
        statistics.append(json.dumps({"episode_index": index, "stats": {"action": ranges}}))
    lengths = listed["length"].to_pylist()
    lines = [json.dumps({"episode_index": i, "tasks": [], "length": length}) for i, length in enumerate(lengths)]
    (root / "meta/episodes.jsonl").write_text("\n".join(lines) + "\n")
    (root / "meta/episodes_stats.jsonl").write_text("\n".join(statistics) + "\n")
    tasks = enumerate(pq.read_table(root / "meta/tasks.parquet")["task"].to_pylist())
    lines = [json.dumps({"task_index": index, "task": text}) for index, text in tasks]
    (root / "meta/tasks.jsonl").write_text("\n".join(lines) + "\n")
    (root / "meta/tasks.parquet").unlink()
    (root / "meta/stats.json").unlink()
    paths = {"data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet", "video_path": None}
    change_json(root / "meta/info.json", codebase_version="v2.1", **paths)


def write_numbers(
    root: Path,
    episodes: Sequence[Mapping[str, np.ndarray]],
    names: Mapping[str, Sequence[str]] | None = None,
    fps: float = 10,
) -> Path:
    """Write a dataset of version 3.0 without images.

    Args:
        root: The folder.
        episodes: The columns of each episode, (T,) or (T, n).
        names: The names of the numbers of a column.
        fps: The control rate in hertz.
    """
    lengths = [len(episode["action"]) for episode in episodes]
    columns = {name: np.concatenate([episode[name] for episode in episodes]) for name in episodes[0]}
    columns["frame_index"] = np.concatenate([np.arange(length) for length in lengths])
    columns["episode_index"] = np.repeat(np.arange(len(lengths)), lengths)
    features = {
        name: {
            "dtype": str(array.dtype),
            "shape": list(array.shape[1:]) or [1],
            "names": (names or {}).get(name),
        }
        for name, array in columns.items()
    }
    listed = [
        {"episode_index": index, "length": length, "data/chunk_index": 0, "data/file_index": 0}
        for index, length in enumerate(lengths)
    ]
    info = {"codebase_version": "v3.0", "fps": fps, "features": features}
    counts = {"total_episodes": len(lengths), "total_frames": sum(lengths)}
    action = columns["action"]
    for path in (EPISODES, DATA):
        (root / path).parent.mkdir(parents=True)
    (root / "meta/info.json").write_text(json.dumps(info | counts))
    (root / "meta/stats.json").write_text(
        json.dumps({"action": {"min": action.min(0).tolist(), "max": action.max(0).tolist()}})
    )
    pq.write_table(pa.Table.from_pylist(listed), root / EPISODES)
    pq.write_table(pa.table({name: list(array) for name, array in columns.items()}), root / DATA)
    return root


def episode_of(task: TaskSpec, steps: int, rng: np.random.Generator, **ending: Any) -> Episode:
    """An episode of random rows of the task."""
    arrays = []
    for part in task.observation:
        shape = (steps + 1, *part.shape)
        if part.categories is not None:
            values = np.stack([rng.choice(choices, steps + 1) for choices in part.choices], 1).reshape(shape)
        elif part.is_image:
            values = rng.uniform(*part.value_range, shape) if part.value_range else rng.integers(0, 256, shape)
        else:
            values = rng.integers(0, 2, shape) if part.dtype in ("bool", "int8") else rng.normal(size=shape)
        arrays.append(values.astype(part.dtype))
    ending = dict(terminated=True, truncated=False, is_success=True) | ending
    action = rng.uniform(-1, 1, (steps, task.action_dim))
    return Episode(task.join(arrays), action, rng.normal(size=steps), **ending, layout=task.layout, task=task)


def require_same(got: Dataset, expected: Dataset) -> None:
    """Check that everything came back but the final observations, which are those before."""
    assert len(got.episodes) == len(expected.episodes)
    for one, other in zip(got.episodes, expected.episodes, strict=True):
        np.testing.assert_array_equal(one.observation[:-1], other.observation[:-1])
        np.testing.assert_array_equal(one.observation[-1], other.observation[-2])
        np.testing.assert_array_equal(one.action, other.action)
        np.testing.assert_array_equal(one.reward, other.reward)
        for name in ("terminated", "truncated", "is_success"):
            assert getattr(one, name) == getattr(other, name)


def as_columns(episode: Episode) -> dict[str, np.ndarray]:
    """An episode of actions in [-1, 1] as LeRobot records it."""
    done = np.zeros(len(episode), np.bool_)
    done[-1] = True
    return {
        "observation.state": episode.observation[:-1],
        "action": episode.action,
        "next.reward": episode.reward,
        "next.success": done & episode.is_success,
        "next.terminated": done & episode.terminated,
        "next.truncated": done & episode.truncated,
    }
