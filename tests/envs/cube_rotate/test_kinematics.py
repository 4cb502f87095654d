"""The hand's inverse kinematics against MuJoCo's forward kinematics."""

from __future__ import annotations

import mujoco
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from softflow.envs.cube_rotate.kinematics import FINGERS, tips_around
from softflow.envs.cube_rotate.scene import CubeRotateScene

fraction = st.floats(0, 1)


@pytest.fixture(scope="module")
def scene() -> CubeRotateScene:
    return CubeRotateScene()


def fingertips(scene: CubeRotateScene, angles: np.ndarray) -> np.ndarray:
    """Centres of the tips (4, 3) in the palm's frame."""
    scene.joint_position[:] = angles
    mujoco.mj_kinematics(scene.model, scene.data)
    return np.array([scene.data.site(f"{finger}_tip").xpos for finger in FINGERS]) - scene.palm_position


@settings(max_examples=200)
@given(st.lists(fraction, min_size=12, max_size=12))
def test_joint_angles_are_found_again(scene: CubeRotateScene, fractions: list[float]) -> None:
    low, high = scene.control_low.copy(), scene.control_high
    low[2::3] = 0.1  # of the two ways to reach a point, fingers curl inwards; straighter ones are out of reach
    angles = low + np.array(fractions) * (high - low)
    proximal, distal = angles[1::3], angles[2::3]
    assume((0.055 * np.cos(proximal) + 0.050 * np.cos(proximal - distal) > 0.005).all())  # tips below their bases
    found = scene.kinematics.joint_angles(fingertips(scene, angles))
    np.testing.assert_allclose(found, angles, atol=1e-9)


@settings(max_examples=50)
@given(st.floats(-0.5, 0.5), st.floats(0.035, 0.05), st.floats(-0.085, -0.07))
def test_tips_go_where_they_are_sent(scene: CubeRotateScene, azimuth: float, radius: float, height: float) -> None:
    tips = tips_around(np.array([0.002, -0.003]), azimuth, radius, height)
    np.testing.assert_allclose(fingertips(scene, scene.kinematics.joint_angles(tips)), tips, atol=1e-9)


def test_tips_on_a_circle() -> None:
    tips = tips_around(np.array([1.0, 2.0]), np.array([0.0, 0.0, np.pi / 2, 0.0]), np.array([1, 2, 3, 4.0]), 5.0)
    np.testing.assert_allclose(tips, [[0, 2, 5], [1, 4, 5], [1, 5, 5], [1, -2, 5]], atol=1e-12)


def test_a_short_finger_reaches_in_the_right_direction(scene: CubeRotateScene) -> None:
    bases = np.array([[-0.048, 0, 0], [0.034, 0.046, 0], [0.048, 0, 0], [0.034, -0.046, 0]])
    wanted = np.array([[-0.1, 0.05, -0.2], [0.1, 0.1, -0.3], [0.2, -0.1, -0.15], [0.0, -0.2, -0.3]])
    reached = fingertips(scene, scene.kinematics.joint_angles(wanted))
    directions = (wanted - bases) / np.linalg.norm(wanted - bases, axis=1, keepdims=True)
    np.testing.assert_allclose(reached - bases, 0.999 * 0.105 * directions, atol=1e-9)
