"""Pictures of the simulated tasks: only when asked, and with a hint where the machine has no graphics."""

from __future__ import annotations

import mujoco
import numpy as np
import pytest

from softflow.envs import CubeRotateEnv, TapeCutEnv
from softflow.envs.cameras import with_inset
from tests.graphics import assert_sees

every_env = pytest.mark.parametrize("task", [CubeRotateEnv, TapeCutEnv])

LOOK = """
import numpy as np
from softflow.envs import {task}

blind, seeing = {task}(), {task}(render_mode="rgb_array", width=160, height=120)
blind.reset(seed=0), seeing.reset(seed=0)
try:
    first = seeing.render()
except RuntimeError as error:
    raise SystemExit(f"no graphics: {{error}}")
for action in np.random.default_rng(0).uniform(-1, 1, (10, *blind.action_space.shape)):
    expected, observed = blind.step(action)[0], seeing.step(action)[0]
    assert np.array_equal(expected, observed)
    last = seeing.render()
assert last.shape == (120, 160, 3) and last.dtype == np.uint8
assert first.std() > 20 and not np.array_equal(first, last)
seeing.close()
assert np.array_equal(seeing.render(), last)
seeing.close()
print("seen")
"""


@every_env
def test_a_picture_shows_the_scene_and_changes_nothing(task: type) -> None:
    assert_sees(LOOK.format(task=task.__name__))


INSET = """
import numpy as np
from softflow.envs import TapeCutEnv

plain, inset = (TapeCutEnv(render_mode="rgb_array", width=160, height=81, inset=inset) for inset in (False, True))
plain.reset(seed=0), inset.reset(seed=0)
try:
    expected, picture = plain.render(), inset.render()
except RuntimeError as error:
    raise SystemExit(f"no graphics: {error}")
corner = np.zeros((81, 160), bool)
corner[:40, -40:] = True
assert np.array_equal(picture[~corner], expected[~corner])
close_up = picture[:38, -38:]
assert (picture[corner].reshape(40, 40, 3)[38:] == 255).all() and close_up.std() > 20
assert not np.array_equal(close_up, expected[:38, -38:])
print("seen")
"""


def test_the_inset_is_in_the_corner() -> None:
    assert_sees(INSET)


@every_env
def test_nothing_is_rendered_unless_asked(monkeypatch: pytest.MonkeyPatch, task: type) -> None:
    def no_renderer(*arguments: object) -> None:
        raise AssertionError("a renderer was made")

    monkeypatch.setattr(mujoco, "Renderer", no_renderer)
    for mode in (None, "rgb_array"):
        env = task(render_mode=mode)
        env.reset(seed=0)
        env.step(np.zeros(env.action_space.shape))
        env.close()
    assert task().render() is None


@every_env
def test_without_graphics_the_error_names_the_remedy(monkeypatch: pytest.MonkeyPatch, task: type) -> None:
    def no_display(*arguments: object) -> None:
        raise OSError("no display")

    monkeypatch.setattr(mujoco, "Renderer", no_display)
    env = task(render_mode="rgb_array")
    env.reset(seed=0)
    with pytest.raises(RuntimeError, match=r"MUJOCO_GL=egl.*osmesa") as caught:
        env.render()
    assert isinstance(caught.value.__cause__, OSError)
    assert np.isfinite(env.step(np.zeros(env.action_space.shape))[0]).all()


def test_an_inset_is_the_middle_of_its_picture_halved() -> None:
    picture, inset = np.zeros((9, 20, 3), np.uint8), np.zeros((9, 20, 3), np.uint8)
    inset[:8] = np.repeat(np.arange(20) // 2 * 10, 8).reshape(20, 8).T[..., None]  # two columns of each brightness
    whole = with_inset(picture, inset)
    assert (whole[:4, -4:][2:] == 255).all() and (whole[:4, -4:-2] == 255).all()  # the border
    np.testing.assert_array_equal(whole[0, -2:, 0], [40, 50])
    assert not whole[4:].any() and not whole[:, :-4].any() and not picture.any()
