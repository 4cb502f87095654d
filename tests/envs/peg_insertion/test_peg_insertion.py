"""Peg insertion: its rules by hand, its states, and its demonstrator."""

from __future__ import annotations

import io
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from softflow.envs import make_demonstrator, make_env, time_limit
from softflow.envs.peg_insertion.env import GRASP_HEIGHT, LENGTH, RIM_HEIGHT, PegInsertionEnv
from softflow.errors import UserError
from softflow.task import TaskSpec

CLOSE, OPEN = 1.0, 0.0
HOLE = (0.15, 0.05)


def placed(gripper: Any, held: bool = False, opening: float = 1.0) -> PegInsertionEnv:
    """A peg lies with its head at (-0.15, 0), or hangs from the gripper; the hole is at `HOLE`."""
    env = PegInsertionEnv()
    env.reset(seed=0)
    head, tail = [-0.15, 0.0, GRASP_HEIGHT], [-0.25, 0.0, GRASP_HEIGHT]
    if held:
        head, tail, opening = [*gripper], [*gripper[:2], gripper[2] - LENGTH], 0.2
    env.state = np.array([*gripper, opening, *head, *tail, *HOLE, held])
    return env


def push(env: PegInsertionEnv, *actions: tuple[float, float, float, float]) -> Any:
    for action in actions:
        result = env.step(np.array(action))
    return result


# ------------------------------------------------------------------------------------------------------- environment


@pytest.mark.filterwarnings("error", "ignore:.*A Box observation space", "ignore:.*recommend")
def test_it_is_an_environment_as_gymnasium_has_them() -> None:
    env = make_env("peg_insertion")
    check_env(env.unwrapped)
    spec = TaskSpec.from_env(env)
    assert [part.name for part in spec.observation] == ["gripper", "head", "hole", "opening", "tail"]
    np.testing.assert_allclose(spec.low, [-0.05, -0.05, -0.03, 0])
    np.testing.assert_allclose(spec.high, [0.05, 0.05, 0.06, 1])
    assert env.observation_space.shape == (12,) and time_limit(env) == 120


def test_an_episode_goes_on_from_its_state_to_the_bit() -> None:
    env = placed([0.0, 0.1, 0.2], held=True)
    file = io.BytesIO()
    np.savez(file, **env.get_state())
    file.seek(0)
    twin = PegInsertionEnv()
    with np.load(file, allow_pickle=False) as arrays:
        twin.set_state(dict(arrays))
    for action in ([0.01, 0.02, 0.0, OPEN], [0.0, 0.0, -0.03, CLOSE]):  # the peg falls in a random direction
        (seen, *ours), (seen_again, *theirs) = env.step(np.array(action)), twin.step(np.array(action))
        for name in seen:
            np.testing.assert_array_equal(seen[name], seen_again[name])
        assert ours == theirs
    assert not env.parts()[5]


def test_seeds_decide() -> None:
    first, same, other = (np.stack([make_env("peg_insertion").reset(seed=s)[0] for s in (3, 4, k)]) for k in (5, 5, 6))
    np.testing.assert_array_equal(first, same)
    assert not np.array_equal(first[2], other[2])


# ----------------------------------------------------------------------------------------------------- rules by hand


def test_moves_are_clipped_to_the_native_bounds() -> None:
    env = placed([-0.2, 0.1, 0.2])
    push(env, (1.0, -1.0, 1.0, OPEN))
    np.testing.assert_allclose(env.state[:3], [-0.15, 0.05, 0.26], atol=1e-8)
    push(env, (0.0, 0.0, -1.0, OPEN))
    np.testing.assert_allclose(env.state[:3], [-0.15, 0.05, 0.23], atol=1e-8)


@pytest.mark.parametrize(("distance", "grasped"), [(0.009, True), (0.011, False)])
def test_the_fingers_grasp_the_head_alone(distance: float, grasped: bool) -> None:
    env = placed([-0.15, distance, GRASP_HEIGHT])
    push(env, (0, 0, 0, 0.51))
    assert not env.parts()[5] and env.parts()[1] == pytest.approx(0.6)
    observation = push(env, (0, 0, 0, 0.51), (0, 0, 0, 0.51))[0]
    assert env.parts()[5] == grasped
    assert observation["opening"] == pytest.approx(0.2 if grasped else 0.0)
    if grasped:  # the peg hangs, with the offset of the grasp
        np.testing.assert_allclose(observation["head"], [0, -distance, 0], atol=1e-7)
        np.testing.assert_allclose(observation["tail"], [0, -distance, -LENGTH], atol=1e-7)


def test_half_a_command_opens() -> None:
    env = placed([-0.15, 0.0, GRASP_HEIGHT])
    push(env, *[(0, 0, 0, 0.5)] * 3)
    assert env.parts()[1] == 1 and not env.parts()[5]


