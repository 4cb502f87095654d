"""The demonstrator of TapeCut: four ways from the same start, reproducible, as good and as bad as it is meant to be."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest

from softflow.envs import TapeCutDemonstrator, TapeCutEnv, make_env
from softflow.envs.tape_cut.observation import OBSERVATION_SLICES
from tests.envs.episodes import demonstrate


def test_four_modes_solve_the_task_from_the_same_start() -> None:
    env = make_env("tape_cut")
    shown = [demonstrate(env, 11, mode=mode, sloppiness=0, noise=0) for mode in range(4)]
    assert [one.mode for one in shown] == [0, 1, 2, 3]
    for observations, _, steps, mode in shown:
        assert steps[-1][4]["is_success"]
        np.testing.assert_array_equal(observations[0], shown[0].observations[0])
        last = {name: observations[-1][block] for name, block in OBSERVATION_SLICES.items()}
        heading = np.arctan2(last["heading"][1], last["heading"][0])
        assert np.sign(np.sin(heading - last["fixture"][3])) == (-1 if mode & 1 else 1)  # the side it is cut from
        assert np.sign(np.cos(heading - last["wrist_position"][3])) == (-1 if mode & 2 else 1)  # how it is grasped


def test_demonstrations_are_reproducible() -> None:
    first, again, other = (demonstrate(make_env("tape_cut"), seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.observations, again.observations)
    np.testing.assert_array_equal(first.actions, again.actions)
    assert not np.array_equal(first.actions[0], other.actions[0])


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
def test_default_sloppiness_leaves_something_to_learn(measured: Any) -> None:
    env = make_env("tape_cut")
    successes = [demonstrate(env, seed).info["is_success"] for seed in range(100)]
    assert 0.5 < measured(np.mean(successes)) < 0.85
