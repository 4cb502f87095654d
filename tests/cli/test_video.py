"""Films: what is written on them, and that a file is there as a whole or not at all."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Any

import av
import gymnasium
import numpy as np
import pytest

from softflow.envs import make_env
from softflow.errors import UserError
from softflow.runs.video import HOLD, Choice, Film, columns_of, film_episode, grid, write_films
from softflow.training.checked_environment import CheckedEnvironment
from softflow.training.failures import EnvironmentFailed
from softflow.training.success import SuccessRule
from tests.pictures import SIZE as CAMERA_SIZE
from tests.pictures import Lamp

FRAMES, SIZE = 5, 160
HOLD_FRAMES = round(20 * HOLD)


class Counting(gymnasium.Env[np.ndarray, np.ndarray]):
    """Shows how many steps have been made; the fourth is the last."""

    metadata = {"render_fps": 20}  # noqa: RUF012
    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (1,))
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,))

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        self.steps = 0
        return np.zeros(1), {"steps": self.steps}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        return np.zeros(1), 1.0, self.steps == FRAMES - 1, False, {"steps": self.steps}

    def render(self) -> np.ndarray:  # type: ignore[override]
        return np.full((SIZE, SIZE, 3), 40 * self.steps, np.uint8)


def film(path: Path, number: int = 1) -> None:
    environment = CheckedEnvironment(Counting())
    films = [film_episode(environment, lambda seen: Choice(np.zeros((3, 1)), 0.5), seed) for seed in range(number)]
    write_films(path, films, columns_of(number))


def test_a_film_has_every_step_of_an_episode_and_holds_the_last(tmp_path: Path) -> None:
    film(tmp_path / "film.mp4", number=2)
    assert [file.name for file in tmp_path.iterdir()] == ["film.mp4"]
    with av.open(str(tmp_path / "film.mp4")) as container:
        [stream] = container.streams.video
        assert (stream.codec.name, stream.width, stream.height, stream.average_rate) == ("h264", 2 * SIZE, SIZE, 20)
        pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    brightness = [picture[SIZE // 2, SIZE // 2].mean() for picture in pictures]  # a codec may change it a little
    np.testing.assert_allclose(brightness, 40 * np.array([0, 1, 2, 3, *[4] * (1 + HOLD_FRAMES)]), atol=6)


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


def test_a_number_that_the_environment_reports_is_shown() -> None:
    def choose(seen: np.ndarray) -> Choice:
        return Choice(np.zeros((3, 1)), None)

    environment = CheckedEnvironment(Counting())
    one = film_episode(environment, choose, seed=3, shown="steps")
    assert one.measured == ["steps 0.00", "steps 1.00", "steps 2.00", "steps 3.00", "steps 4.00"]
    plain = film_episode(environment, choose, seed=3)
    (first, *_), (without, *_) = (list(grid([film], columns=1)) for film in (one, plain))
    differing = np.argwhere((first != without).any(-1))
    assert len(differing) and differing[:, 0].max() < SIZE // 3  # below the caption, in the upper part
    with pytest.raises(UserError, match="the environment reports no number 'stepz': did you mean 'steps'"):
        film_episode(environment, choose, seed=3, shown="stepz")


class FilmedLamp(Lamp):
    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012

    def __init__(self, render_mode: str) -> None:
        self.render_mode = render_mode

    def render(self) -> np.ndarray:  # type: ignore[override]
        return np.full((60, 6 * CAMERA_SIZE, 3), 7, np.uint8)


def test_what_the_policy_sees_is_shown_below() -> None:
    gymnasium.register("tests/FilmedLamp-v0", entry_point=FilmedLamp)
    try:
        environment = CheckedEnvironment(make_env("tests/FilmedLamp-v0", render_mode="rgb_array"))
        frames = film_episode(environment, lambda seen: Choice(np.zeros((3, 1)), None), seed=3).frames
        seen = environment.unwrapped.observation()["camera"]  # type: ignore[attr-defined]
    finally:
        gymnasium.registry.pop("tests/FilmedLamp-v0")
    below = frames[0][60:]
    assert len(frames) == 5 and (frames[0][:60] == 7).all()
    np.testing.assert_array_equal(below[:, : 2 * CAMERA_SIZE], seen.repeat(2, 0).repeat(2, 1))
    assert not below[:, 2 * CAMERA_SIZE :].any()


def test_an_error_of_the_environment_is_not_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(self: Any) -> Any:
        raise OSError("no display")

    monkeypatch.setattr(Counting, "render", fails)
    with pytest.raises(EnvironmentFailed, match=r"in the episode of the film: OSError: no display \(test_video.py"):
        film(tmp_path / "film.mp4")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["film.mp4", "film.gif"])
def test_a_film_that_cannot_be_written_to_its_end_is_not_kept(tmp_path: Path, name: str) -> None:
    film(tmp_path / name)
    (tmp_path / name).unlink()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, hard))  # as on a full disk
    try:
        with pytest.raises(UserError, match=rf"{name}: cannot be written: File too large"):
            film(tmp_path / name)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.iterdir())


def test_without_an_encoder_the_error_names_the_other_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(self: Any, codec: str, rate: Any) -> Any:
        return av.Codec("no such codec", "w")

    monkeypatch.setattr("av.container.output.OutputContainer.add_stream", unknown, raising=False)
    with pytest.raises(UserError, match=r"no encoder of H\.264 \(libx264\): write a \.gif file"):
        film(tmp_path / "film.mp4")
    assert not list(tmp_path.iterdir())
