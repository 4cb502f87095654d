"""A film is there as a whole or not at all; imageio is played by a stand-in that writes numbers."""

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
from softflow.runs.video import write_video
from softflow.training.checked_environment import CheckedEnvironment
from softflow.training.failures import EnvironmentFailed

FRAMES = 5


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
        return np.zeros(1), 0.0, self.steps == FRAMES - 1, False, {}

    def render(self) -> np.ndarray:  # type: ignore[override]
        return np.full((2, 2, 3), self.steps, np.uint8)


def play_imageio(monkeypatch: pytest.MonkeyPatch, torn: bool = False) -> None:
    """Its two functions that write and check a film, which here is a number for each frame and a last line."""

    @contextmanager
    def get_writer(path: Path, fps: int) -> Iterator[SimpleNamespace]:
        assert path.suffix == ".mp4" and fps == 20
        frames: list[str] = []
        yield SimpleNamespace(append_data=lambda frame: frames.append(str(frame.max())))
        path.write_text("\n".join(frames if torn else [*frames, "whole"]))  # as ffmpeg, it says nothing

    def get_reader(path: Path) -> SimpleNamespace:
        if not path.read_text().endswith("whole"):
            raise RuntimeError("moov atom not found")
        return SimpleNamespace(close=lambda: None)

    v2 = SimpleNamespace(get_writer=get_writer, get_reader=get_reader)
    monkeypatch.setitem(sys.modules, "imageio", SimpleNamespace(v2=v2))
    monkeypatch.setitem(sys.modules, "imageio.v2", v2)


def film(path: Path) -> None:
    write_video(path, CheckedEnvironment(Counting()), lambda observation: np.zeros((1, 3, 1)), 3, seed=0)


def test_a_film_has_every_step_of_an_episode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    play_imageio(monkeypatch)
    film(tmp_path / "film.mp4")
    assert (tmp_path / "film.mp4").read_text().split() == ["0", "1", "2", "3", "4", "whole"]
    assert [file.name for file in tmp_path.iterdir()] == ["film.mp4"]


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
