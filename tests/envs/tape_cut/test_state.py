"""Saving and restoring TapeCut: what follows is the same to the bit, in another instance and across the cut."""

from __future__ import annotations

import numpy as np
import pytest

from softflow.envs import TapeCutDemonstrator, TapeCutEnv
from softflow.envs.tape_cut.env import OPEN_GAP
from softflow.envs.tape_cut.observation import OBSERVATION_SLICES
from tests.envs.episodes import State, after, assert_can_be_looked_at, assert_same, stored


def until(env: TapeCutEnv, demonstrator: TapeCutDemonstrator, phase: str) -> None:
    while demonstrator.phase != phase:
        env.step(demonstrator.act())


@pytest.fixture(scope="module")
def states() -> dict[str, State]:
    """States of one episode: on its way, with the ribbon between the blades, and some steps after the cut."""
    env = TapeCutEnv(terminate_on_success=False)
    env.reset(seed=4)
    demonstrator = TapeCutDemonstrator(env, np.random.default_rng(0), sloppiness=0, noise=0)
    found = {}
    for name, phase in (("lifting", "lift"), ("closing", "cut")):
        until(env, demonstrator, phase)
        found[name] = env.get_state()
    while not env.cut:
        env.step(demonstrator.act())
    for _ in range(5):
        env.step(demonstrator.act())
    found["severed"] = env.get_state()
    return found


@pytest.mark.parametrize("name", ["lifting", "closing", "severed"])
@pytest.mark.parametrize("dirt", ["fresh", "lifting", "severed"])
def test_stepping_after_a_restore_is_identical(states: dict[str, State], name: str, dirt: str) -> None:
    actions = np.random.default_rng(1).uniform(-0.5, 0.5, (40, 15))
    one, other = TapeCutEnv(terminate_on_success=False), TapeCutEnv(terminate_on_success=False)
    first = one.set_state(states[name])
    if dirt == "fresh":
        other.reset(seed=99)
    else:
        other.set_state(states[dirt])
        after(other, actions[:3])
    np.testing.assert_array_equal(other.set_state(stored(states[name])), first)
    assert one.cut == other.cut == (name == "severed")
    assert_same(after(one, actions), after(other, actions))


def test_a_restored_state_is_the_one_that_was_left() -> None:
    env = TapeCutEnv()
    env.reset(seed=2)
    demonstrator = TapeCutDemonstrator(env, np.random.default_rng(0), sloppiness=0, noise=0)
    until(env, demonstrator, "carry")
    left, *_ = env.step(demonstrator.act())
    assert left[OBSERVATION_SLICES["touch"]].any()
    state = env.get_state()
    actions = np.random.default_rng(3).uniform(-1, 1, (30, 15))
    direct = after(env, actions)
    other = TapeCutEnv()
    np.testing.assert_array_equal(other.set_state(state), left)
    assert_same(direct, after(other, actions))


def test_a_cut_half_done_is_finished_elsewhere() -> None:
    env = TapeCutEnv()
    env.reset(seed=4)
    demonstrator = TapeCutDemonstrator(env, np.random.default_rng(0), sloppiness=0, noise=0)
    while not (env.armed and env.geometry.gap < OPEN_GAP):  # too far shut to be armed afresh
        env.step(demonstrator.act())
    other = TapeCutEnv()
    other.set_state(env.get_state())
    while not env.cut:
        action = demonstrator.act()
        env.step(action)
        *_, info = other.step(action)
    assert info["is_success"]


def test_the_cut_is_restored_and_mended(states: dict[str, State]) -> None:
    fields = ("geom_size", "geom_pos", "geom_aabb", "geom_rbound", "bvh_aabb", "geom_contype", "geom_conaffinity")

    def ribbon(env: TapeCutEnv) -> list[np.ndarray]:
        return [getattr(env.scene.model, field).copy() for field in fields]

    env = TapeCutEnv()
    whole = ribbon(env)
    env.set_state(states["severed"])
    severed, seam = ribbon(env), env.scene.model.equality("seam").id
    assert not env.scene.data.eq_active[seam]
    assert not any(np.array_equal(a, b) for a, b in zip(whole, severed, strict=True))
    upper, lower = (env.scene.model.geom(name).size[2] for name in ("ribbon_upper", "ribbon_lower"))
    assert upper + lower == pytest.approx(2 * 0.0295)

    env.set_state(states["closing"])
    assert env.scene.data.eq_active[seam]
    for now, before in zip(ribbon(env), whole, strict=True):
        np.testing.assert_array_equal(now, before)


def test_a_restored_state_can_be_looked_at(states: dict[str, State]) -> None:
    env = TapeCutEnv()
    env.set_state(states["lifting"])
    assert_can_be_looked_at(env, 0.02)


def test_an_incomplete_state_is_refused(states: dict[str, State]) -> None:
    state = {name: value for name, value in states["lifting"].items() if name != "armed"}
    with pytest.raises(KeyError, match="armed"):
        TapeCutEnv().set_state(state)
