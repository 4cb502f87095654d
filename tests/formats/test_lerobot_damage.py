"""Damaged LeRobot datasets, and attacks: each is one clear line, and nothing large is allocated."""

from __future__ import annotations

import io
import random
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from softflow.data import DemonstrationError, read_dataset
from softflow.data.damage import leaving_out_damaged
from softflow.data.row_file import RowFile
from softflow.files import SIZE_LIMITS
from tests.damage import flip
from tests.formats.lerobot_datasets import (
    CAMERA,
    DATA,
    EPISODES,
    VIDEO,
    as_version_2,
    change_feature,
    change_json,
    change_table,
    copy_of,
    with_column,
)

INFO, STATS = Path("meta/info.json"), Path("meta/stats.json")
Damage = Callable[[Path], Any]


def write(path: Path, content: bytes) -> Damage:
    return lambda root: (root / path).write_bytes(content)


def cut(path: Path, share: float = 0.5) -> Damage:
    def apply(root: Path) -> None:
        content = (root / path).read_bytes()
        (root / path).write_bytes(content[: int(len(content) * share)])

    return apply


def info(**values: Any) -> Damage:
    return lambda root: change_json(root / INFO, **values)


def feature(name: str, **values: Any) -> Damage:
    return lambda root: change_feature(root, name, **values)


def rename(root: Path, old: str, new: str) -> None:
    (root / INFO).write_text((root / INFO).read_text().replace(f'"{old}"', f'"{new}"'))


def column(path: Path, name: str, change: Callable[[list[Any]], Any]) -> Damage:
    def apply(root: Path) -> None:
        change_table(root / path, lambda table: with_column(table, name, [change(table[name].to_pylist())]))

    return apply


def drop(path: Path, name: str) -> Damage:
    return lambda root: change_table(root / path, lambda table: table.drop_columns([name]))


def picture(content: bytes) -> Damage:
    return column(DATA, CAMERA, lambda values: [*values[:20], {"bytes": content, "path": None}, *values[21:]])


def png(size: tuple[int, int], mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size).save(buffer, "PNG")
    return buffer.getvalue()


def huge_png() -> bytes:
    """A PNG that says it has 50000 x 50000 pixels."""
    small = bytearray(png((1, 1)))
    small[16:24] = (50_000).to_bytes(4, "big") * 2
    small[29:33] = zlib.crc32(small[12:29]).to_bytes(4, "big")
    return bytes(small)


