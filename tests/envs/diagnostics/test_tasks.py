"""The diagnostic tasks: their rules by hand, their optimal returns, their demonstrations, and what each tells apart."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.studies.diagnostics import Result, compare
from softflow.envs import make_demonstrator, make_env
from softflow.envs.diagnostics.demonstrators import TwoRoutesDemonstrator
from softflow.envs.diagnostics.tasks import (
    STEP,
    DelayedCorridorEnv,
    DiagnosticTask,
    DriftingGoalEnv,
    TwoRoutesEnv,
    WrongModeEnv,
)

Act = Callable[[], np.ndarray]

TASKS = {
    "two_routes": TwoRoutesEnv,
    "delayed_corridor": DelayedCorridorEnv,
    "drifting_goal": DriftingGoalEnv,
    "wrong_mode": WrongModeEnv,
}
every_task = pytest.mark.parametrize("task", TASKS)


def play(env: gymnasium.Env, act: Act) -> tuple[list[float], bool, bool]:
    """The rest of an episode: rewards, whether it ended in a terminal state, success."""
    rewards = []
    while True:
        _, reward, terminated, truncated, info = env.step(act())
        rewards.append(reward)
        if terminated or truncated:
            return rewards, terminated, info["is_success"]


def started(task: str, seed: int = 0) -> DiagnosticTask:
    env = TASKS[task]()
    env.reset(seed=seed)
    return env


# ------------------------------------------------------------------------------------------------------ environments


@every_task
@pytest.mark.filterwarnings("error", "ignore:.*A Box observation space")
def test_it_is_an_environment_as_gymnasium_has_them(task: str) -> None:
    env = make_env(task).unwrapped
    assert isinstance(env, TASKS[task])
    check_env(env)


@every_task
def test_seeds_decide(task: str) -> None:
    first, same, other = (
        np.stack([started(task, seed).reset()[0] for seed in seeds]) for seeds in (range(9), range(9), range(50, 59))
    )
    np.testing.assert_array_equal(first, same)
    assert not np.array_equal(first, other)


@every_task
def test_an_episode_goes_on_from_its_state_to_the_bit(task: str) -> None:
    env, actions = started(task), np.random.default_rng(0).uniform(-1, 1, (3, *TASKS[task]().action_space.shape))
    env.step(actions[0])
    file = io.BytesIO()
    np.savez(file, **env.get_state())
    file.seek(0)
    twin = TASKS[task]()
    with np.load(file, allow_pickle=False) as arrays:
        restored = twin.set_state(dict(arrays))
    np.testing.assert_array_equal(restored, env._observe().astype(np.float32))
    for action in actions[1:]:
        (seen, *ours), (seen_again, *theirs) = env.step(action), twin.step(action)
        np.testing.assert_array_equal(seen, seen_again)
        assert ours == theirs
    np.testing.assert_array_equal(env.reset()[0], twin.reset()[0])


@every_task
def test_what_is_no_action_is_refused(task: str) -> None:
    env = TASKS[task]()
    shape = env.action_space.shape
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(np.zeros(shape))
    env.reset(seed=0)
    for action, message in ((np.zeros(5), "an action has shape"), (np.full(shape, np.nan), "must be finite")):
        with pytest.raises(ValueError, match=message):
            env.step(action)
    play(env, lambda: np.zeros(shape))
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(np.zeros(shape))


# ------------------------------------------------------------------------------------------------------ rules by hand


def test_two_routes_by_hand() -> None:
    env = started("two_routes")
    assert env.state[0] == -0.65 and abs(env.state[1]) <= 0.02
    env.state = np.array([-0.63, 0.01])
    observation, *rest = env.step(np.array([0.5, -2.0]))  # clipped to -1
    np.testing.assert_allclose(observation, [-0.58, -0.09], rtol=1e-6)
    assert rest == [0.0, False, False, {"is_success": False}]
    assert env.step(np.array([1.0, 0.9]))[1:] == (0.0, True, False, {"is_success": False})  # (-0.48, 0): in the disc
    for x, reached in ((0.84, False), (0.86, True)):  # the goal begins 0.15 m before x = 1
        env.reset()
        env.state = np.array([x, 0.0])
        assert env.step(np.zeros(2))[1:] == (float(reached), reached, False, {"is_success": reached})


@pytest.mark.parametrize(("corridor", "right"), [(0, 0), (1, 1), (2, 1), (3, 0)])
@pytest.mark.parametrize("lane", [0, 1])
def test_the_delayed_corridor_by_hand(corridor: int, right: int, lane: int) -> None:
    env = started("delayed_corridor")
    env.state[0] = corridor
    env.step(np.array([0.1 if lane else -0.1]))
    assert env._observe().nonzero()[0] == [65 * corridor + 1 + lane]
    rewards, terminated, success = play(env, lambda: np.array([1.0 - 2 * lane]))  # too late
    assert rewards == [0.0] * 30 + [1.0 if lane == right else 0.5]
    assert terminated and success == (lane == right)


def test_every_cell_of_the_corridors_looks_like_no_other() -> None:
    seen = []
    for corridor in range(4):
        for lane in (-1.0, 1.0):
            env = started("delayed_corridor")
            env.state[0] = corridor
            seen.append(env._observe())
            while env._running:
                seen.append(env.step(np.array([lane]))[0])
    assert len(np.unique(seen, axis=0)) == 260 and np.sum(seen, 1).tolist() == [1] * len(seen)


def test_the_drifting_goal_by_hand() -> None:
    env = started("drifting_goal")
    env.state = np.array([0.0, 0.0, 0.2, -0.06])
    observation, *_ = env.step(np.array([0.5, 0.1]))
    np.testing.assert_allclose(observation, [0.05, 0.01, 0.15, -0.07, 0.75], rtol=1e-6)
    for action in ([1.0, -1.0], [0.3, 0.5]):
        assert env.step(np.array(action))[1:] == (0.0, False, False, {"is_success": False})
    *_, reward, terminated, truncated, info = env.step(np.array([0.2, 0.0]))
    # It ends at (0.2, -0.04), the goal is at (0.23, -0.02): 0.0013 m^2 away.
    assert reward == pytest.approx(1 / (1 + 0.0013 / 0.0025))
    assert (terminated, truncated, info) == (True, False, {"is_success": False})


@pytest.mark.parametrize("signal", [-1.0, 1.0])
def test_the_wrong_mode_by_hand(signal: float) -> None:
    for y, reward, success in ((0.6 * signal, 1.0, True), (-0.6 * signal, 0.25, False)):
        env = started("wrong_mode")
        env.state = np.array([0.2, y, signal])
        assert env.step(np.array([0.4, 0.0]))[1:] == (0.0, False, False, {"is_success": False})  # 0.16 m away
        observation, *rest = env.step(np.array([0.2, 0.0]))
        np.testing.assert_allclose(observation, [0.26, y, signal], rtol=1e-6)
        assert rest == [reward, True, False, {"is_success": success}]


# --------------------------------------------------------------------------------------------------- optimal returns


def optimal(env: gymnasium.Env) -> Act:
    """Acts knowing all of the state and the rules."""
    task, mode = env.unwrapped, 0
    if isinstance(task, DriftingGoalEnv):
        velocity = (task.state[2:] + task.DRIFT) / (STEP * task.MAX_STEPS)
        return lambda: velocity
    if isinstance(task, DelayedCorridorEnv):
        mode = task.CORRECT_LANE[int(task.state[0])]
    elif isinstance(task, WrongModeEnv):
        mode = int(task.state[2] < 0)
    return exact(env, mode).act


def exact(env: gymnasium.Env, mode: int = 0) -> Any:
    """The demonstrator without its noise."""
    return make_demonstrator(env, np.random.default_rng(0), mode=mode, noise=0.0)


@every_task
def test_the_optimal_return_is_reached(task: str) -> None:
    env = make_env(task)
    for seed in range(20):
        env.reset(seed=seed)
        rewards, terminated, success = play(env, optimal(env))
        assert sum(rewards) == pytest.approx(TASKS[task].OPTIMAL_RETURN, abs=1e-12)
        assert terminated and success


@every_task
@given(seed=st.integers(0, 1000), hold=st.integers(1, 8))
def test_nothing_exceeds_it(task: str, seed: int, hold: int) -> None:
    """No step but the last is paid, and that one at most 1."""
    env, rng, actions = started(task, seed), np.random.default_rng(seed), []

    def act() -> np.ndarray:
        actions.append(actions[-1] if len(actions) % hold else rng.uniform(-1, 1, env.action_space.shape))
        return actions[-1]

    rewards, terminated, success = play(env, act)
    assert not any(rewards[:-1]) and 0 <= rewards[-1] <= env.OPTIMAL_RETURN
    assert len(rewards) <= env.MAX_STEPS and (terminated or len(rewards) == env.MAX_STEPS)
    assert not success or rewards[-1] >= 0.8


# ----------------------------------------------------------------------------------------------------- demonstrations


@pytest.mark.parametrize(
    ("task", "mean_return", "success"),
    [
        ("two_routes", (1.0, 1.0), (1.0, 1.0)),
        ("delayed_corridor", (0.7, 0.8), (0.4, 0.6)),
        ("drifting_goal", (0.48, 0.52), (0.0, 0.0)),
        ("wrong_mode", (0.55, 0.7), (0.4, 0.6)),
    ],
)
def test_demonstrations(task: str, mean_return: tuple[float, float], success: tuple[float, float]) -> None:
    """What the docstrings say of their return; the numbers of the two middle ones are means of coin tosses."""
    env, rng, modes, returns, successes = make_env(task), np.random.default_rng(0), [], [], []
    for seed in range(200):
        env.reset(seed=seed)
        demonstrator = make_demonstrator(env, rng)
        rewards, terminated, is_success = play(env, demonstrator.act)
        assert terminated
        modes.append(demonstrator.mode)
        returns.append(sum(rewards))
        successes.append(is_success)
    assert mean_return[0] <= np.mean(returns) <= mean_return[1]
    assert success[0] <= np.mean(successes) <= success[1]
    assert np.mean(modes) == 0 if task == "drifting_goal" else 0.4 < np.mean(modes) < 0.6
    assert min(returns) > 0  # all of it is imitated


def test_demonstrators_refuse_what_they_cannot_do() -> None:
    env, rng = make_env("wrong_mode"), np.random.default_rng(0)
    env.reset(seed=0)
    with pytest.raises(ValueError, match="TwoRoutesDemonstrator cannot act in"):
        TwoRoutesDemonstrator(env, rng)
    with pytest.raises(ValueError, match=r"mode must be in 0 \.\.\. 1, got 2"):
        make_demonstrator(env, rng, mode=2)


# --------------------------------------------------------------------------------------- what they are made to tell


def test_between_the_two_routes_is_the_disc() -> None:
    env = make_env("two_routes")
    env.reset(seed=0)
    env.unwrapped.state = np.array([TwoRoutesEnv.START_X, 0.0])
    above, below = (exact(env, mode).act() for mode in (0, 1))
    assert above[1] > 0.7 and below[1] < -0.7
    rewards, terminated, success = play(env, lambda: (above + below) / 2)
    assert len(rewards) <= 4 and terminated and not success


def test_a_small_residual_reaches_the_drifted_goal() -> None:
    env = make_env("drifting_goal")
    residual = np.array([0.075, 0.1])  # the drift over the four steps' 0.4 m
    assert np.linalg.norm(residual) == pytest.approx(0.125)
    for added, reward in ((np.zeros(2), 0.5), (residual, 1.0)):
        env.reset(seed=0)
        chunk = exact(env).act()
        rewards, _, _ = play(env, lambda chunk=chunk, added=added: chunk + added)
        assert rewards[-1] == pytest.approx(reward, abs=1e-9)


@pytest.mark.parametrize("mode", [0, 1])
def test_a_bounded_residual_ends_at_the_goal_of_its_mode(mode: int) -> None:
    """With the largest one that the preset allows, all the way against the mode."""
    env = make_env("wrong_mode")
    env.reset(seed=0)
    demonstrator, against = exact(env, mode), np.array([0.0, -0.2 if mode == 0 else 0.2])
    play(env, lambda: demonstrator.act() + against)
    assert (env.unwrapped.state[1] > 0) == (mode == 0)


def trained(task: str, folder: Path) -> dict[str, Result]:
    return compare(task, folder, seed=0)


@pytest.mark.slow
def test_a_gaussian_fails_where_a_mixture_flow_succeeds(tmp_path: Path) -> None:
    results = trained("two_routes", tmp_path)
    assert results["Gaussian"].success_rate < 0.1 and results["mixture flow"].success_rate > 0.9


@pytest.mark.slow
def test_a_critic_of_chunks_knows_the_lane_before_one_of_steps(tmp_path: Path) -> None:
    results = trained("delayed_corridor", tmp_path)
    assert results["critic of steps"].success_rate < 0.8 and results["critic of chunks"].success_rate > 0.9


@pytest.mark.slow
def test_a_residual_is_enough_for_a_drift(tmp_path: Path) -> None:
    results = trained("drifting_goal", tmp_path)
    assert all(results[method].success_rate < 0.1 for method in ("base", "latent"))
    assert results["residual"].success_rate > 0.8


@pytest.mark.slow
def test_only_the_latent_leaves_a_wrong_mode(tmp_path: Path) -> None:
    """The base takes either mode, how often by chance; the residual leaves that as it is."""
    results = trained("wrong_mode", tmp_path)
    base, residual = (results[method].success_rate for method in ("base", "residual"))
    assert 0.2 < base < 0.8 and abs(residual - base) < 0.1
    assert all(results[method].success_rate > 0.9 for method in ("latent", "both"))
