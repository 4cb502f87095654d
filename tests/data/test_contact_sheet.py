"""Contact sheets: which frames of which episodes are shown, and what is refused."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from softflow.data import Dataset, DemonstrationError, Episode
from softflow.data.contact_sheet import GAP, LINE, save_contact_sheet
from softflow.errors import UserError
from softflow.task.layout import ObservationLayout, Part

SIZE = (30, 40)
"""Height and width in pixels, which a sheet enlarges four times."""


def dataset_of(lengths: list[int], channels: int = 3, cameras: int = 2) -> Dataset:
    """Episodes of noise."""
    rng = np.random.default_rng(0)
    layout = ObservationLayout(tuple(Part(f"camera {i}", (*SIZE, channels), "uint8") for i in range(cameras)))
    episodes = [
        Episode(
            rng.integers(0, 256, (steps + 1, layout.size), np.uint8),
            np.zeros((steps, 1)),
            np.zeros(steps),
            terminated=True,
            truncated=False,
            is_success=steps > 2,
            layout=layout,
        )
        for steps in lengths
    ]
    return Dataset(episodes, None)


def frame(sheet: np.ndarray, row: int, column: int) -> np.ndarray:
    """A frame of a sheet at its recorded size."""
    height, width = 4 * SIZE[0], 4 * SIZE[1]
    top, left = 2 * LINE + GAP + row * (LINE + height + GAP), GAP + column * (width + GAP)
    return sheet[top : top + height : 4, left : left + width : 4]


def test_first_middle_and_last_frames_of_every_camera(tmp_path: Path) -> None:
    dataset = dataset_of([1, 4, 7])
    save_contact_sheet(tmp_path / "new" / "sheet.png", dataset)
    sheet = np.asarray(Image.open(tmp_path / "new" / "sheet.png"))
    assert sheet.shape == (LINE + GAP + 3 * (LINE + 120 + GAP), GAP + 6 * (160 + GAP), 3)
    for row, (episode, middle) in enumerate(zip(dataset.episodes, (0, 2, 3), strict=True)):
        images = episode.layout.unpack(episode.observation)  # type: ignore[union-attr]
        for camera, name in enumerate(images):
            for column, step in enumerate((0, middle, -1)):
                np.testing.assert_array_equal(frame(sheet, row, 3 * camera + column), images[name][step])


def test_a_few_episodes_from_the_first_to_the_last(tmp_path: Path) -> None:
    dataset = dataset_of([1] * 51, cameras=1)
    save_contact_sheet(tmp_path / "sheet.png", dataset)
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    for row, index in enumerate((0, 10, 20, 30, 40, 50)):
        expected = dataset.episodes[index].observation[0].reshape(*SIZE, 3)
        np.testing.assert_array_equal(frame(sheet, row, 0), expected)
    assert len(sheet) == LINE + GAP + 6 * (LINE + 120 + GAP)


@pytest.mark.parametrize(("channels", "shown"), [(1, [0, 0, 0]), (2, [1, 1, 1]), (4, [0, 1, 2]), (9, [6, 7, 8])])
def test_any_number_of_channels_is_shown(channels: int, shown: list[int], tmp_path: Path) -> None:
    dataset = dataset_of([1], channels, cameras=1)
    save_contact_sheet(tmp_path / "sheet.png", dataset)
    recorded = dataset.episodes[0].observation[0].reshape(*SIZE, channels)
    np.testing.assert_array_equal(frame(np.asarray(Image.open(tmp_path / "sheet.png")), 0, 0), recorded[..., shown])


def test_a_name_of_several_lines_or_without_end_is_shortened(tmp_path: Path) -> None:
    episodes, _ = dataset_of([1], cameras=1)
    layout = ObservationLayout((Part("a\nb" * 1_000, (*SIZE, 3), "uint8"),))
    save_contact_sheet(tmp_path / "s.png", Dataset([replace(episodes[0], layout=layout)], None))
    assert Image.open(tmp_path / "s.png").width < 1_000


def test_what_is_refused_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = dataset_of([1])
    numbers = replace(dataset.episodes[0], observation=np.zeros((2, 3)), layout=None)
    with pytest.raises(DemonstrationError, match=r"sheet\.png: there are no images in the observations"):
        save_contact_sheet(tmp_path / "sheet.png", Dataset([numbers], None))
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(UserError, match="a contact sheet needs the package 'PIL': pip install pillow"):
        save_contact_sheet(tmp_path / "sheet.png", dataset)
    assert not list(tmp_path.iterdir())
