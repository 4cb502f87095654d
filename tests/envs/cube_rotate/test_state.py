"""Saving and restoring CubeRotate: the future is the same to the bit, elsewhere and in the midst of a push."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from softflow.envs import CubeRotateDemonstrator, CubeRotateEnv
from tests.envs.episodes import State, after, assert_can_be_looked_at, assert_same, stored

ACTIONS = np.random.default_rng(1).uniform(-0.3, 0.3, (40, 12))
MODEL_FIELDS = (
    "body_mass", "body_inertia", "body_subtreemass", "body_invweight0", "dof_invweight0",
    "geom_size", "geom_pos", "geom_aabb", "geom_rbound", "geom_friction", "bvh_aabb",
)  # fmt: skip


def dropped(env: CubeRotateEnv) -> bool:
    return env.dropped


def pushed(env: CubeRotateEnv) -> bool:
    return env.push_steps == 1 and env.steps > 10 and not env.dropped


def turned(env: CubeRotateEnv) -> bool:
    return env.turns > 0.6 and not env.dropped


def first_state(reached: Callable[[CubeRotateEnv], bool]) -> State:
    """Return the first such state of a demonstration. It differs between processors, as contacts amplify rounding."""
    env = CubeRotateEnv(reward="staged")
    for seed in range(50):
        env.reset(seed=seed)
        demonstrator = CubeRotateDemonstrator(env, np.random.default_rng(seed), mode=seed % 4)
        while env.steps < 200 and not env.dropped:
            env.step(demonstrator.act())
            if reached(env):
                return env.get_state()
    raise AssertionError(f"no demonstration was {reached.__name__}")


@pytest.fixture(scope="module")
def states() -> dict[str, State]:
    """States within a push, after more than half a turn, and after a drop."""
    return {reached.__name__: first_state(reached) for reached in (pushed, turned, dropped)}


@pytest.mark.parametrize("name", ["pushed", "turned", "dropped"])
@pytest.mark.parametrize("dirt", ["fresh", "pushed", "dropped"])
def test_stepping_after_a_restore_is_identical(states: dict[str, State], name: str, dirt: str) -> None:
    one, other = CubeRotateEnv(reward="staged"), CubeRotateEnv(reward="staged")
    first = one.set_state(states[name])
    if dirt == "fresh":
        other.reset(seed=99)
    else:
        other.set_state(states[dirt])
        after(other, ACTIONS[:3])
    np.testing.assert_array_equal(other.set_state(stored(states[name])), first)
    assert one.dropped == other.dropped == (name == "dropped")
    assert one.scene.push.any() == other.scene.push.any() == (name == "pushed")
    assert_same(after(one, ACTIONS), after(other, ACTIONS))


def test_a_restored_state_is_the_one_that_was_left() -> None:
    env = CubeRotateEnv()
    env.reset(seed=2)
    demonstrator = CubeRotateDemonstrator(env, np.random.default_rng(0))
    for _ in range(50):
        left, *_ = env.step(demonstrator.act())
    state, model = env.get_state(), [getattr(env.scene.model, field).copy() for field in MODEL_FIELDS]
    direct = after(env, ACTIONS)
    other = CubeRotateEnv()
    np.testing.assert_array_equal(other.set_state(state), left)
    for field, values in zip(MODEL_FIELDS, model, strict=True):
        np.testing.assert_array_equal(getattr(other.scene.model, field), values)
    assert_same(direct, after(other, ACTIONS))


def test_a_restored_state_can_be_looked_at(states: dict[str, State]) -> None:
    env = CubeRotateEnv()
    env.set_state(states["turned"])
    assert_can_be_looked_at(env, 0.05)


def test_an_incomplete_state_is_refused(states: dict[str, State]) -> None:
    state = {name: value for name, value in states["turned"].items() if name != "push_steps"}
    with pytest.raises(KeyError, match="push_steps"):
        CubeRotateEnv().set_state(state)
