"""Films: what is written on them, and that a file is there as a whole or not at all.

imageio is played by a stand-in that writes numbers.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium
import numpy as np
import pytest

from softflow.errors import UserError
from softflow.runs.video import HOLD, Choice, Film, columns_of, film_episode, grid, write_films
from softflow.training.checked_environment import CheckedEnvironment
from softflow.training.failures import EnvironmentFailed
from softflow.training.success import SuccessRule

FRAMES = 5
HOLD_FRAMES = round(20 * HOLD)


class Counting(gymnasium.Env[np.ndarray, np.ndarray]):
    """Shows how many steps have been made; the fourth is the last."""

    metadata = {"render_fps": 20}  # noqa: RUF012
    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (1,))
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,))

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        self.steps = 0
        return np.zeros(1), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        return np.zeros(1), 1.0, self.steps == FRAMES - 1, False, {}

    def render(self) -> np.ndarray:  # type: ignore[override]
        return np.full((2, 2, 3), self.steps, np.uint8)


def play_imageio(monkeypatch: pytest.MonkeyPatch, torn: bool = False) -> None:
    """Its two functions that write and check a film, which here is the number of frames and a word."""

    @contextmanager
    def get_writer(path: Path, fps: int, macro_block_size: int) -> Iterator[SimpleNamespace]:
        assert path.suffix == ".mp4" and fps == 20
        frames: list[np.ndarray] = []
        yield SimpleNamespace(append_data=frames.append)
        path.write_text(f"{len(frames)}{'' if torn else ' whole'}")  # as ffmpeg, it says nothing

    def get_reader(path: Path) -> SimpleNamespace:
        if not path.read_text().endswith("whole"):
            raise RuntimeError("moov atom not found")
        return SimpleNamespace(close=lambda: None)

    v2 = SimpleNamespace(get_writer=get_writer, get_reader=get_reader)
    monkeypatch.setitem(sys.modules, "imageio", SimpleNamespace(v2=v2))
    monkeypatch.setitem(sys.modules, "imageio.v2", v2)


def film(path: Path, number: int = 1) -> None:
    environment = CheckedEnvironment(Counting())
    films = [film_episode(environment, lambda seen: Choice(np.zeros((3, 1)), 0.5), seed) for seed in range(number)]
    write_films(path, films, columns_of(number))


def test_a_film_has_every_step_of_an_episode_and_holds_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    play_imageio(monkeypatch)
    film(tmp_path / "film.mp4")
    assert (tmp_path / "film.mp4").read_text().split() == [str(FRAMES + HOLD_FRAMES), "whole"]
    assert [file.name for file in tmp_path.iterdir()] == ["film.mp4"]


def test_films_stand_in_a_grid_until_the_longest_has_ended() -> None:
    pictures = [[np.full((40, 60, 3), 50 * index, np.uint8)] * steps for index, steps in ((1, 2), (2, 4), (3, 3))]
    films = [Film("", frames, [None] * len(frames), frames_per_second=2) for frames in pictures]
    frames = list(grid(films, columns=2))
    assert len(frames) == 4 + 2 and {frame.shape for frame in frames} == {(80, 120, 3)}
    centres = [[frame[20, 30, 0], frame[20, 90, 0], frame[60, 30, 0], frame[60, 90, 0]] for frame in frames]
    assert centres == [[50, 100, 150, 0]] * 6


def test_a_film_shows_the_outcome_once_the_episode_has_ended() -> None:
    dark = [np.zeros((120, 160, 3), np.uint8)] * 3
    success, failure = (Film("", dark, [None] * 3, 1, is_success) for is_success in (True, False))
    first, last = (list(grid([success, failure], columns=2))[step] for step in (1, 2))
    assert not first[0].any()
    assert last[0, 0, 1] > last[0, 0, 0] and last[0, 160, 0] > last[0, 160, 1]  # green and red borders


def test_the_value_and_the_success_are_those_of_the_episode() -> None:
    environment = CheckedEnvironment(Counting(), SuccessRule("return>=4"))
    one = film_episode(environment, lambda seen: Choice(np.zeros((3, 1)), 0.5), seed=3)
    assert one.caption == "seed 3" and one.values == [None, 0.5, 0.5, 0.5, 0.5]
    assert one.is_success and one.total == FRAMES - 1


def test_an_error_of_the_environment_is_not_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(self: Any) -> Any:
        raise OSError("no display")

    play_imageio(monkeypatch)
    monkeypatch.setattr(Counting, "render", fails)
    with pytest.raises(EnvironmentFailed, match=r"in the episode of the film: OSError: no display \(test_video.py"):
        film(tmp_path / "film.mp4")
    assert not list(tmp_path.iterdir())


def test_a_torn_film_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    play_imageio(monkeypatch, torn=True)
    with pytest.raises(UserError, match=r"film\.mp4: cannot be written: .* is the disk full\?"):
        film(tmp_path / "film.mp4")
    assert not list(tmp_path.iterdir())