def other_video(root: Path, size: int) -> None:
    with av.open(str(root / VIDEO), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width = stream.height = size
        for _ in range(39):
            frame = av.VideoFrame.from_ndarray(np.zeros((size, size, 3), np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def nan_action(values: list[Any]) -> Any:
    return pa.array([*values[:-1], [0.1, float("nan")]], pa.list_(pa.float32(), 2))


def uneven(values: list[Any]) -> Any:
    """The numbers of two rows are as many as before."""
    return pa.array([*values[:13], [*values[13], 0.1], values[14][1:], *values[15:]], pa.list_(pa.float32()))


VIDEOS: list[tuple[Damage, str]] = [
    (write(INFO, b"{"), "meta/info.json is not JSON .*: copy the dataset again"),
    (write(INFO, b"[" * 90_000), "meta/info.json is not JSON .nested too deeply"),
    (write(INFO, b"[1]"), "meta/info.json holds list, expected an object"),
    (write(INFO, b"\xff\xfe{"), "meta/info.json is not JSON"),
    (write(INFO, b" " * 200_000), "info.json: it takes 200,000 bytes, more than the 100,000 bytes allowed"),
    (info(codebase_version="v9.0"), "has the version 'v9.0', expected v2.0, v2.1 or v3.0"),
    (info(data_path="../{x}"), r"has data_path '\.\./\{x\}', expected 'data/chunk-"),
    (info(fps=float("nan")), "has fps nan, expected a positive number of hertz"),
    (info(fps="10"), "has fps '10', expected"),
    (info(features=None), "has no features"),
    (info(total_frames=10**12), "claims 3 episodes and 1000000000000 steps, 3 episodes with 39 steps are listed"),
    (info(total_episodes=True), "has total_episodes True, expected an integer"),
    (feature("action", dtype="string"), "no feature 'action' of numbers along one axis"),
    (feature("action", shape=[2, 10**12]), "no feature 'action' of numbers along one axis"),
    (feature("action", shape=[3]), "stats.json has no 3 finite numbers as min of action"),
    (feature("observation.state", shape=[5]), "has 48 numbers in 12 rows of observation.state, expected 5 in each"),
    (feature("observation.state", shape=[10**9]), "file-000.parquet takes .* MB, more than the .* allowed"),
    (feature("observation.state", shape=[0]), "observation.state needs a dtype and a shape of positive integers"),
    (feature(CAMERA, shape=[64, 64]), "an image needs three axes with the names height, width and channels"),
    (feature(CAMERA, names=None), "an image needs three axes"),
    (feature(CAMERA, shape=[64, 64, 4]), "has 4 channels: videos of 3 channels are read alone"),
    (feature(CAMERA, shape=[50_000, 50_000, 3]), "the video of .* takes 292,500 MB, more than"),
    (feature(CAMERA, dtype="image"), f"has no column {CAMERA}"),
    (partial(rename, old=CAMERA, new="observation.../../x"), "has a slash in its name"),
    (
        write(STATS, b'{"action": {"min": [-0.1, -0.1], "max": [0.1, 0.1]}}'),
        "episode 0: .* -0.1 ... 0.1, the extremes in the statistics of the dataset: compute these with lerobot, or",
    ),
    (write(STATS, b"{}"), "meta/stats.json has no min of action: compute the statistics with lerobot"),
    (
        lambda root: (root / STATS).unlink(),
        "the bounds of the actions are not known, because meta/stats.json is missing",
    ),
    (cut(DATA), "file-000.parquet cannot be read .*no whole episode can be recovered"),
    (write(DATA, b""), "file-000.parquet cannot be read"),
    (lambda root: (root / DATA).unlink(), "data/chunk-000/file-000.parquet is missing: no whole episode"),
    (drop(DATA, "action"), "file-000.parquet has no column action: copy the dataset again"),
    (drop(DATA, "frame_index"), "file-000.parquet has no column frame_index"),
    (column(DATA, "action", lambda values: [str(one) for one in values]), "has string in action, expected numbers"),
    (column(DATA, "next.reward", lambda values: [None, *values[1:]]), "in next.reward, expected numbers, none missing"),
    (column(DATA, "action", uneven), "episode 1: .* has rows of different lengths in action: copy or record"),
    (column(DATA, "action", nan_action), "episode 2: .*= nan of action 13 is outside its bounds"),
    (column(DATA, "episode_index", lambda values: values[::-1]), "does not hold the 12 steps of episode 0 where they"),
    (column(DATA, "frame_index", lambda values: [0, *values[:-1]]), "by its column frame_index"),
    (cut(EPISODES), "cannot be read .*: copy it again .* 3 whole episodes with 39 steps can be recovered by"),
    (drop(EPISODES, "length"), "has no column length"),
    (column(EPISODES, "length", lambda values: [-12, 13, 14]), "has a length that is no count"),
    (
        column(EPISODES, "length", lambda values: [13, 12, 14]),
        "does not hold the 13 steps of episode 0 where they should",
    ),
    (column(EPISODES, "episode_index", lambda values: [0, 0, 2]), "the list of episodes has gaps or repetitions"),
    (
        column(EPISODES, f"videos/{CAMERA}/from_timestamp", lambda values: [0, 1.2, 2.54]),
        "file-000.mp4 has no frame for step 0 at 2.540 s, the next one is at 2.600 s",
    ),
    (
        column(EPISODES, f"videos/{CAMERA}/from_timestamp", lambda values: [0, 1.2, 1e9]),
        "file-000.mp4 (ends before step 0|cannot be read)",
    ),
    (cut(VIDEO), r"file-000.mp4 cannot be read .*: copy the dataset again"),
    (write(VIDEO, b"#EXTM3U\n#EXTINF:1,\n/etc/hostname\n"), "file-000.mp4 cannot be read"),
    (lambda root: (root / VIDEO).unlink(), "is missing: no whole .* .also there: steps of 3 episodes without"),
    (partial(other_video, size=96), "has frames of 96 x 96 pixels, expected 64 x 64, as meta/info.json says"),
]
IMAGES: list[tuple[Damage, str]] = [
    (
        picture(huge_png()),
        "picture 8 of an episode, .*: Image size .2500000000 pixels. exceeds limit",
    ),
    (picture(png((5000, 5000))), "5000 x 5000 pixels of mode RGB, expected 64 x 64 of mode RGB"),
    (picture(png((64, 64), "RGBA")), "64 x 64 pixels of mode RGBA, expected 64 x 64 of mode RGB"),
    (picture(png((64, 64))[:-30]), "picture 8 of an episode, .*"),
    (picture(b"GIF89a"), "its bytes are not a picture of the format PNG or JPEG"),
    (
        column(DATA, CAMERA, lambda values: [{"bytes": None, "path": "/etc/hostname"}] * 39),
        "bytes are not in the table",
    ),
    (column(DATA, CAMERA, lambda values: list(range(39))), "expected the bytes of pictures"),
]


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [("v061_video", *one) for one in VIDEOS] + [("v061_image", *one) for one in IMAGES],
    ids=range(len(VIDEOS) + len(IMAGES)),
)
def test_damage_is_one_clear_line(
    name: str, damage: Damage, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RowFile, "require_room", lambda self, size: None)  # a disk that holds what the file claims
    root = copy_of(name, tmp_path)
    damage(root)
    with pytest.raises(DemonstrationError, match=message) as caught:
        read_dataset(root)
    assert str(caught.value).startswith(f"{root}: ") and "\n" not in str(caught.value)
    assert "LeRobotReader fails" not in str(caught.value)


def scratched_video(root: Path) -> None:
    """Overwrite bytes of a frame of the second episode."""
    content = bytearray((root / VIDEO).read_bytes())
    content[2864:2904] = bytes(40)
    (root / VIDEO).write_bytes(content)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("v061_image", picture(png((64, 64))[:-30])),
        ("v061_image", column(DATA, "next.reward", lambda values: [*values[:20], None, *values[21:]])),
        ("v061_video", scratched_video),
        ("v061_video", column(EPISODES, f"videos/{CAMERA}/from_timestamp", lambda values: [0, 1e6, 2.5])),
    ],
    ids=range(4),
)
def test_a_damaged_episode_can_be_left_out(name: str, damage: Damage, tmp_path: Path) -> None:
    whole = read_dataset(copy_of(name, tmp_path / "whole")).episodes
    damage(root := copy_of(name, tmp_path))
    with leaving_out_damaged() as left_out:
        kept = read_dataset(root).episodes
    assert len(left_out) == 1 and left_out[0].startswith("episode 1: ")
    for episode, expected in zip(kept, (whole[0], whole[2]), strict=True):
        np.testing.assert_array_equal(episode.observation, expected.observation)
        np.testing.assert_array_equal(episode.action, expected.action)


