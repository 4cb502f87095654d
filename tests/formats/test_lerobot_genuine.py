"""Written LeRobot datasets hold what lerobot's own hold."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from softflow.data import Dataset, Episode, load_dataset, read_dataset
from softflow.formats.lerobot.writer import write_lerobot
from softflow.task import ObservationPart
from tests.formats.lerobot_datasets import CAMERA, DATA, EPISODES, GENUINE, SMALL, require_same

# lerobot 0.4.4 and 0.6.1 load what is written here of `two_routes.npz`, of images and of a task with every kind of
# part: LeRobotDataset, a DataLoader, windows by delta_timestamps, StreamingLeRobotDataset. Every value of every item
# equals the one written; numbers of float64 become torch.float32. With 0.4.4, merge_datasets and delete_episodes work
# as well, and ACT trains.


def test_a_genuine_dataset_is_written_as_lerobot_wrote_it(tmp_path: Path) -> None:
    source, root = GENUINE / "v061_image", tmp_path / "again"
    write_lerobot(root, read_dataset(source))
    ours, theirs = pq.read_table(root / DATA), pq.read_table(source / DATA)
    assert set(ours.column_names) - set(theirs.column_names) == {"next.terminated", "next.truncated", "next.done"}
    for name in theirs.column_names:
        if name == "action":  # bounds other than -1 ... 1 round
            np.testing.assert_allclose(ours[name].to_pylist(), theirs[name].to_pylist(), atol=1e-8)
            continue
        assert ours.schema.field(name).type == theirs.schema.field(name).type, name
        if name == CAMERA:
            for one, other in zip(ours[name].to_pylist(), theirs[name].to_pylist(), strict=True):
                pixels = [np.asarray(Image.open(io.BytesIO(image["bytes"]))) for image in (one, other)]
                np.testing.assert_array_equal(*pixels)
                assert one["path"] == other["path"]
        else:
            assert ours[name].to_pylist() == theirs[name].to_pylist(), name
    tasks = pq.read_table(root / "meta/tasks.parquet")
    assert tasks.to_pydict() == {"task_index": [0], "task": ["lift the toy"]}
    assert json.loads(tasks.schema.metadata[b"pandas"])["index_columns"] == ["task"]
    info, their_info = (json.loads((path / "meta/info.json").read_text()) for path in (root, source))
    for name, value in their_info.items():
        if name not in ("features", "robot_type", "video_files_size_in_mb"):
            assert info[name] == value, name
    for name, feature in their_info["features"].items():
        kept = {"dtype": "float64"} if name == "action" else {}
        assert info["features"][name] == feature | kept


def test_the_statistics_are_those_of_lerobot(tmp_path: Path) -> None:
    """Its quantiles of an episode are rounded by a histogram, and those of a dataset are means over its episodes."""
    source, root = GENUINE / "v061_image", tmp_path / "again"
    write_lerobot(root, read_dataset(source))
    ours, theirs = (json.loads((path / "meta/stats.json").read_text()) for path in (root, source))
    for feature, statistics in theirs.items():
        assert ours[feature].keys() == statistics.keys()
        for name in ("min", "max", "mean", "std", "count"):
            np.testing.assert_allclose(ours[feature][name], statistics[name], atol=1e-4)
            assert np.shape(ours[feature][name]) == np.shape(statistics[name])
    ours, theirs = (pq.read_table(path / EPISODES) for path in (root, source))
    for name in theirs.column_names:
        if not name.startswith("stats/"):
            assert ours[name].to_pylist() == theirs[name].to_pylist(), name
        elif name.split("/")[2] in ("q01", "q10", "q50", "q90", "q99", "min", "max", "mean", "std", "count"):
            np.testing.assert_allclose(ours[name].to_pylist(), theirs[name].to_pylist(), atol=2e-3, err_msg=name)


def test_exact_statistics(tmp_path: Path) -> None:
    picture = ObservationPart("camera", (1, 2, 1), "uint8", axes="HWC")
    task = replace(SMALL, observation=(picture, ObservationPart("joints", (1,))))
    camera = np.array([[0, 51], [102, 255], [0, 0]], np.uint8).reshape(3, 1, 2, 1)
    rows = task.join([camera, np.array([[1.0], [3.0], [9.0]])])
    episode = Episode(rows, [[0], [0.5]], [0, 1], True, False, True, layout=task.layout, task=task)
    write_lerobot(tmp_path / "d", Dataset([episode], task))
    statistics = json.loads((tmp_path / "d/meta/stats.json").read_text())
    black = [[[0.0]]]
    bright = {"q50": [[[0.2]]], "q90": [[[1.0]]], "max": [[[1.0]]], "mean": [[[0.4]]], "count": [2]}
    for name, value in {"min": black, "q01": black, **bright}.items():
        np.testing.assert_allclose(statistics["observation.images.camera"][name], value, rtol=1e-12)
    variance = np.mean((np.array([0, 0.2, 0.4, 1]) - 0.4) ** 2)
    np.testing.assert_allclose(statistics["observation.images.camera"]["std"], [[[variance**0.5]]], rtol=1e-12)
    assert statistics["observation.state"] == (
        {"min": [1.0], "max": [3.0], "mean": [2.0], "std": [1.0], "count": [2]}
        | {"q01": [1.0], "q10": [1.0], "q50": [1.0], "q90": [3.0], "q99": [3.0]}
    )


def test_what_lerobot_itself_wrote_are_the_same_demonstrations() -> None:
    """lerobot 0.4.4 wrote `v044_two_routes` from the arrays of `two_routes.npz`, by add_frame and save_episode."""
    ours = load_dataset(GENUINE / "two_routes.npz")
    read = read_dataset(GENUINE / "v044_two_routes", wanted=replace(ours.task, rate=None))  # type: ignore[type-var]
    assert len(read.episodes) == 24
    require_same(read, ours)
