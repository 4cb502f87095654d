"""The diagnostic tasks as pictures: where everything is drawn, and that nothing else about the tasks changes."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import given
from hypothesis import strategies as st

from softflow.cli import demonstrate
from softflow.data import load_demonstrations
from softflow.envs.diagnostics.drawing import Canvas, View
from softflow.envs.diagnostics.tasks import (
    GOAL_COLOR,
    GROUND,
    PASSIVE,
    POINT_COLOR,
    POINT_RADIUS,
    WALL,
    DelayedCorridorEnv,
    DiagnosticTask,
    DriftingGoalEnv,
    TwoRoutesEnv,
    WrongModeEnv,
)
from softflow.errors import UserError

TASKS = {
    "two_routes": TwoRoutesEnv,
    "delayed_corridor": DelayedCorridorEnv,
    "drifting_goal": DriftingGoalEnv,
    "wrong_mode": WrongModeEnv,
}
OUTSIDE = {
    "two_routes": [9.0, 9.0], "drifting_goal": [9.0, 9.0, 0.25, 0.05], "wrong_mode": [9.0, 9.0, 1.0],
}  # fmt: skip
"""A state of each task that moves a point, with the point outside of the picture."""
every_task = pytest.mark.parametrize("task", TASKS)
across = st.floats(-0.45, 0.45)  # of the picture's side, from its centre


def started(task: str, seed: int = 0) -> DiagnosticTask:
    env = TASKS[task](observation="pixels")
    env.reset(seed=seed)
    return env


def seen(env: DiagnosticTask, state: list[float], steps: int = 0) -> np.ndarray:
    env.state, env.steps = np.array(state), steps
    return env.observe()["overview"]


def point_in(picture: np.ndarray, scene: np.ndarray) -> np.ndarray:
    """Return how much of each pixel the point covers, (S, S); nothing else has so much red."""
    return (scene[..., 0] - picture[..., 0].astype(float)) / (scene[..., 0] - float(POINT_COLOR[0]))


def centroid(shares: np.ndarray, view: View) -> np.ndarray:
    """Return the centroid (x, y) of pixels in the units of the task."""
    place = ((np.arange(len(shares)) + 0.5) / len(shares) - 0.5) * view.side
    return np.array([view.x + shares.sum(0) @ place / shares.sum(), view.y - shares.sum(1) @ place / shares.sum()])


def with_color(picture: np.ndarray, color: tuple[int, int, int]) -> np.ndarray:
    """Return which pixels have exactly this colour, (S, S)."""
    return (picture == color).all(-1)


# ------------------------------------------------------------------------------------------------------ what is drawn


@pytest.mark.parametrize("task", OUTSIDE)
@given(dx=across, dy=across)
def test_the_point_is_where_the_state_says(task: str, dx: float, dy: float) -> None:
    env = started(task)
    scene = seen(env, OUTSIDE[task])
    x, y = env.VIEW.x + dx * env.VIEW.side, env.VIEW.y + dy * env.VIEW.side
    shares = point_in(seen(env, [x, y, *OUTSIDE[task][2:]]), scene)
    pixel = env.VIEW.side / 64
    np.testing.assert_allclose(centroid(shares, env.VIEW), [x, y], atol=0.06 * pixel)
    assert shares.sum() == pytest.approx(np.pi * (POINT_RADIUS * 64) ** 2, rel=0.03)


@pytest.mark.parametrize("task", OUTSIDE)
@given(dx=across, dy=across, angle=st.floats(0, 2 * np.pi))
def test_a_millimetre_changes_the_picture(task: str, dx: float, dy: float, angle: float) -> None:
    env = started(task)
    x, y = env.VIEW.x + dx * env.VIEW.side, env.VIEW.y + dy * env.VIEW.side
    there = [x + 0.001 * np.cos(angle), y + 0.001 * np.sin(angle)]
    before, after = (seen(env, [*place, *OUTSIDE[task][2:]]) for place in ([x, y], there))
    assert not np.array_equal(before, after)


def test_two_routes_shows_disc_and_goal() -> None:
    picture = seen(started("two_routes"), OUTSIDE["two_routes"])
    pixel = TwoRoutesEnv.VIEW.side / 64
    for color, center, radius in ((WALL, [0, 0], 0.5), (GOAL_COLOR, TwoRoutesEnv.GOAL, 0.15)):
        shares = with_color(picture, color).astype(float)
        np.testing.assert_allclose(centroid(shares, TwoRoutesEnv.VIEW), center, atol=0.5 * pixel)
        assert np.pi * (radius - pixel) ** 2 <= shares.sum() * pixel**2 <= np.pi * radius**2


@pytest.mark.parametrize("signal", [-1.0, 1.0])
def test_wrong_mode_shows_the_signal_by_the_color_of_the_goals(signal: float) -> None:
    picture = seen(started("wrong_mode"), [9.0, 9.0, signal])
    for color, y in ((GOAL_COLOR, 0.6 * signal), (PASSIVE, -0.6 * signal)):
        place = centroid(with_color(picture, color).astype(float), WrongModeEnv.VIEW)
        np.testing.assert_allclose(place, [0.4, y], atol=0.5 * WrongModeEnv.VIEW.side / 64)


@given(x=st.floats(0.2, 0.3), y=st.floats(-0.1, 0.1))
def test_drifting_goal_shows_the_displayed_goal_and_the_time_left(x: float, y: float) -> None:
    env, ground = started("drifting_goal"), np.array(GROUND, float)
    for steps in range(5):
        picture = seen(env, [9.0, 9.0, x, y], steps)
        length = 64 - 16 * steps
        assert with_color(picture[-2:], WALL).sum(1).tolist() == [length, length]
        picture[-8:] = GROUND
        goal = ((ground - picture) / (ground - GOAL_COLOR)).mean(-1)
        np.testing.assert_allclose(centroid(goal, env.VIEW), [x, y], atol=0.06 * env.VIEW.side / 64)


def test_delayed_corridor_shows_every_cell_in_its_place() -> None:
    env = started("delayed_corridor")
    pictures, canvas = [], Canvas(env.VIEW, 64)
    scene = canvas.blank(GROUND)
    env._draw_scene(canvas, scene)
    for corridor, fork in enumerate((13.5, 4.5, -4.5, -13.5)):
        for steps, lane, y in [(0, -1, fork), *((s, k, fork + 4 * k - 2) for s in range(1, 33) for k in (0, 1))]:
            pictures.append(seen(env, [corridor, lane], steps))
            place = centroid(point_in(pictures[-1], scene), env.VIEW)
            np.testing.assert_allclose(place, [steps, y], atol=0.06 * env.VIEW.side / 64)
    assert len(np.unique(pictures, axis=0)) == 260


@pytest.mark.parametrize("task", ["two_routes", "wrong_mode"])
def test_time_that_is_not_observed_is_not_drawn(task: str) -> None:
    env = started(task)
    state = env.state.tolist()
    np.testing.assert_array_equal(seen(env, state, 0), seen(env, state, 7))


# ------------------------------------------------------------------------------------------------------------ drawing


@given(x=st.floats(-1.5, 1.5), y=st.floats(-1.5, 1.5), radius=st.floats(0.02, 1))
def test_what_is_outside_is_cut_off(x: float, y: float, radius: float) -> None:
    small, large = Canvas(View(0, 0, 2), 32), Canvas(View(0, 0, 6), 96)
    pictures = []
    for canvas in (small, large):
        pictures.append(picture := canvas.blank((250, 250, 250)))
        canvas.disc(picture, x, y, radius, (0, 100, 200))
        canvas.rectangle(picture, (x, x + radius), (y - radius, y), (50, 0, 90))
    np.testing.assert_allclose(pictures[0], pictures[1][32:64, 32:64].astype(int), atol=1)  # rounding


@given(low=st.floats(-0.9, 0.4), length=st.floats(0, 0.5), height=st.floats(0, 0.9))
def test_a_rectangle_covers_its_area(low: float, length: float, height: float) -> None:
    canvas = Canvas(View(0, 0, 2), 32)
    picture = canvas.blank((0, 0, 0))
    canvas.rectangle(picture, (low, low + length), (-height, 0), (255, 255, 255))
    assert picture[..., 0].sum() / 255 == pytest.approx(length * height * 16**2, abs=34 * 0.5 * 4 / 255)


# ------------------------------------------------------------------------------------------------------- environments


@every_task
@pytest.mark.filterwarnings("error")
def test_it_is_an_environment_as_gymnasium_has_them(task: str) -> None:
    env = TASKS[task](render_mode="rgb_array", observation="pixels")
    check_env(env, skip_render_check=True)  # that check needs an environment made by its id
    env.reset(seed=0)
    picture, larger = env.observe()["overview"], env.render()
    assert (picture.shape, picture.dtype, picture.flags.c_contiguous) == ((64, 64, 3), np.uint8, True)
    assert (larger.shape, larger.dtype) == ((256, 256, 3), np.uint8)
    assert TASKS[task]().render() is None


@every_task
def test_pictures_go_on_from_a_state_to_the_bit_and_are_not_shared(task: str) -> None:
    env = started(task)
    actions = np.random.default_rng(0).uniform(-1, 1, (3, *env.action_space.shape))
    first, *_ = env.step(actions[0])
    file = io.BytesIO()
    np.savez(file, **env.get_state())
    file.seek(0)
    twin = TASKS[task](observation="pixels")
    with np.load(file, allow_pickle=False) as arrays:
        restored = twin.set_state(dict(arrays))
    np.testing.assert_array_equal(restored["overview"], first["overview"])
    first["overview"][:] = 0
    for action in actions[1:]:
        (ours, *_), (theirs, *_) = env.step(action), twin.step(action)
        np.testing.assert_array_equal(ours["overview"], theirs["overview"])


@every_task
def test_the_state_draws_nothing(task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_drawing(*arguments: object) -> None:
        raise AssertionError("a picture was drawn")

    monkeypatch.setattr(DiagnosticTask, "draw", no_drawing)
    env = TASKS[task]()
    assert env.observation_space.contains(env.reset(seed=0)[0])
    env.step(np.zeros(env.action_space.shape))


@every_task
def test_demonstrations_have_the_same_actions(task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for kind in ("state", "pixels"):
        flags = f"--env {task} --env-options.observation {kind} --episodes 3 --seed 4 --out {kind}.npz"
        assert demonstrate.main(flags.split()) == 0
    states, pictures = load_demonstrations("state.npz"), load_demonstrations("pixels.npz")
    assert len(states) == len(pictures) == 3
    for one, other in zip(states, pictures, strict=True):
        np.testing.assert_array_equal(one.action, other.action)
        np.testing.assert_array_equal(one.reward, other.reward)
        assert other.observation.shape == (len(one) + 1, 64 * 64 * 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"observation": "pixel"}, "no observation 'pixel': did you mean 'pixels'"),
        ({"render_mode": "human"}, "TwoRoutes has no render_mode 'human': use 'rgb_array' or None"),
    ],
)
def test_what_is_no_option_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        TwoRoutesEnv(**options)
