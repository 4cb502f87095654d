"""TapeCut seen by cameras: what a policy gets to see, and that nothing is drawn for one that sees the state."""

from __future__ import annotations

import os
from typing import Any

import mujoco
import numpy as np
import pytest

from softflow.envs import TapeCutEnv, make_env
from softflow.envs.cameras import OVERSAMPLING
from softflow.envs.tape_cut.observation import FELT_BLOCKS, OBSERVATION_SLICES
from softflow.errors import UserError
from tests.graphics import assert_sees

ACTIONS = np.random.default_rng(0).uniform(-1, 1, (5, 15))


class FakeRenderer:
    """Draws the camera's number, brighter in every second row: no OpenGL is needed."""

    made: list[tuple[int, ...]]

    def __init__(self, model: mujoco.MjModel, height: int, width: int) -> None:
        quality, film = model.vis.quality, model.vis.global_
        self.made.append((height, width, film.offwidth, film.offheight, quality.shadowsize, quality.offsamples))
        self.model, self.shape = model, (height, width, 3)
        self.scene = type("Scene", (), {"flags": np.ones(mujoco.mjtRndFlag.mjNRNDFLAG, np.uint8)})()

    def update_scene(self, data: mujoco.MjData, camera: str) -> None:
        self.brightness = self.model.camera(camera).id

    def render(self) -> np.ndarray:
        assert not self.scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW]
        picture = np.full(self.shape, self.brightness, np.uint8)
        picture[::2] += 2
        return picture

    def close(self) -> None:
        pass


@pytest.fixture
def renderer(monkeypatch: pytest.MonkeyPatch) -> type[FakeRenderer]:
    FakeRenderer.made = []
    monkeypatch.setattr(mujoco, "Renderer", FakeRenderer)
    return FakeRenderer


def test_pictures_and_what_the_hand_feels_are_seen(renderer: type[FakeRenderer]) -> None:
    seeing, knowing = TapeCutEnv(observation="pixels", image_size=20), TapeCutEnv()
    film = seeing.scene.model.vis.global_.offwidth
    observations = [(seeing.reset(seed=0)[0], knowing.reset(seed=0)[0])]
    observations += [(seeing.step(action)[0], knowing.step(action)[0]) for action in ACTIONS]
    for seen, state in observations:
        assert seeing.observation_space.contains(seen) and list(seen) == ["overview", "hand", "proprioception"]
        felt = np.concatenate([state[OBSERVATION_SLICES[name]] for name in FELT_BLOCKS])
        np.testing.assert_array_equal(seen["proprioception"], felt)
        for name in ("overview", "hand"):  # the mean of rows of c and c + 2
            assert (seen[name] == seeing.scene.model.camera(name).id + 1).all()
    size = 20 * OVERSAMPLING
    assert renderer.made == [(size, size, size, size, 0, 0)]
    assert seeing.scene.model.vis.global_.offwidth == film > size


def test_what_the_hand_feels_names_no_pose_of_anything_else() -> None:
    told = ("grip", "scissors", "seam", "ribbon", "pivot", "heading", "normal", "fixture", "case", "cut", "lift", "arm")
    assert not [name for name in FELT_BLOCKS if any(word in name for word in told)]


def test_the_state_is_what_it_was_and_draws_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_renderer(*arguments: object) -> None:
        raise AssertionError("a renderer was made")

    monkeypatch.setattr(mujoco, "Renderer", no_renderer)
    default, explicit = make_env("tape_cut"), TapeCutEnv(observation="state")
    assert default.observation_space == explicit.observation_space
    np.testing.assert_array_equal(default.reset(seed=1)[0], explicit.reset(seed=1)[0])
    for action in ACTIONS:
        np.testing.assert_array_equal(default.step(action)[0], explicit.step(action)[0])
    TapeCutEnv(observation="pixels").close()


def test_without_graphics_the_error_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_display(*arguments: object) -> None:
        raise OSError("no display")

    monkeypatch.setattr(mujoco, "Renderer", no_display)
    with pytest.raises(UserError, match=r"pictures cannot be observed: .*MUJOCO_GL=egl"):
        TapeCutEnv(observation="pixels").reset(seed=0)


