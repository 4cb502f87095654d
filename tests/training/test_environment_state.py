"""The state of an environment in the middle of an episode, within its wrappers."""

from __future__ import annotations

from itertools import count
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.wrappers import ClipReward, FlattenObservation, OrderEnforcing, RecordEpisodeStatistics, TimeLimit

from softflow.envs import available_envs, make_env
from softflow.training.environment_state import load_environment, save_environment
from softflow.training.rollout import Rollout
from softflow.training.success import SuccessRule
from softflow.training.vector import vectorize

RESTORABLE = {
    "peg_insertion",
    "two_routes",
    "delayed_corridor",
    "drifting_goal",
    "wrong_mode",
    "tape_cut",
    "cube_rotate",
}


def after(env: gymnasium.Env, steps: int) -> list[Any]:
    """What is seen of that many steps."""
    return [env.step(np.full(env.action_space.shape, 0.1, np.float32)) for _ in range(steps)]


@pytest.mark.parametrize("name", sorted(RESTORABLE & {*available_envs()}))
def test_our_environments_go_on_as_they_would_have(name: str) -> None:
    one, other = make_env(name), make_env(name)
    one.reset(seed=3)
    after(one, 2)
    state = save_environment(one)
    assert state is not None
    other.reset(seed=4)
    load_environment(other, state)
    for expected, got in zip(after(one, 2), after(other, 2), strict=True):
        np.testing.assert_array_equal(got[0], expected[0])
        assert got[1:4] == expected[1:4]


def test_a_time_limit_goes_on_counting(restorable: Any) -> None:
    def make() -> gymnasium.Env:
        return ClipReward(TimeLimit(FlattenObservation(OrderEnforcing(restorable(lambda seed: 100))), 5), 0, 2)

    one, other = make(), make()
    one.reset(seed=3)
    after(one, 3)
    other.reset(seed=8)
    load_environment(other, save_environment(one))  # type: ignore[arg-type]
    first, second = after(other, 2)
    np.testing.assert_array_equal(first[0], [3, 4])
    assert [first[3], second[3]] == [False, True]


class Remembering(gymnasium.Wrapper):
    """Keeps something of an episode."""

    def reset(self, **kwargs: Any) -> Any:
        self.total = 0
        return super().reset(**kwargs)


@pytest.mark.parametrize("wrapper", [Remembering, RecordEpisodeStatistics])
def test_what_a_wrapper_keeps_to_itself_cannot_be_saved(wrapper: Any, restorable: Any) -> None:
    env = wrapper(restorable())
    env.reset(seed=1)
    assert save_environment(env) is None


def test_a_wrapper_may_save_what_it_keeps(counting: Any) -> None:
    class Saving(Remembering):
        def get_state(self) -> dict[str, Any]:
            return {"total": np.array(self.total)}

        def set_state(self, state: dict[str, Any]) -> None:
            self.total = int(state["total"])

    env = Saving(counting())
    env.reset(seed=1)
    env.total = 7
    state = save_environment(env)
    env.reset(seed=1)
    load_environment(env, state)  # type: ignore[arg-type]
    assert env.total == 7


@pytest.mark.parametrize("state", [(1, 2), {"a": object()}, {"a": np.array([None])}, {"a": np.zeros(1, np.longdouble)}])
def test_what_is_not_plain_cannot_be_saved(state: Any, restorable: Any) -> None:
    env = restorable()
    env.reset(seed=1)
    env.get_state = lambda: state
    assert save_environment(env) is None


def needs_arguments(self: Any, indices: Any) -> Any:
    return {}


def fails(self: Any, *state: Any) -> Any:
    raise ZeroDivisionError("no state here")


@pytest.mark.parametrize("get_state", [needs_arguments, fails])
def test_a_get_state_that_means_something_else_saves_nothing(get_state: Any, restorable: Any) -> None:
    env = type("Foreign", (restorable,), {"get_state": get_state})()
    env.reset(seed=1)
    assert save_environment(env) is None


def test_numbers_in_another_byte_order_are_saved_in_this_ones(restorable: Any) -> None:
    env = restorable()
    env.reset(seed=1)
    env.get_state = lambda: {"seed": np.array(1, ">i4"), "steps": np.array(0.5, ">f8")}
    state = save_environment(env)
    assert state is not None and all(value.dtype.isnative for value in state["simulator"].values())
    assert (int(state["simulator"]["seed"]), float(state["simulator"]["steps"])) == (1, 0.5)


def takes_positions(self: Any, qpos: Any, qvel: Any) -> None:
    pass


def does_nothing(self: Any, state: Any) -> None:
    pass


def is_half_done(self: Any, state: Any) -> None:
    self.steps = int(state["steps"])
    raise ZeroDivisionError


@pytest.mark.parametrize("set_state", [takes_positions, does_nothing, is_half_done])
def test_an_episode_is_begun_anew_if_set_state_does_not_lead_back(set_state: Any, restorable: Any) -> None:
    foreign = type("Foreign", (restorable,), {"set_state": set_state})
    first = Rollout(vectorize([foreign], 3), count(7))
    first.execute_chunks(still)
    state = first.state_dict()
    assert state[0]["simulator"] is not None
    second = Rollout(vectorize([foreign], 3), count(8))
    assert second.load_state_dict(state) == 1
    [episode], _ = second.collect(still, 5)
    np.testing.assert_array_equal(episode.observation, [[7, step] for step in range(6)])


@pytest.mark.parametrize(("rule", "success"), [("any", True), ("return>=4", True), ("last", False)])
def test_the_verdict_on_an_episode_goes_on(rule: str, success: bool, restorable: Any) -> None:
    """Success is said in the second step alone, before the checkpoint; the return is 15."""

    class Early(restorable):
        def step(self, action: np.ndarray) -> Any:
            *step, _ = super().step(action)
            return *step, {"is_success": self.steps == 2}

    def environments() -> Any:
        return vectorize([Early], 3, success=SuccessRule(rule))

    first = Rollout(environments(), count())
    first.execute_chunks(still)
    second = Rollout(environments(), count(1))
    assert second.load_state_dict(first.state_dict()) == 0
    [episode], _ = second.execute_chunks(still)
    assert episode.is_success == success


def still(observation: np.ndarray, arms: np.ndarray | None = None) -> np.ndarray:
    return np.zeros((len(observation), 3, 1), np.float32)


def test_without_states_nothing_is_saved(counting: Any) -> None:
    env = counting()
    env.reset(seed=1)
    assert save_environment(env) is None
