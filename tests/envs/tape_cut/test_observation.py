"""What a policy sees of TapeCut: every block against numbers taken from MuJoCo in another way."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest

from softflow.envs import TapeCutDemonstrator, TapeCutEnv
from softflow.envs.tape_cut.observation import (
    BLADE_MIDDLE,
    FINE_BLOCKS,
    OBSERVATION_BLOCKS,
    OBSERVATION_SIZE,
    OBSERVATION_SLICES,
)

WRIST_JOINTS = ("x", "y", "z", "yaw", "pitch", "roll")
SENSORS = ("touch_thumb", "touch_first", "touch_middle", "touch_ring")


@pytest.fixture(scope="module")
def env() -> TapeCutEnv:
    return TapeCutEnv()


def demonstrated(env: TapeCutEnv, seed: int, **options: float) -> Iterator[np.ndarray]:
    """Observations of a demonstration, one by one, with the environment in their state."""
    observation, _ = env.reset(seed=seed)
    demonstrator = TapeCutDemonstrator(env, np.random.default_rng(seed), **options)
    ended = False
    yield observation
    while not ended:
        observation, _, terminated, truncated, _ = env.step(demonstrator.act())
        ended = terminated or truncated
        yield observation


def block(observation: np.ndarray, name: str) -> np.ndarray:
    return observation[OBSERVATION_SLICES[name]]


def rotation(quaternion: np.ndarray) -> np.ndarray:
    w, x, y, z = quaternion
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def test_blocks_fill_the_observation_in_order(env: TapeCutEnv) -> None:
    blocks = [*OBSERVATION_BLOCKS, *FINE_BLOCKS]
    assert list(OBSERVATION_SLICES) == [name for name, *_ in blocks]
    ends = np.cumsum([size for _, size, _ in blocks]).tolist()
    assert [(s.start, s.stop) for s in OBSERVATION_SLICES.values()] == list(zip([0, *ends], ends, strict=False))
    observation, _ = env.reset(seed=0)
    assert env.observation_space.shape == observation.shape == (OBSERVATION_SIZE,) == (ends[-1],)
    assert observation.dtype == np.float32


def test_coarse_blocks_are_what_they_say(env: TapeCutEnv) -> None:
    env.reset(seed=0)
    observation, *_ = env.step(np.random.default_rng(0).uniform(-1, 1, 15))
    data = env.scene.data
    scissors, palm = data.body("scissors_a"), data.body("palm")
    wrist = np.array([data.joint(f"wrist_{name}").qpos[0] for name in WRIST_JOINTS])
    expected = {
        "pivot": scissors.xpos,
        "normal": scissors.xmat.reshape(3, 3)[:, 2],
        "normal_in_palm": palm.xmat.reshape(3, 3).T @ scissors.xmat.reshape(3, 3)[:, 2],
        "opening": data.joint("hinge").qpos,
        "opening_rate": data.joint("hinge").qvel * 0.2,
        "wrist_position": wrist,
        "wrist_target_lead": env.targets[:6] - wrist,
        "hand_velocity": data.qvel[env.scene.hand_dof] * 0.1,
        "fixture": env.fixture,
        "case": env.case,
        "yaw": [math.sin(wrist[3]), math.cos(wrist[3])],
    }
    for name, value in expected.items():
        np.testing.assert_allclose(block(observation, name), value, atol=1e-6, err_msg=name)
    np.testing.assert_allclose(block(observation, "seam"), env.fixture[:3] + np.array([0, 0, 0.2]), atol=2e-3)


def fine_values(env: TapeCutEnv) -> dict[str, np.ndarray]:
    """What the fine blocks squash, in metres, newtons, sines and cosines."""
    model, data = env.scene.model, env.scene.data
    halves = [rotation(data.body(name).xquat) for name in ("scissors_a", "scissors_b")]
    heading = halves[0][:, 0] + halves[1][:, 0]
    heading /= np.linalg.norm(heading)
    normal = halves[0][:, 2]
    frame = np.array([heading, np.cross(normal, heading), normal])
    pivot = data.body("scissors_a").xpos
    grips = pivot + model.geom("grip_a").pos[0] * heading
    offset = grips - data.site("grip").xpos
    wrist = np.array([data.joint(f"wrist_{name}").qpos[0] for name in WRIST_JOINTS])
    upper = data.body("ribbon_upper")
    seam = upper.xpos + rotation(upper.xquat) @ model.equality("seam").data[:3] - pivot
    yaw, scissors_yaw, fixture_yaw = wrist[3], math.atan2(heading[1], heading[0]), env.fixture[3]
    forward = BLADE_MIDDLE * np.array([math.cos(fixture_yaw + math.pi / 2), math.sin(fixture_yaw + math.pi / 2), 0])
    return {
        "grip_offset": offset,
        "grip_lead": offset - (env.targets[:3] - wrist[:3]),
        "seam_offset": seam,
        "left_cut": seam - forward,  # the blades point away from the fixture's left
        "right_cut": seam + forward,
        "seam_in_fixture": np.array(
            [[math.cos(fixture_yaw), math.sin(fixture_yaw)], [-math.sin(fixture_yaw), math.cos(fixture_yaw)]]
        )
        @ seam[:2],
        "seam_from_blades": frame @ seam - [BLADE_MIDDLE, 0, 0],
        "yaw_from_scissors": np.array([math.sin(yaw - scissors_yaw)]),
        "yaw_from_fixture": np.array([math.cos(scissors_yaw - fixture_yaw)]),
        "pitch": heading[2:],
        "lift": pivot[2:] - model.body("scissors_a").pos[2],
        "touch": np.array([np.linalg.norm(data.sensor(name).data) for name in SENSORS]),
    }


SCALES = {
    "grip_offset_coarse": 0.1, "grip_offset_fine": 0.02, "grip_lead_coarse": 0.1, "grip_lead_fine": 0.02,
    "seam_offset_coarse": 0.3, "seam_offset_fine": 0.1, "left_cut_coarse": 0.1, "left_cut_fine": 0.02,
    "right_cut_coarse": 0.1, "right_cut_fine": 0.02, "seam_in_fixture_coarse": 0.1, "seam_in_fixture_fine": 0.01,
    "seam_from_blades_coarse": 0.05, "seam_from_blades_fine": 0.01,
    "yaw_from_scissors_fine": 0.1, "yaw_from_fixture_fine": 0.15,
    "pitch_fine": 0.1, "lift_fine": 0.02, "touch_fine": 0.25,
}  # fmt: skip


def test_fine_blocks_are_what_they_say(env: TapeCutEnv) -> None:
    assert [name for name, *_ in FINE_BLOCKS] == list(SCALES)
    largest: dict[str, float] = dict.fromkeys(SCALES, 0.0)
    for step, observation in enumerate(demonstrated(env, seed=3)):
        if step % 5:
            continue
        values = fine_values(env)
        for name, scale in SCALES.items():
            value = values[name.removesuffix("_fine").removesuffix("_coarse")]
            np.testing.assert_allclose(block(observation, name), np.tanh(value / scale), atol=1e-5, err_msg=name)
            largest[name] = max(largest[name], np.abs(value).max() / scale)
    assert min(largest.values()) > 0.1, largest  # every block had something to say


@pytest.mark.parametrize(("mode", "side"), [(0, "left"), (1, "right"), (2, "left"), (3, "right")])
def test_at_a_cut_the_blades_are_at_their_place(env: TapeCutEnv, mode: int, side: str) -> None:
    *_, last = demonstrated(env, seed=0, mode=mode, sloppiness=0, noise=0)
    assert block(last, "cut") == block(last, "armed") == 1
    other = {"left": "right", "right": "left"}[side]
    assert 0.1 * np.abs(np.arctanh(block(last, f"{side}_cut_coarse"))).max() < 0.02
    assert 0.1 * np.linalg.norm(np.arctanh(block(last, f"{other}_cut_coarse"))) > 1.5 * BLADE_MIDDLE
    assert abs(block(last, "yaw_from_fixture_fine")[0]) < 0.7
    assert abs(block(last, "yaw_from_scissors_fine")[0]) < 0.9


def test_time_is_not_observed() -> None:
    observations = []
    for max_steps in (50, 200):
        env = TapeCutEnv(max_steps=max_steps)
        env.reset(seed=4)
        observations.append([env.step(np.zeros(15))[0] for _ in range(3)])
    np.testing.assert_array_equal(*observations)
