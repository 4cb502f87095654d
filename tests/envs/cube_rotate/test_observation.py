"""What a policy sees of CubeRotate: every block against numbers taken from MuJoCo by name."""

from __future__ import annotations

import math

import mujoco
import numpy as np

from softflow.envs import CubeRotateDemonstrator, CubeRotateEnv
from softflow.envs.cube_rotate.kinematics import FINGERS, JOINTS
from softflow.envs.cube_rotate.observation import (
    OBSERVATION_BLOCKS,
    OBSERVATION_SIZE,
    OBSERVATION_SLICES,
    observe,
)

NAMES = [f"{finger}_{joint}" for finger in FINGERS for joint in JOINTS]


def test_blocks_fill_the_observation_in_order() -> None:
    ends = np.cumsum([size for _, size, _ in OBSERVATION_BLOCKS]).tolist()
    assert [(s.start, s.stop) for s in OBSERVATION_SLICES.values()] == list(zip([0, *ends], ends, strict=False))
    env = CubeRotateEnv()
    observation, _ = env.reset(seed=0)
    assert env.observation_space.shape == observation.shape == (OBSERVATION_SIZE,) == (66,)
    assert observation.dtype == np.float32


def test_blocks_are_what_they_say() -> None:
    env = CubeRotateEnv()
    env.reset(seed=1)
    demonstrator = CubeRotateDemonstrator(env, np.random.default_rng(1))
    data, largest = env.scene.data, dict.fromkeys(OBSERVATION_SLICES, 0.0)
    for _ in range(60):
        action = demonstrator.act()
        observation, *_ = env.step(action)
        cube, position = data.body("cube"), data.joint("cube").qpos
        rotation = cube.xmat.reshape(3, 3)
        angle = np.array([data.joint(name).qpos[0] for name in NAMES])
        expected = {
            "joint_position": angle - env.scene.nominal_pose,
            "joint_velocity": 0.1 * np.array([data.joint(name).qvel[0] for name in NAMES]),
            "joint_target": action * np.tile([0.7, 0.8, 0.9], 4),
            "cube_position": 20 * (position[:3] - [0, 0, 0.3 - 0.082]),
            "cube_z_axis": rotation[:, 2],
            "cube_velocity": 2 * data.joint("cube").qvel[:3],
            "cube_spin": 0.2 * rotation @ data.joint("cube").qvel[3:],
            "tips": 20 * np.concatenate([data.site(f"{finger}_tip").xpos - cube.xpos for finger in FINGERS]),
            "touch": [min(0.2 * data.sensor(f"{finger}_touch").data[0], 2) for finger in FINGERS],
            "quarter_turn": [math.cos(4 * env.yaw), math.sin(4 * env.yaw)],
        }
        assert list(expected) == list(OBSERVATION_SLICES)
        for name, value in expected.items():
            np.testing.assert_allclose(observation[OBSERVATION_SLICES[name]], value, atol=1e-5, err_msg=name)
            largest[name] = max(largest[name], np.abs(value).max())
    assert min(largest.values()) > 0.1, largest  # every block had something to say


def test_neither_time_nor_turns_are_observed() -> None:
    observations = []
    for options in ({"max_steps": 50}, {"max_steps": 200, "success_turns": 0.01}):
        env = CubeRotateEnv(**options)
        env.reset(seed=4)
        observations.append([env.step(np.zeros(12))[0] for _ in range(3)])
    np.testing.assert_array_equal(*observations)


def test_a_cube_put_in_with_another_side_ahead_looks_the_same() -> None:
    env = CubeRotateEnv(randomize=False)
    env.reset()
    scene, seen = env.scene, []
    for quarter_turns in range(4):
        half = quarter_turns * math.pi / 4
        scene.data.qpos[:] = scene.model.qpos0
        scene.data.joint("cube").qpos[3:] = [math.cos(half), 0, 0, math.sin(half)]
        turn = quarter_turns * math.pi / 2  # the spin is given in the cube's frame
        scene.data.joint("cube").qvel[3:] = [math.cos(turn), -math.sin(turn), 0.5]
        mujoco.mj_forward(scene.model, scene.data)
        seen.append(observe(scene, env._measured_yaw()))
    np.testing.assert_allclose(seen, seen[:1] * 4, atol=1e-6)
    np.testing.assert_allclose(seen[0][OBSERVATION_SLICES["cube_spin"]], [0.2, 0, 0.1], atol=1e-6)
