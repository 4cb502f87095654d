"""TapeCut as a gymnasium environment: interface, rewards, ends of episodes, errors.  Its physics has its own file."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st

from softflow.envs import TapeCutEnv, UnstableSimulationError, make_env
from softflow.envs.tape_cut.env import HAND_STEP, RESET_RANGES, STAGE_REWARDS, WRIST_LEASH
from softflow.envs.tape_cut.observation import OBSERVATION_SLICES
from softflow.envs.tape_cut.scene import HAND, WRIST
from tests.envs.episodes import demonstrate, observed


@pytest.fixture(scope="module")
def env() -> TapeCutEnv:
    return TapeCutEnv()


def test_gymnasium_accepts_it() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*Box observation space m.* value is.*infinity")
        made = gymnasium.make("softflow/TapeCut-v0")
        check_env(made.unwrapped, skip_render_check=True)
        made.close()


def test_the_same_seed_gives_the_same_episode() -> None:
    actions = np.random.default_rng(0).uniform(-1, 1, (30, 15))
    one, other = TapeCutEnv(), TapeCutEnv()
    episode = observed(one, actions, 5)
    observed(other, actions, 6)
    np.testing.assert_array_equal(observed(other, actions, 5), episode)
    assert not np.array_equal(observed(other, actions, 6), episode)
    assert not np.array_equal(other.reset()[0], other.reset()[0])


def test_reset_draws_in_the_documented_order(env: TapeCutEnv) -> None:
    observation, _ = env.reset(seed=7)
    rng = np.random.default_rng(7)
    drawn = np.array([rng.uniform(*bounds) for bounds in RESET_RANGES.values()])
    np.testing.assert_allclose(observation[OBSERVATION_SLICES["case"]], drawn[0:3], rtol=1e-6)
    np.testing.assert_allclose(observation[OBSERVATION_SLICES["fixture"]], drawn[3:7], rtol=1e-6)
    np.testing.assert_allclose(
        observation[OBSERVATION_SLICES["wrist_position"]][:4], drawn[10:14], atol=2e-3
    )  # sags while settling


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1))
def test_targets_move_at_a_limited_rate(env: TapeCutEnv, seed: int) -> None:
    env.reset(seed=seed)
    for action in np.random.default_rng(seed).uniform(-1.5, 1.5, (5, 15)):
        old, position = env.targets, env.scene.wrist_position.copy()
        env.step(action)
        assert (np.abs(env.targets - old)[HAND] <= HAND_STEP + 1e-12).all()
        assert (np.abs(env.targets[WRIST] - position) <= WRIST_LEASH + 1e-12).all()
        assert (env.targets >= env.scene.control_low).all() and (env.targets <= env.scene.control_high).all()


def test_actions_beyond_the_bounds_are_clipped(env: TapeCutEnv) -> None:
    action = np.random.default_rng(0).choice([-1.0, 1.0], 15)
    env.reset(seed=1)
    at_bound, *_ = env.step(action)
    env.reset(seed=1)
    beyond, *_ = env.step(7 * action)
    np.testing.assert_array_equal(beyond, at_bound)


@pytest.mark.parametrize("action", [np.zeros(14), np.zeros((1, 15)), np.full(15, np.nan), np.full(15, np.inf)])
def test_bad_actions_are_refused(env: TapeCutEnv, action: np.ndarray) -> None:
    env.reset(seed=0)
    with pytest.raises(ValueError, match="an action"):
        env.step(action)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reward": "stagd"}, "did you mean 'staged'"),
        ({"render_mode": "human"}, "rgb_array"),
        ({"max_steps": 0}, "at least 1"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TapeCutEnv(**options)


def test_sparse_reward_is_paid_once_at_the_cut() -> None:
    *before, last = demonstrate(make_env("tape_cut"), 0, sloppiness=0, noise=0).steps
    assert [step[1] for step in before] == [0.0] * len(before)
    assert last[1] == 1.0 and last[2] and not last[3]
    assert last[4] == {"is_success": True, "stages": dict.fromkeys(STAGE_REWARDS, True)}

    steps = demonstrate(make_env("tape_cut", terminate_on_success=False), 0, sloppiness=0, noise=0).steps
    assert len(steps) == 200 and steps[-1][3] and not any(step[2] for step in steps)
    assert np.flatnonzero([step[1] for step in steps]).tolist() == [len(before)]
    assert all(step[4]["is_success"] == (i >= len(before)) for i, step in enumerate(steps))


def test_staged_reward_pays_each_stage_once() -> None:
    assert sum(STAGE_REWARDS.values()) == 1
    env = make_env("tape_cut", reward="staged")
    regained = 0
    for seed in range(8):
        reached, lifted = dict.fromkeys(STAGE_REWARDS, False), []
        for observation, reward, terminated, _, info in demonstrate(env, seed, sloppiness=2.0).steps:
            new = [stage for stage in reached if info["stages"][stage] and not reached[stage]]
            assert not any(reached[stage] and not info["stages"][stage] for stage in reached)
            assert reward == sum(STAGE_REWARDS[stage] for stage in new)
            assert info["is_success"] == info["stages"]["cut"] == terminated
            reached = info["stages"]
            lifted.append(bool(observation[OBSERVATION_SLICES["lifted"]]))
        regained += np.count_nonzero(np.diff(lifted, prepend=False)) > 2
    assert regained, "in no episode was a stage reached, lost and reached again: choose other seeds"


def test_time_limit_truncates_and_does_not_terminate() -> None:
    env = TapeCutEnv(max_steps=5)
    env.reset(seed=0)
    results = [env.step(np.zeros(15)) for _ in range(5)]
    assert [result[3] for result in results] == [False] * 4 + [True]
    assert not any(result[2] for result in results)


def test_losing_the_scissors_terminates(env: TapeCutEnv) -> None:
    env.reset(seed=0)
    env.scene.scissors_pose[:3] = 0.85, 0.0, 0.1
    _, reward, terminated, truncated, info = env.step(np.zeros(15))
    assert terminated and not truncated and reward == 0 and not info["is_success"]


def test_step_needs_a_reset() -> None:
    with pytest.raises(gymnasium.error.ResetNeeded):
        TapeCutEnv().step(np.zeros(15))


@pytest.mark.parametrize("poison", [np.nan, np.inf, 1e12])
@pytest.mark.parametrize("field", ["qpos", "qvel", "qfrc_applied"])
def test_unstable_simulation_is_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, field: str, poison: float
) -> None:
    monkeypatch.chdir(tmp_path)  # MuJoCo writes a log file where it runs
    env = TapeCutEnv()
    fresh, _ = env.reset(seed=3)
    env.step(np.zeros(15))
    getattr(env.scene.data, field)[8] = poison  # a hinge of the ribbon
    with pytest.raises(UnstableSimulationError, match=r"step 2 of the episode.*reset the environment") as caught:
        env.step(np.zeros(15))
    assert caught.value.step == 2
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(np.zeros(15))
    np.testing.assert_array_equal(env.reset(seed=3)[0], fresh)
    assert np.isfinite(env.step(np.zeros(15))[0]).all()