def test_a_process_forked_from_one_that_drew_is_told(
    renderer: type[FakeRenderer], monkeypatch: pytest.MonkeyPatch
) -> None:
    TapeCutEnv(observation="pixels").reset(seed=0)
    monkeypatch.setattr(os, "getpid", lambda: -1)
    with pytest.raises(UserError, match="forked from one that has drawn"):
        TapeCutEnv(observation="pixels").reset(seed=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"observation": "pixel"}, "no observation 'pixel': did you mean 'pixels'"),
        ({"observation": "pixels", "image_size": 0}, "image_size must be at least 1"),
        ({"observation": "pixels", "sensor_noise": 0.01}, "sensor_noise is of the observation 'state'"),
        ({"observation": "pixels", "random_look": 1.5}, r"random_look must lie in \[0, 1\], got 1.5"),
        ({"observation": "pixels", "random_look": float("nan")}, "random_look must lie in"),
        ({"random_look": 0.3}, "random_look is of the observation 'pixels'"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        TapeCutEnv(**options)


def test_a_random_look_changes_no_motion_and_is_saved(renderer: type[FakeRenderer]) -> None:
    plain, varied = (TapeCutEnv(observation="pixels", image_size=4, random_look=look) for look in (0, 0.5))
    colours = []
    for seed in (0, 1, 0):
        felt = [env.reset(seed=seed)[0]["proprioception"] for env in (plain, varied)]
        felt += [env.step(ACTIONS[0])[0]["proprioception"] for env in (plain, varied)]
        np.testing.assert_array_equal(felt[0::2], felt[1::2])
        colours.append(varied.scene.model.geom_rgba.copy())
    assert np.array_equal(colours[0], colours[2]) and not np.array_equal(colours[0], colours[1])
    saved, light = varied.get_state(), varied.scene.data.light_xpos.copy()
    varied.reset(seed=1)
    varied.set_state(saved)
    np.testing.assert_array_equal(varied.scene.model.geom_rgba, colours[0])
    np.testing.assert_array_equal(varied.scene.data.light_xpos, light)
    assert "look" not in plain.get_state()


def test_the_cameras_hold_all_that_matters() -> None:
    """The case and the ribbon are in the overview, wherever a reset puts them, and the blades in the hand's view."""
    env = TapeCutEnv()
    model, data = env.scene.model, env.scene.data

    def in_view(camera: str, points: np.ndarray) -> np.ndarray:
        """Return how far points (N, 3) are from the middle of the image; 1 is its edge: (N,)."""
        seen = data.camera(camera)
        right, up, back = ((points - seen.xpos) @ seen.xmat.reshape(3, 3)).T
        assert (back < 0).all()
        return np.maximum(np.abs(right), np.abs(up)) / -back / np.tan(np.radians(model.camera(camera).fovy[0]) / 2)

    def of_body(name: str, points: Any) -> np.ndarray:
        return data.body(name).xpos + np.asarray(points) @ data.body(name).xmat.reshape(3, 3).T

    corners = [(x, y, 0.024) for x in (-0.117, 0.107) for y in (-0.07, 0.07)]
    for seed in range(20):
        env.reset(seed=seed)
        mujoco.mj_forward(model, data)
        assert in_view("overview", of_body("case", corners)).max() < 1
        assert in_view("overview", of_body("fixture", [(0, 0, 0.08), (0, 0, 0.32)])).max() < 1
        # where the ribbon is cut, with the blades on either side of the hand, and the tips
        assert in_view("hand", of_body("palm", [(x, 0, -0.0865) for x in (-0.095, 0.095)])).max() < 0.7
        assert in_view("hand", of_body("palm", [(x, 0, -0.0865) for x in (-0.125, 0.125)])).max() < 1


LOOK = """
import gymnasium, numpy as np
from gymnasium.utils.env_checker import check_env
import softflow.envs

env = gymnasium.make("softflow/TapeCut-v0", observation="pixels", image_size=32)
try:
    first, _ = env.reset(seed=0)
except ValueError as error:
    raise SystemExit(f"no graphics: {error}")
check_env(env.unwrapped, skip_render_check=True)
again, _ = env.reset(seed=0)
for name in ("overview", "hand"):
    assert first[name].shape == (32, 32, 3) and first[name].std() > 15
    assert np.array_equal(first[name], again[name])
saved = env.unwrapped.get_state()
for _ in range(8):
    last, *_ = env.step(np.full(15, 0.5))
assert not np.array_equal(first["hand"], last["hand"]) and not np.array_equal(first["overview"], last["overview"])
restored = env.unwrapped.set_state(saved)
assert all(np.array_equal(restored[name], first[name]) for name in first)
varied = gymnasium.make("softflow/TapeCut-v0", observation="pixels", image_size=32, random_look=0.5)
looks = [varied.reset(seed=seed)[0] for seed in (0, 1, 0)]
for name in ("overview", "hand"):
    assert np.array_equal(looks[0][name], looks[2][name])
    assert np.abs(looks[0][name].mean((0, 1)) - first[name].mean((0, 1))).max() > 2
saved = varied.unwrapped.get_state()
varied.reset(seed=1)
assert np.array_equal(varied.unwrapped.set_state(saved)["hand"], looks[2]["hand"])
print("seen")
"""


def test_cameras_see_the_scene() -> None:
    assert_sees(LOOK)
