"""The cube is held by friction and by squeezing alone, and turns are what it really turned."""

from __future__ import annotations

import math
from typing import Any

import mujoco
import numpy as np
import pytest

from softflow.envs import CubeRotateDemonstrator, CubeRotateEnv
from softflow.envs.cube_rotate.kinematics import tips_around
from softflow.envs.cube_rotate.scene import Cube


@pytest.fixture
def env() -> CubeRotateEnv:
    env = CubeRotateEnv(randomize=False)
    env.reset(seed=0)
    return env


def set_friction(env: CubeRotateEnv, friction: float) -> None:
    """Another coefficient for the fingers' rubber, everything else as it is."""
    env.set_state(env.get_state() | {"cube": np.array([1.0, Cube().half_size, friction])})


def steps_held(env: CubeRotateEnv, action: np.ndarray, steps: int = 200) -> int:
    """Steps until the cube is dropped, at most ``steps``."""
    for step in range(steps):
        if env.step(action)[2]:
            return step
    return steps


def test_a_static_hold_stays(env: CubeRotateEnv) -> None:
    centre, yaw = env.scene.cube_position, env.yaw
    assert steps_held(env, env.joint_action(env.scene.targets)) == 200  # 10 s
    assert np.linalg.norm(env.scene.cube_position - centre) < 2e-3  # friction creeps by 0.15 mm/s, whatever it is
    assert abs(env.yaw - yaw) < math.radians(0.5) and abs(env.turns) < 0.002
    assert env.scene.cube_rotation[2, 2] > 0.9999


def test_without_friction_it_drops(env: CubeRotateEnv) -> None:
    set_friction(env, 0.0)
    assert steps_held(env, env.joint_action(env.scene.targets)) <= 5


def test_a_little_friction_is_not_enough(env: CubeRotateEnv) -> None:
    for friction, held in ((0.05, False), (0.6, True)):
        env.reset(seed=0)
        set_friction(env, friction)
        assert (steps_held(env, env.joint_action(env.scene.targets)) == 200) is held


def test_an_open_hand_drops_it(env: CubeRotateEnv) -> None:
    home = env.scene.cube_home
    open_hand = env.scene.kinematics.joint_angles(tips_around(home, 0.0, 0.058, home[2]))
    assert steps_held(env, env.joint_action(open_hand)) <= 10


def test_two_opposite_fingers_hold_it_and_one_does_not(env: CubeRotateEnv) -> None:
    home = env.scene.cube_home
    closed, free = 0.0265, 0.058
    for radius, held in (([closed, free] * 2, True), ([closed, free, free, free], False)):
        env.reset(seed=0)
        pose = env.scene.kinematics.joint_angles(tips_around(home, 0.0, np.array(radius), home[2]))
        assert (steps_held(env, env.joint_action(pose), 60) == 60) is held


def test_random_actions_do_not_turn_it() -> None:
    env, rng = CubeRotateEnv(), np.random.default_rng(1)
    for seed in range(5):
        env.reset(seed=seed)
        action, done = np.zeros(12), False
        while not done:
            action = np.clip(0.8 * action + 0.6 * rng.normal(size=12), -1, 1)
            _, _, terminated, truncated, info = env.step(action)
            done = terminated or truncated
        assert not info["is_success"]


def test_every_size_is_touched_at_its_surface(env: CubeRotateEnv) -> None:
    """MuJoCo sorts out pairs that are far from each other by boxes, which must be as large as the cube."""
    scene = env.scene
    for half in (0.026, 0.0275, 0.029):
        for depth in (-0.0005, 0.0005):
            scene.shape(Cube(half_size=half))
            mujoco.mj_resetData(scene.model, scene.data)
            mujoco.mj_kinematics(scene.model, scene.data)
            tip = scene.data.site("index_tip").xpos
            scene.cube_pose[:3] = tip
            scene.cube_pose[1] += half + scene.tip_radius - depth
            mujoco.mj_forward(scene.model, scene.data)
            assert scene.depth[0] == pytest.approx(-max(depth, 0), abs=1e-9)


def test_turns_are_the_integral_of_the_spin(measured: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """At every substep: of the angular velocity about the vertical, up to the cosine of the tilt; and precisely, of the
    angular velocity along the mean of the vertical and the cube's axis. In two episodes that went past the wrap-around,
    and those before them."""
    env = CubeRotateEnv()
    scene, mj_step = env.scene, mujoco.mj_step
    about_vertical: list[float] = []
    precisely: list[float] = []

    def step_by_step(model: mujoco.MjModel, data: mujoco.MjData, substeps: int = 1) -> None:
        for _ in range(substeps):
            mj_step(model, data)
            rotation = scene.cube_rotation  # of before the substep; the velocity is of after it
            spin = rotation @ scene.cube_spin
            axis = (rotation[:, 2] + [0, 0, 1]) / (1 + rotation[2, 2])
            about_vertical.append(spin[2] * 0.005)
            precisely.append(spin @ axis * 0.005)

    monkeypatch.setattr(mujoco, "mj_step", step_by_step)
    turned, worst, roughly = 0, 0.0, 0.0
    for seed in range(20):
        env.reset(seed=seed)
        about_vertical.clear(), precisely.clear()
        demonstrator = CubeRotateDemonstrator(env, np.random.default_rng(seed), mode=seed)
        while env.steps < 200:
            *_, terminated, _, info = env.step(demonstrator.act())
            if terminated:
                break
            # the pose lags the velocity by one substep
            worst = max(worst, abs(info["turns"] - sum(precisely[:-1]) / (2 * math.pi)))
            upright = sum(about_vertical[:-1]) / (2 * math.pi)
            roughly = max(roughly, abs(info["turns"] - upright) / (0.2 + abs(upright)))
            assert len(precisely) == 10 * env.steps
        turned += info["turns"] > 1
        if turned == 2:
            break
    assert turned == 2
    assert measured(worst) < 0.004
    assert measured(roughly) < 0.06
