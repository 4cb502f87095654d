"""The supervisor of TapeCut: when it takes over, where it goes on, and how often it still solves the task."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest

from softflow.envs import TapeCutDemonstrator, TapeCutSupervisor, make_env, make_supervisor
from softflow.envs.tape_cut.demonstrator import OPEN_WIDTH, SLIP_STEPS
from softflow.envs.tape_cut.supervisor import PATIENCE
from softflow.errors import UserError

IDLE = np.zeros(15)


def demonstrated_until(env: gymnasium.Env, phase: str, mode: int = 0, seed: int = 11) -> TapeCutSupervisor:
    """Has a careful demonstrator act until it enters `phase`, watched by a careful supervisor."""
    env.reset(seed=seed)
    acting = TapeCutDemonstrator(env, np.random.default_rng(seed), mode=mode, sloppiness=0, noise=0)
    supervisor = TapeCutSupervisor(env, np.random.default_rng(seed), sloppiness=0, noise=0)
    while acting.phase != phase:
        env.step(acting.act())
        assert not supervisor.watch()
    return supervisor


def solves(env: gymnasium.Env, supervisor: TapeCutSupervisor) -> bool:
    supervisor.take_over()
    while True:
        _, _, terminated, truncated, info = env.step(supervisor.act())
        if terminated or truncated:
            return info["is_success"]


@pytest.mark.parametrize("mode", range(4))
@pytest.mark.parametrize(
    ("phase", "begins"),
    [("down", "retreat"), ("lift", "lift"), ("carry", "carry"), ("insert", "carry"), ("cut", "insert")],
)
def test_it_goes_on_in_the_phase_and_the_way_that_the_state_asks_for(phase: str, begins: str, mode: int) -> None:
    env = make_env("tape_cut")
    supervisor = demonstrated_until(env, phase, mode)
    assert solves(env, supervisor)
    if begins != "retreat":
        assert supervisor.mode & 2 == mode & 2  # as it was grasped
    if phase in ("insert", "cut"):
        assert supervisor.mode == mode  # and turned to this side


def test_idleness_is_noticed_when_patience_ends() -> None:
    env = make_env("tape_cut")
    env.reset(seed=0)
    supervisor = TapeCutSupervisor(env, np.random.default_rng(0))
    seen = []
    for _ in range(PATIENCE):
        env.step(IDLE)
        seen.append(supervisor.watch())
    assert seen == [False] * (PATIENCE - 1) + [True]


def test_a_new_stage_renews_its_patience() -> None:
    env = make_env("tape_cut")
    supervisor = demonstrated_until(env, "carry")
    steps = env.unwrapped.steps
    assert steps > PATIENCE / 2
    hold = np.concatenate([np.zeros(6), _fingers(env, supervisor._hold_width)])
    waited = 0
    while not supervisor.watch():
        env.step(hold)
        waited += 1
    assert env.unwrapped.grasped and PATIENCE / 2 < waited <= PATIENCE


def test_a_drop_is_noticed_at_once_and_picked_up() -> None:
    env = make_env("tape_cut")
    supervisor = demonstrated_until(env, "carry")
    let_go = np.concatenate([np.zeros(6), _fingers(env, OPEN_WIDTH)])
    waited = 0
    while not supervisor.watch():
        env.step(let_go)
        waited += 1
    assert SLIP_STEPS < waited < PATIENCE / 2
    supervisor.take_over()
    assert supervisor.phase == "retreat"
    while supervisor.phase not in ("lift", "carry") and env.unwrapped.steps < 200:
        env.step(supervisor.act())
    assert env.unwrapped.grasped


def test_an_environment_without_one_says_what_to_do() -> None:
    with pytest.raises(UserError, match=r"nothing in 'Pendulum-v1' can take over .* softflow\.data\.save_corrections"):
        make_supervisor(gymnasium.make("Pendulum-v1"), np.random.default_rng(0))


@pytest.mark.slow
def test_half_of_the_takeovers_from_idleness_succeed(measured: Any) -> None:
    """As many as of its demonstrations, less what the lost time costs."""
    env, successes = make_env("tape_cut"), []
    for seed in range(60):
        env.reset(seed=seed)
        supervisor = TapeCutSupervisor(env, np.random.default_rng(seed))
        for _ in range(PATIENCE):
            env.step(IDLE)
        successes.append(solves(env, supervisor))
    assert 0.4 < measured(np.mean(successes)) < 0.95


def _fingers(env: gymnasium.Env, width: float) -> np.ndarray:
    low, high = env.unwrapped.scene.control_low[6:], env.unwrapped.scene.control_high[6:]
    return 2 * (env.unwrapped.scene.hand.pinch(width) - low) / (high - low) - 1
