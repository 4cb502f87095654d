"""Pictures of the simulated tasks: only when asked, and with a hint where the machine has no graphics."""

from __future__ import annotations

import mujoco
import numpy as np
import pytest

from softflow.envs import CubeRotateEnv, TapeCutEnv
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
