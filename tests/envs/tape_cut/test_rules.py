"""Each condition of a cut alone: geometry against numbers worked out by hand, the rule against scripted geometry."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import mujoco
import numpy as np
import pytest

from softflow.envs import TapeCutEnv
from softflow.envs.tape_cut import env as tape_cut
from softflow.envs.tape_cut.geometry import TapeCutGeometry, measure
from softflow.envs.tape_cut.scene import TapeCutScene


@pytest.fixture(scope="module")
def scene() -> TapeCutScene:
    return TapeCutScene()


def look(
    scene: TapeCutScene,
    *,
    along: float,
    sideways: float = 0.0,
    up: float = 0.0,
    opening: float = 0.4,
    turn: float = 0.0,
) -> TapeCutGeometry:
    """Geometry of level scissors with the seam at (along, sideways, -up) m, turned from straight-on by ``turn``."""
    fixture = np.array([0.3, 0.0, 0.0, 0.2])
    scene.place(np.zeros(3), fixture, np.zeros(3), np.array([0, 0, 0.3, 0, 0, 0]), np.zeros(9))
    seam = measure(scene).seam
    yaw = fixture[3] + np.pi / 2 + turn
    heading, left = np.array([np.cos(yaw), np.sin(yaw), 0]), np.array([-np.sin(yaw), np.cos(yaw), 0])
    half_a = yaw + opening / 2
    scene.scissors_pose[:3] = seam - along * heading - sideways * left + [0, 0, up]
    scene.scissors_pose[3:] = np.cos(half_a / 2), 0, 0, np.sin(half_a / 2)
    scene.data.qpos[scene.hinge_qpos] = opening
    mujoco.mj_kinematics(scene.model, scene.data)
    return measure(scene)


# The ribbon is 16 mm wide, so its edges lie at along -+ 8 mm when met straight on.  The jaws are open to
# +-x tan(0.2) = 0.2027 x at x, plus 4 mm of margin, and cut for 10 mm <= x <= 74 mm, within 25 mm of the seam.
@pytest.mark.parametrize(
    ("place", "between"),
    [
        ({"along": 0.047}, True),
        ({"along": 0.0655}, True),
        ({"along": 0.0665}, False),  # far edge at 74.5 mm
        ({"along": 0.0185}, True),
        ({"along": 0.0175}, False),  # near edge at 9.5 mm
        ({"along": 0.047, "sideways": 0.0115}, True),  # 0.2027 * 39 + 4 = 11.9 mm
        ({"along": 0.047, "sideways": 0.0123}, False),
        ({"along": 0.047, "sideways": -0.0123}, False),
        ({"along": 0.047, "up": 0.0245}, True),
        ({"along": 0.047, "up": 0.0255}, False),
        ({"along": 0.047, "up": -0.0255}, False),
        ({"along": 0.047, "opening": 0.0}, True),
        ({"along": 0.047, "turn": np.pi / 2}, True),  # face-on: edges at +-8 mm; 0.2027 * 47 + 4 = 13.5 mm
        ({"along": 0.047, "turn": np.pi / 2, "opening": 0.1}, False),  # 0.0500 * 47 + 4 = 6.4 mm
    ],
)
def test_the_ribbon_is_between_the_blades(scene: TapeCutScene, place: dict[str, float], between: bool) -> None:
    assert look(scene, **place).between_blades is between


def test_crossing_and_gap(scene: TapeCutScene) -> None:
    seen = look(scene, along=0.047, sideways=0.003, up=0.01)
    np.testing.assert_allclose(seen.seam_in_scissors, [0.047, 0.003, -0.01], atol=1e-6)
    assert seen.crossing == pytest.approx(0.01, abs=1e-4)
    assert seen.gap == pytest.approx(2 * 0.055 * np.sin(0.2), abs=1e-4)
    np.testing.assert_allclose(np.abs(seen.ribbon_across), [1, 0, 0], atol=1e-3)
    np.testing.assert_allclose(seen.axes @ seen.axes.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(seen.axes) == pytest.approx(1)
    assert look(scene, along=0.047, up=-0.01).crossing == pytest.approx(-0.01, abs=1e-4)
    assert look(scene, along=0.047, up=0.03).gap == np.inf


@pytest.mark.parametrize(("force_a", "force_b", "pinch"), [(2, -5, 2), (-5, 4, 4), (2, 5, 0), (-2, -5, 0), (3, 0, 0)])
def test_pinch_is_the_weaker_of_opposing_forces(
    scene: TapeCutScene, force_a: float, force_b: float, pinch: float
) -> None:
    _, lateral, normal = look(scene, along=0.047).axes
    for upper_share in (0.0, 0.3, 1.0):  # a blade may press on both links
        for blade, force in enumerate((force_a, force_b)):
            scene.blade_forces[blade, 0] = upper_share * force * lateral + normal
            scene.blade_forces[blade, 1] = (1 - upper_share) * force * lateral
        assert measure(scene).pinch == pytest.approx(pinch)


OPEN, SHUT, OUTSIDE = (True, 0.009, 0.0), (True, 0.005, 3.5), (False, np.inf, 0.0)


@pytest.mark.parametrize(
    ("history", "cut"),
    [
        ([OPEN, SHUT], True),
        ([OPEN, (True, 0.007, 3.5), SHUT], True),
        ([SHUT, SHUT], False),  # arrived shut
        ([(True, 0.0075, 0.0), SHUT], False),  # never wide enough
        ([OPEN, OUTSIDE, SHUT], False),  # the ribbon left the jaws in between
        ([(False, 0.009, 0.0), SHUT], False),  # opened beside the ribbon
        ([OPEN, (False, 0.005, 3.5)], False),  # shut beside the ribbon
        ([OPEN, (True, 0.0065, 9.0)], False),  # not closed enough
        ([OPEN, (True, 0.005, 2.9)], False),  # not firmly enough
    ],
)
def test_the_cut_needs_every_condition(
    monkeypatch: pytest.MonkeyPatch, history: Iterable[tuple[bool, float, float]], cut: bool
) -> None:
    env = TapeCutEnv()
    env.reset(seed=0)
    for between_blades, gap, pinch in history:

        def scripted(
            scene: TapeCutScene, between: bool = between_blades, gap: float = gap, pinch: float = pinch
        ) -> TapeCutGeometry:
            return replace(measure(scene), between_blades=between, gap=gap, pinch=pinch, crossing=0.01)

        monkeypatch.setattr(tape_cut, "measure", scripted)
        *_, info = env.step(np.zeros(15))
    assert info["is_success"] is cut
    assert env.scene.data.eq_active[env.scene.model.equality("seam").id] == (not cut)