def test_an_opened_gripper_drops_the_peg_clear_of_the_rim() -> None:
    env = placed([0.01, 0.2, 0.3], held=True)
    push(env, (0, 0, 0, OPEN))
    _, opening, head, tail, _, held = env.parts()
    assert not held and opening == pytest.approx(0.6)
    assert head[2] == tail[2] == GRASP_HEIGHT
    assert np.linalg.norm(np.subtract(head, tail)) == pytest.approx(LENGTH)
    assert min(head[0], tail[0]) >= 0.02 and head[1] + tail[1] == pytest.approx(0.4)


@pytest.mark.parametrize(("low", "y", "passes"), [(0.05, 0.1, False), (0.07, 0.1, True), (0.2, 0.0, False)])
@pytest.mark.parametrize("held", [False, True])
def test_the_rim_is_passed_above_and_the_post_beside(low: float, y: float, passes: bool, held: bool) -> None:
    env = placed([-0.03, y, low + (LENGTH if held else 0)], held)
    push(env, (0.05, 0, 0, CLOSE))
    assert env.parts()[0][0] == pytest.approx(0.02 if passes else -0.02)
    push(env, (0, 0, 0, CLOSE), (0, 0, -0.03, CLOSE), (0, 0, -0.03, CLOSE), (0.05, 0, 0, CLOSE))
    assert (env.parts()[0][0] > 0) == passes


def test_on_the_rim_nothing_goes_lower_nor_through_the_post() -> None:
    env = placed([0.0, 0.06, RIM_HEIGHT + 0.01])
    push(env, (0, 0, -0.03, OPEN), (0, -0.05, 0, OPEN))
    np.testing.assert_allclose(env.parts()[0], [0.0, 0.04, RIM_HEIGHT])


@pytest.mark.parametrize(("distance", "inserted"), [(0.004, True), (0.006, False)])
def test_a_narrow_tolerance_decides(distance: float, inserted: bool) -> None:
    env = placed([HOLE[0] + distance, HOLE[1], LENGTH + 0.01], held=True)
    result = push(env, (0, 0, -0.02, CLOSE))
    assert result[1:] == (0.0, False, False, {"is_success": False})
    assert env.parts()[0][2] == pytest.approx(LENGTH - (0.01 if inserted else 0))
    if inserted:  # the hole holds it
        x = env.parts()[0][0]
        result = push(env, (0.05, 0.05, -0.02, CLOSE))
        assert env.parts()[0][0] == x
    else:
        result = push(env, (0, 0, -0.02, CLOSE))
    assert result[1:] == (float(inserted), inserted, False, {"is_success": inserted})


def test_an_empty_gripper_inserts_nothing() -> None:
    env = placed([*HOLE, 0.01])
    assert push(env, (0, 0, -0.03, CLOSE), (0, 0, -0.03, CLOSE))[2] is False
    assert env.parts()[0][2] == 0


def test_an_episode_ends_after_120_steps() -> None:
    env = placed([0.1, 0.1, 0.2])
    ends = [env.step(np.zeros(4))[2:4] for _ in range(120)]
    assert ends[118] == (False, False) and ends[119] == (False, True)
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(np.zeros(4))


# --------------------------------------------------------------------------------------------------- demonstrations


def demonstrate(episodes: int, **options: Any) -> tuple[float, list[float], np.ndarray]:
    """Success, the sides on which the rim was passed, and all actions."""
    env, rng, successes, sides, actions = make_env("peg_insertion"), np.random.default_rng(0), [], [], []
    for seed in range(episodes):
        env.reset(seed=seed)
        demonstrator, done = make_demonstrator(env, rng, **options), False
        while not done:
            actions.append(demonstrator.act())
            before = env.unwrapped.parts()
            _, _, terminated, truncated, info = env.step(actions[-1])
            if before[5] and before[0][0] < 0 <= env.unwrapped.parts()[0][0]:
                sides.append(float(np.sign(before[0][1])))
            done = terminated or truncated
        successes.append(info["is_success"])
    return float(np.mean(successes)), sides, np.array(actions)


def test_demonstrations_are_sloppy_and_go_both_ways() -> None:
    success, sides, actions = demonstrate(150)
    assert 0.85 < success < 0.98
    assert 0.35 < np.mean(np.array(sides) > 0) < 0.65
    assert {*actions[:, 3].tolist()} == {-1.0, 1.0}
    assert np.abs(actions[:, :3] - [0, 0, -1 / 3]).max() < 0.85  # moves are small compared with the bounds


@pytest.mark.parametrize(("mode", "side"), [(0, 1.0), (1, -1.0)])
def test_without_noise_each_way_leads_to_the_hole(mode: int, side: float) -> None:
    success, sides, _ = demonstrate(20, mode=mode, noise=0.0)
    assert success == 1 and sides == [side] * 20


@pytest.mark.parametrize(
    ("options", "message"),
    [({"mode": 2}, "mode must be 0 or 1, got 2"), ({"noise": -1.0}, "noise must not be negative")],
)
def test_the_demonstrator_refuses_what_it_cannot_do(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        demonstrate(1, **options)
