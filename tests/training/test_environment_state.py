"""The state of an environment in the middle of an episode, within its wrappers."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.wrappers import ClipReward, FlattenObservation, OrderEnforcing, RecordEpisodeStatistics, TimeLimit

from softflow.envs import available_envs, make_env
from softflow.training.environment_state import load_environment, save_environment

RESTORABLE = {"two_routes", "delayed_corridor", "drifting_goal", "wrong_mode", "tape_cut", "cube_rotate"}


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


def test_without_states_nothing_is_saved(counting: Any) -> None:
    env = counting()
    env.reset(seed=1)
    assert save_environment(env) is None
