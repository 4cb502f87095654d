"""Interrupted LeRobot recordings: what is there is said, and the whole episodes are recovered."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from softflow.data import DemonstrationError, read_dataset
from softflow.errors import UserError
from softflow.formats.lerobot.files import data_file, video_file
from softflow.formats.lerobot.repair import repair
from tests.formats.lerobot_datasets import (
    CAMERA,
    DATA,
    EPISODES,
    GENUINE,
    VIDEO,
    as_version_2,
    change_table,
    copy_of,
)

INTERRUPTED = GENUINE / "v061_video_interrupted"


def files_of(root: Path) -> dict[Path, bytes]:
    return {file.relative_to(root): file.read_bytes() for file in sorted(root.rglob("*")) if file.is_file()}


def require_equal(root: Path, episodes: int, name: str = "v061_video") -> None:
    """Check that a dataset holds the first episodes of a genuine one."""
    task = read_dataset(GENUINE / name).task
    expected, got = (read_dataset(folder, wanted=task).episodes for folder in (GENUINE / name, root))
    assert len(got) == episodes
    for one, other in zip(expected, got, strict=False):
        for array in ("observation", "action", "reward"):
            np.testing.assert_array_equal(getattr(one, array), getattr(other, array))


def test_an_interrupted_recording_is_refused_with_what_to_do() -> None:
    with pytest.raises(DemonstrationError) as caught:
        read_dataset(INTERRUPTED)
    assert str(caught.value) == (
        f"{INTERRUPTED}: meta/episodes is missing: copy it again if it was copied; if its recording was interrupted, 2 "
        "whole episodes with 25 steps can be recovered (also there: 13 images of episode 2) by: softflow-data repair "
        f"{INTERRUPTED} TARGET"
    )


def test_a_recording_without_statistics_is_interrupted_too(tmp_path: Path) -> None:
    root = copy_of("v061_video_interrupted", tmp_path)
    (root / "meta/stats.json").unlink()
    with pytest.raises(DemonstrationError, match=r"meta/episodes is missing: .* 2 whole episodes"):
        read_dataset(root)
    repair(root, tmp_path / "whole")
    require_equal(tmp_path / "whole", 2)


def test_its_whole_episodes_are_recovered(tmp_path: Path) -> None:
    before, target = files_of(INTERRUPTED), tmp_path / "whole"
    summary = repair(INTERRUPTED, target)
    assert summary == f"{target}: 2 whole episodes with 25 steps recovered; left behind: 13 images of episode 2"
    assert files_of(INTERRUPTED) == before and list(tmp_path.iterdir()) == [target]
    require_equal(target, 2)
    # The list of episodes and the statistics are those that lerobot writes, as far as it needs them to load a dataset.
    ours, theirs = pq.read_table(target / EPISODES), pq.read_table(GENUINE / "v061_video" / EPISODES)
    for name in ours.column_names:
        assert ours[name].to_pylist() == theirs[name].to_pylist()[:2], name
    assert set(ours.column_names) == {name for name in theirs.column_names if not name.startswith("stats/")}
    info = json.loads((target / "meta/info.json").read_text())
    assert (info["total_episodes"], info["total_frames"], info["splits"]) == (2, 25, {"train": "0:2"})
    ours, theirs = (json.loads((root / "meta/stats.json").read_text()) for root in (target, INTERRUPTED))
    assert ours.keys() == theirs.keys() and ours[CAMERA] == theirs[CAMERA]
    for name in ("action", "observation.state", "next.reward"):
        for statistic in ("min", "max", "mean", "std", "count"):
            np.testing.assert_allclose(ours[name][statistic], theirs[name][statistic], atol=1e-6)


@pytest.mark.parametrize("name", ["v061_video", "v061_image", "v044_two_routes"])
def test_a_complete_dataset_is_left_as_it_is(name: str, tmp_path: Path) -> None:
    before = files_of(GENUINE / name)
    summary = repair(GENUINE / name, tmp_path / "whole")
    whole = re.fullmatch(
        r".*: nothing is to be repaired, (\d+) whole episodes with (\d+) steps are complete; .*", summary
    )
    assert whole is not None and summary.endswith(f"{tmp_path / 'whole'} is not written")
    info = json.loads((GENUINE / name / "meta/info.json").read_text())
    assert [int(number) for number in whole.groups()] == [info["total_episodes"], info["total_frames"]]
    assert files_of(GENUINE / name) == before and not list(tmp_path.iterdir())
    root = copy_of(name, tmp_path)
    (root / "meta/stats.json").unlink()
    assert "recovered" in repair(root, tmp_path / "whole")
    assert "nothing is to be repaired" in repair(tmp_path / "whole", tmp_path / "again")


def lose_list(root: Path) -> None:
    shutil.rmtree(root / "meta/episodes")


def test_episodes_without_all_frames_stay_behind(tmp_path: Path) -> None:
    root = copy_of("v061_video", tmp_path)
    shutil.copyfile(INTERRUPTED / VIDEO, root / VIDEO)  # of two episodes
    (root / EPISODES).write_bytes((root / EPISODES).read_bytes()[:-100])  # it was still being written
    message = "2 whole episodes with 25 steps can be recovered .also there: steps of 1 episode without all video frames"
    with pytest.raises(DemonstrationError, match=message):
        read_dataset(root)
    assert "steps of 1 episode without all video frames" in repair(root, tmp_path / "whole")
    require_equal(tmp_path / "whole", 2)
    assert pq.read_metadata(tmp_path / "whole" / DATA).num_rows == 25


def test_episodes_of_several_files(tmp_path: Path) -> None:
    """The second table is unfinished, the second video is whole."""
    root = copy_of("v061_video", tmp_path)
    rows = pq.read_table(root / DATA)
    pq.write_table(rows.slice(0, 25), root / DATA)
    shutil.copyfile(INTERRUPTED / VIDEO, root / VIDEO)
    shutil.copyfile(GENUINE / "v061_video" / VIDEO, root / video_file(CAMERA, 0, 1))  # 39 frames, 14 of them needed
    lose_list(root)
    pq.write_table(rows.slice(25), root / data_file(0, 1))
    assert repair(root, tmp_path / "all").startswith(f"{tmp_path / 'all'}: 3 whole episodes with 39 steps recovered")
    places = pq.read_table(tmp_path / "all" / EPISODES)
    for name, values in {
        "data/file_index": [0, 0, 1],
        f"videos/{CAMERA}/file_index": [0, 0, 1],
        f"videos/{CAMERA}/from_timestamp": [0.0, 1.2, 0.0],
    }.items():
        assert places[name].to_pylist() == values
    (root / data_file(0, 1)).write_bytes(b"PAR1 unfinished")
    assert "left behind: data/chunk-000/file-001.parquet, which is unfinished" in repair(root, tmp_path / "two")
    require_equal(tmp_path / "two", 2)


def test_images_in_the_rows(tmp_path: Path) -> None:
    root = copy_of("v061_image", tmp_path)
    lose_list(root)
    steps = pq.read_table(root / DATA)
    repair(root, tmp_path / "all")
    require_equal(tmp_path / "all", 3, "v061_image")
    change_table(root / DATA, lambda table: pa.concat_tables([table.slice(0, 12), table.slice(13)]))
    summary = repair(root, tmp_path / "one")
    left = f"steps from episode 1 on that are not in order, in {DATA}"
    assert summary == f"{tmp_path / 'one'}: 1 whole episode with 12 steps recovered; left behind: {left}"
    assert pq.read_table(tmp_path / "one" / DATA).equals(steps.slice(0, 12))


def test_what_cannot_be_repaired_is_one_clear_line(tmp_path: Path) -> None:
    root = copy_of("v061_video", tmp_path)
    with pytest.raises(UserError, match=f"{root} already exists: give the name of a folder that does not"):
        repair(INTERRUPTED, root)
    lose_list(root)
    with pytest.raises(UserError, match=f"{root / 'whole'} is inside {root}, which is not changed"):
        repair(root, root / "whole")
    (root / VIDEO).write_bytes(b"")
    with pytest.raises(UserError, match="v061_video: no whole episode can be recovered"):
        repair(root, tmp_path / "target")
    (root / "meta/tasks.parquet").unlink()
    shutil.copyfile(GENUINE / "v061_video" / VIDEO, root / VIDEO)
    with pytest.raises(UserError, match=r"tasks\.parquet is missing: copy it as well"):
        repair(root, tmp_path / "target")
    older = copy_of("v061_image", tmp_path)
    as_version_2(older)
    with pytest.raises(UserError, match=r"only datasets of version v3\.0 can be repaired"):
        repair(older, tmp_path / "target")
    with pytest.raises(UserError, match=r"nothing: meta/info\.json is missing"):
        repair(tmp_path / "nothing", tmp_path / "target")
    assert not (tmp_path / "target").exists()
