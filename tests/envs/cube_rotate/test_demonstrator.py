"""The demonstrator of CubeRotate: four gaits, reproducible, as good and as bad as it is meant to be."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import gymnasium
import numpy as np
import pytest

from softflow.envs import CubeRotateDemonstrator, CubeRotateEnv, make_env
from tests.envs.episodes import demonstrate


def strokes(env: CubeRotateEnv, mode: int, seed: int) -> list[tuple[int, float]]:
    """Which pair made each stroke of an episode, and by how many degrees its fingers went around the palm's axis."""
    env.reset(seed=seed)
    demonstrator = CubeRotateDemonstrator(env, np.random.default_rng(seed), mode, sloppiness=0, noise=0)
    found: list[tuple[int, float]] = []
    start, before = np.zeros(2), "grip"
    for _ in range(200):
        phase, pair = demonstrator.phase, demonstrator.holding
        tips = env.scene.tips_from_cube[:, :2]
        around = tips[:2] + env.scene.cube_position[:2]  # thumb and index finger, one of each pair
        azimuth = np.degrees(np.arctan2(around[:, 1], around[:, 0]))
        if phase == "stroke" != before:
            start = azimuth
        if before == "stroke" != phase:
            found.append((pair, (azimuth - start + 180)[pair] % 360 - 180))
            distance = np.linalg.norm(tips, axis=1)
            assert distance[1 - pair :: 2].min() > distance[pair::2].max()  # the other pair has let go
        before = phase
        if env.step(demonstrator.act())[2]:
            break
    return found


@pytest.mark.parametrize("randomize", [False, True])
def test_four_modes_are_four_gaits_from_the_same_start(randomize: bool) -> None:
    env = CubeRotateEnv(randomize=randomize)
    longer = []  # by how much the strokes of thumb and middle finger are longer than those of the others, by mode
    for mode in range(4):
        found = strokes(env, mode, seed=0)
        assert found[0][0] == mode & 1  # the pair that begins
        assert all(one != other for (one, _), (other, _) in pairwise(found))  # they take turns
        degrees: tuple[list[float], list[float]] = [], []
        for pair, length in found:
            degrees[pair].append(length)
        longer.append(np.mean(degrees[0]) - np.mean(degrees[1]))
    if not randomize:  # pushes and other cubes would blur how long a stroke is
        assert min(longer[2] - longer[0], longer[3] - longer[1]) > 3, longer


def test_demonstrations_are_reproducible() -> None:
    first, again, other = (demonstrate(make_env("cube_rotate"), seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.observations, again.observations)
    np.testing.assert_array_equal(first.actions, again.actions)
    assert not np.array_equal(first.actions[0], other.actions[0])


def test_modes_are_drawn_evenly_and_actions_fit_the_space() -> None:
    env = CubeRotateEnv()
    env.reset(seed=0)
    rng = np.random.default_rng(0)
    demonstrators = [CubeRotateDemonstrator(env, rng, noise=1.0) for _ in range(400)]
    counts = np.bincount([demonstrator.mode for demonstrator in demonstrators], minlength=4)
    assert (np.abs(counts - 100) < 45).all()  # five standard deviations
    for demonstrator in demonstrators:
        action = demonstrator.act()
        assert action.shape == env.action_space.shape and np.abs(action).max() <= 1


def test_noise_and_sloppiness_can_be_left_out() -> None:
    env = CubeRotateEnv(randomize=False)

    def acts(seed: int, **options: float) -> np.ndarray:
        env.reset(seed=0)
        demonstrator = CubeRotateDemonstrator(env, np.random.default_rng(seed), mode=0, **options)
        actions = [demonstrator.act()]
        for _ in range(20):
            env.step(actions[-1])
            actions.append(demonstrator.act())
        return np.array(actions)

    np.testing.assert_array_equal(acts(0, sloppiness=0, noise=0), acts(1, sloppiness=0, noise=0))
    for options in ({"sloppiness": 0}, {"noise": 0}):
        assert not np.array_equal(acts(0, **options), acts(1, **options))


@pytest.mark.parametrize("mode", [4, -1])
def test_unknown_modes_are_refused(mode: int) -> None:
    env = CubeRotateEnv()
    env.reset(seed=0)
    with pytest.raises(ValueError, match="0, 1, 2 or 3"):
        CubeRotateDemonstrator(env, np.random.default_rng(0), mode=mode)


def test_other_environments_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot act in"):
        CubeRotateDemonstrator(gymnasium.make("Pendulum-v1"), np.random.default_rng(0))


def demonstrations(episodes: int) -> list[dict[str, Any]]:
    """The last `info` of each, from all modes in turn."""
    env = make_env("cube_rotate")
    infos = [demonstrate(env, seed, mode=seed % 4).info for seed in range(episodes)]
    assert not any(info["success_by_turns"]["3"] for info in infos)
    for info in infos:
        assert info["is_success"] == (info["turns"] >= 1.25 and not info["dropped"])
        assert info["penetration"] < 4e-3 and math.isfinite(info["rpm"])
    return infos


def test_it_turns_the_cube(measured: Any) -> None:
    assert measured(np.mean([info["turns"] for info in demonstrations(8)])) > 0.3


@pytest.mark.slow
def test_it_leaves_something_to_learn(measured: Any) -> None:
    infos = demonstrations(100)
    assert 0.25 < measured(np.mean([info["is_success"] for info in infos])) < 0.8
    assert 0.85 < measured(np.mean([info["turns"] for info in infos])) < 1.35
