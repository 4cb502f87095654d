"""Random light and colours: what a draw changes, within which bounds, and that it is a function of its numbers."""

from __future__ import annotations

import mujoco
import numpy as np
import pytest

from softflow.envs.look import LIGHT_SHIFT, Look

SCENE = """
<mujoco>
  <visual><headlight ambient=".4 .4 .4" diffuse=".2 .3 .5"/></visual>
  <asset><material name="wood" rgba=".6 .4 .2 1"/></asset>
  <worldbody>
    <light pos="0 0 1" diffuse=".6 .5 .4"/>
    <geom name="left" size=".1" rgba=".9 .2 .1 .5"/>
    <geom name="right" size=".1" pos="1 0 0" rgba=".9 .2 .1 1"/>
    <geom name="other" size=".1" pos="2 0 0" rgba=".1 .2 .9 1"/>
    <geom name="table" type="plane" size="1 1 1" material="wood"/>
  </worldbody>
</mujoco>
"""


def looks_of(model: mujoco.MjModel) -> list[np.ndarray]:
    headlight = model.vis.headlight
    arrays = headlight.ambient, headlight.diffuse, model.light_diffuse, model.light_pos, model.mat_rgba, model.geom_rgba
    return [np.array(array) for array in arrays]


def test_it_stays_within_its_bounds_and_equal_colours_stay_equal() -> None:
    model = mujoco.MjModel.from_xml_string(SCENE)
    look, rng, own = Look(model, 0.4), np.random.default_rng(0), looks_of(model)
    for _ in range(50):
        look.draw(rng)
        now = looks_of(model)
        for before, after in zip(own[:3], now[:3], strict=True):  # brightness, which tints nothing
            factors = (after / before).reshape(-1, 3)
            np.testing.assert_allclose(factors, np.repeat(factors[:, :1], 3, 1), rtol=1e-5)
            assert (np.abs(factors - 1) <= 0.4 + 1e-6).all()
        assert np.abs(now[3] - own[3]).max() <= 0.4 * LIGHT_SHIFT and (now[3][:, 2] == own[3][:, 2]).all()
        for before, after in zip(own[4:], now[4:], strict=True):
            assert np.abs(after - before).max() <= 0.2 + 1e-6 and 0 <= after.min() <= after.max() <= 1
            np.testing.assert_array_equal(after[:, 3], before[:, 3])  # what is transparent stays so
        left, right, other = (model.geom(name).rgba[:3] for name in ("left", "right", "other"))
        np.testing.assert_array_equal(left, right)
        assert not np.array_equal(left, other)


def test_the_numbers_give_the_look_again_and_zeros_the_scenes_own() -> None:
    model, again = (mujoco.MjModel.from_xml_string(SCENE) for _ in range(2))
    own, look, other = looks_of(model), Look(model, 1), Look(again, 1)
    look.draw(np.random.default_rng(1))
    other.draw(np.random.default_rng(2))
    other.set(look.numbers)
    for first, second in zip(looks_of(model), looks_of(again), strict=True):
        np.testing.assert_array_equal(first, second)
    look.set(np.zeros_like(look.numbers))
    for before, after in zip(own, looks_of(model), strict=True):
        np.testing.assert_array_equal(after, before)
    with pytest.raises(ValueError, match=rf"has {len(look.numbers)} numbers, got shape \(3,\)"):
        look.set(np.zeros(3))