@pytest.mark.parametrize(
    ("name", "path"),
    [("v061_video", path) for path in (INFO, STATS, DATA, EPISODES, VIDEO)] + [("v061_image", DATA)],
    ids=str,
)
def test_a_flipped_bit_or_a_missing_end_never_crashes(name: str, path: Path, tmp_path: Path) -> None:
    root = copy_of(name, tmp_path)
    content, rng = (root / path).read_bytes(), random.Random(0)
    damaged = [flip(content, rng) for _ in range(40)]
    damaged += [content[: rng.randrange(len(content))] for _ in range(10)]
    refused = 0
    for one in damaged:
        (root / path).write_bytes(one)
        try:
            read_dataset(root)
        except DemonstrationError as error:
            assert "\n" not in str(error) and "LeRobotReader fails" not in str(error), error
            refused += 1
    assert refused >= 10  # the missing ends; LeRobot's formats have no checksums that would show every bit


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            write(Path("meta/episodes.jsonl"), b'{"episode_index": 0}'),
            "needs an episode_index and a length in each line",
        ),
        (write(Path("meta/episodes.jsonl"), b"\xff[1"), "meta/episodes.jsonl is not JSON"),
        (write(Path("meta/episodes.jsonl"), b"[1]"), "meta/episodes.jsonl holds '.1.' in a line, expected an object"),
        (
            write(Path("meta/episodes.jsonl"), b'{"episode_index": 0, "length": 12}'),
            "1 episodes with 12 steps are listed: c",
        ),
        (
            lambda root: (root / "meta/episodes.jsonl").unlink(),
            "meta/episodes.jsonl is missing: copy the dataset again",
        ),
        (write(Path("meta/episodes_stats.jsonl"), b""), "has no 2 finite numbers as min of action"),
        (write(Path("meta/episodes_stats.jsonl"), b"{}"), "meta/episodes_stats.jsonl has no min of action"),
        (info(chunks_size=0), "has chunks_size 0, expected an integer of at least 1"),
    ],
)
def test_damage_of_version_2(damage: Damage, message: str, tmp_path: Path) -> None:
    root = copy_of("v061_image", tmp_path)
    as_version_2(root)
    damage(root)
    with pytest.raises(DemonstrationError, match=message) as caught:
        read_dataset(root)
    assert str(caught.value).startswith(f"{root}: ") and "LeRobotReader fails" not in str(caught.value)


def test_limits_hold_before_anything_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = copy_of("v061_image", tmp_path)
    monkeypatch.setenv(SIZE_LIMITS, "0.005")
    with pytest.raises(
        DemonstrationError, match=r"takes .* bytes, more than the .* bytes allowed; to read it anyway, set"
    ):
        read_dataset(root)
