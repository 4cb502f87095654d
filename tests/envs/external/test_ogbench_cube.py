"""OGBench's scenes with cubes: rewards and ends, the demonstrator, and a dataset that becomes the same episodes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from softflow.data import Episode, ogbench_episodes
from softflow.envs import make_demonstrator, make_env
from softflow.errors import UserError
from softflow.runs.record_demonstrations import record_demonstrations

ogbench = pytest.importorskip("ogbench")


@pytest.fixture(scope="module")
def env() -> Any:
    return make_env("ogbench_cube")


@pytest.fixture(scope="module")
def episodes() -> list[Episode]:
    return record_demonstrations(lambda: make_env("ogbench_cube", sparse_success=True), 6, seed=0).episodes


def test_its_own_reward_is_a_cost_per_step_that_success_ends(env: Any) -> None:
    env.reset(seed=0)
    demonstrator = make_demonstrator(env, np.random.default_rng(0), noise=0)
    rewards, near = [], []
    terminated = truncated = False
    while not (terminated or truncated):
        data = env.unwrapped.data
        near.append(np.linalg.norm(data.joint("object_joint_0").qpos[:3] - [0.5, 0, 0.02]) <= 0.04)
        _, reward, terminated, truncated, info = env.step(demonstrator.act())
        rewards.append(reward)
    # Of the state before the action: the first step that starts at the target is the last, and free.
    assert near == [False] * (len(near) - 1) + [True]
    assert rewards == [-1] * (len(rewards) - 1) + [0]
    assert terminated and not truncated and info["is_success"] is True


def test_the_demonstrator_places_the_cube(episodes: list[Episode]) -> None:
    assert sum(episode.is_success for episode in episodes) >= 5  # 95 of 100
    for episode in episodes:
        assert episode.observation_dim == 28 and episode.action_dim == 5
        assert episode.reward.tolist() == [0] * (len(episode) - 1) + [episode.is_success]
        assert episode.terminated == episode.is_success and episode.truncated != episode.terminated


@pytest.mark.parametrize(("name", "cubes"), [("ogbench_cube_double", 2), ("ogbench_cube_triple", 3)])
def test_the_demonstrator_places_one_cube_after_another(name: str, cubes: int) -> None:
    env = make_env(name, sparse_success=True)
    env.reset(seed=0)
    demonstrator = make_demonstrator(env, np.random.default_rng(0), noise=0)
    scene, placed = env.unwrapped, list[int]()
    terminated = truncated = False
    while not (terminated or truncated):
        _, _, terminated, truncated, _ = env.step(demonstrator.act())
        placed.append(sum(scene._compute_successes()))
    assert terminated and list(dict.fromkeys(placed)) == list(range(cubes + 1))


def test_the_same_seed_is_the_same_episode(episodes: list[Episode]) -> None:
    [again] = record_demonstrations(lambda: make_env("ogbench_cube", sparse_success=True), 1, seed=0).episodes
    np.testing.assert_array_equal(again.observation, episodes[0].observation)
    np.testing.assert_array_equal(again.action, episodes[0].action)


def test_negative_noise_is_refused(env: Any) -> None:
    env.reset(seed=0)
    with pytest.raises(UserError, match="noise must not be negative, got -1"):
        make_demonstrator(env, np.random.default_rng(0), noise=-1)


def test_a_dataset_labelled_by_ogbench_holds_what_the_environment_gives(env: Any, tmp_path: Path) -> None:
    """Recorded in OGBench's layout while the environment goes on at the target, labelled by OGBench, converted."""
    going_on = make_env("ogbench_cube", terminate_at_goal=False)
    seen, _ = going_on.reset(seed=1)
    demonstrator = make_demonstrator(going_on, np.random.default_rng(0), noise=0)
    rows: dict[str, list[Any]] = {"observations": [], "actions": [], "terminals": [], "qpos": [], "qvel": []}
    for step in range(100):
        action, data = demonstrator.act(), going_on.unwrapped.data
        for key, value in zip(rows, (seen, action, step == 99, data.qpos.copy(), data.qvel.copy()), strict=True):
            rows[key].append(value)
        seen = going_on.step(action)[0]
    for name in ("cube.npz", "cube-val.npz"):
        np.savez(tmp_path / name, **{key: np.array(value) for key, value in rows.items()})
    _, dataset, _ = ogbench.make_env_and_datasets(
        "cube-single-play-singletask-task2-v0", dataset_path=str(tmp_path / "cube.npz")
    )
    converted = ogbench_episodes(dataset)[0]

    ending = make_env("ogbench_cube", sparse_success=True)
    observations, rewards, terminated = [ending.reset(seed=1)[0]], [], False
    while not terminated:
        observation, reward, terminated, *_ = ending.step(np.float32(rows["actions"][len(rewards)]))
        observations.append(observation)
        rewards.append(reward)
    assert converted.is_success and converted.terminated and converted.reward.tolist() == rewards
    np.testing.assert_allclose(converted.observation, np.float32(observations), atol=1e-4)
