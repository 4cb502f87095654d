"""The demonstrator of TapeCut: four ways from the same start, reproducible, as good and as bad as it is meant to be."""

from __future__ import annotations

from itertools import combinations

import gymnasium
import numpy as np
import pytest

from softflow.envs import TapeCutDemonstrator, TapeCutEnv, make_demonstrator, make_env


def demonstrate(env: gymnasium.Env, seed: int, **options: float) -> tuple[np.ndarray, np.ndarray, bool, int]:
    """Observations, actions, success and mode of one demonstration."""
    observation, _ = env.reset(seed=seed)
    demonstrator = make_demonstrator(env, np.random.default_rng(seed), **options)
    observations, actions, done = [observation], [], False
    while not done:
        actions.append(demonstrator.act())
        observation, _, terminated, truncated, info = env.step(actions[-1])
        observations.append(observation)
        done = terminated or truncated
    return np.array(observations), np.array(actions), info["is_success"], demonstrator.mode


def test_all_four_modes_solve_the_task_differently() -> None:
    env = make_env("tape_cut")
    shown = [demonstrate(env, 11, mode=mode, sloppiness=0, noise=0) for mode in range(4)]
    assert [mode for *_, mode in shown] == [0, 1, 2, 3]
    assert all(success for _, _, success, _ in shown)
    for (one, *_), (other, *_) in combinations(shown, 2):
        np.testing.assert_array_equal(one[0], other[0])  # from the same start
        yaw = 3
        assert (
            max(np.ptp([one[:, yaw].min(), other[:, yaw].min()]), np.ptp([one[:, yaw].max(), other[:, yaw].max()]))
            > 0.5
        )


def test_demonstrations_are_reproducible() -> None:
    first, again, other = (demonstrate(make_env("tape_cut"), seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    assert not np.array_equal(first[1][0], other[1][0])


def test_modes_are_drawn_evenly_and_actions_fit_the_space() -> None:
    env = TapeCutEnv()
    env.reset(seed=0)
    rng = np.random.default_rng(0)
    demonstrators = [TapeCutDemonstrator(env, rng, noise=1.0) for _ in range(400)]
    counts = np.bincount([demonstrator.mode for demonstrator in demonstrators], minlength=4)
    assert (np.abs(counts - 100) < 45).all()  # five standard deviations
    for demonstrator in demonstrators:
        action = demonstrator.act()
        assert action.shape == env.action_space.shape and np.abs(action).max() <= 1


@pytest.mark.parametrize("mode", [4, -1])
def test_unknown_modes_are_refused(mode: int) -> None:
    env = TapeCutEnv()
    env.reset(seed=0)
    with pytest.raises(ValueError, match="0, 1, 2 or 3"):
        TapeCutDemonstrator(env, np.random.default_rng(0), mode=mode)


def test_other_environments_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot act in"):
        TapeCutDemonstrator(gymnasium.make("Pendulum-v1"), np.random.default_rng(0))


@pytest.mark.slow
def test_default_sloppiness_leaves_something_to_learn() -> None:
    env = make_env("tape_cut")
    successes = [demonstrate(env, seed)[2] for seed in range(100)]
    assert 0.5 < np.mean(successes) < 0.85
