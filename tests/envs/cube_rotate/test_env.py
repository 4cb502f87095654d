"""CubeRotate as a gymnasium environment: interface, turns, rewards, ends of episodes, errors."""

from __future__ import annotations

import math
import pickle
import warnings
from pathlib import Path
from typing import Any

import gymnasium
import mujoco
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from softflow.envs import CubeRotateDemonstrator, CubeRotateEnv, UnstableSimulationError
from softflow.envs.cube_rotate import env as cube_rotate
from softflow.envs.cube_rotate.env import ACTION_SPAN, RESET_RANGES
from tests.envs.episodes import observed

HOLD = np.zeros(12)


class TurnTable:
    """In place of the physics: each step turns a cube, tilted by ``tilt`` rad, by ``turn`` rad; it may fall."""

    def __init__(self, env: CubeRotateEnv, turn: float, tilt: float = 0.0) -> None:
        self.env, self.turn, self.tilt = env, turn, tilt
        self.angle, self.height = 0.0, 0.0
        env.yaw = 0.0
        env.scene.advance = self  # type: ignore[method-assign]

    def __call__(self, targets: np.ndarray) -> None:
        scene = self.env.scene
        self.angle += self.turn
        about_vertical = np.array([math.cos(self.angle / 2), 0, 0, math.sin(self.angle / 2)])
        tilting = np.array([math.cos(self.tilt / 2), math.sin(self.tilt / 2), 0, 0])
        scene.cube_pose[:3] = scene.cube_home + scene.palm_position + [0, 0, self.height]
        mujoco.mju_mulQuat(scene.cube_pose[3:], about_vertical, tilting)
        mujoco.mj_kinematics(scene.model, scene.data)


@pytest.fixture
def env() -> CubeRotateEnv:
    return CubeRotateEnv(randomize=False)


def test_gymnasium_accepts_it() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*Box observation space m.* value is.*infinity")
        made = gymnasium.make("softflow/CubeRotate-v0")
        check_env(made.unwrapped, skip_render_check=True)
        made.close()


def test_the_same_seed_gives_the_same_episode() -> None:
    actions = np.random.default_rng(0).uniform(-0.3, 0.3, (30, 12))
    one, other = CubeRotateEnv(), CubeRotateEnv()
    episode = observed(one, actions, 5)
    observed(other, actions, 6)
    np.testing.assert_array_equal(observed(other, actions, 5), episode)
    assert not np.array_equal(observed(other, actions, 6), episode)
    assert not np.array_equal(other.reset()[0], other.reset()[0])


def test_reset_draws_in_the_documented_order() -> None:
    env, rng = CubeRotateEnv(), np.random.default_rng(7)
    env.reset(seed=7)
    drawn = {name: rng.uniform(*bounds) for name, bounds in RESET_RANGES.items()}
    model, nominal = env.scene.model, CubeRotateEnv(randomize=False).scene.model
    body, half = model.body("cube"), drawn["half_size"]
    np.testing.assert_allclose(body.mass, 0.08 * drawn["mass_scale"])
    np.testing.assert_allclose(model.geom("cube").size, half)
    np.testing.assert_allclose(body.inertia, np.full(3, 2 / 3 * body.mass[0] * half**2))  # of a solid cube
    np.testing.assert_allclose(body.subtreemass, body.mass)
    for name in ("thumb_tip", "ring_pad"):
        assert model.geom(name).friction[0] == drawn["friction"] != nominal.geom(name).friction[0]
        np.testing.assert_array_equal(model.geom(name).friction[1:], nominal.geom(name).friction[1:])
    # settled for 0.2 s in the hand
    offset = env.scene.cube_position - env.scene.cube_home
    np.testing.assert_allclose(offset, [drawn[axis] for axis in "xyz"], atol=3e-3)
    assert env.yaw == pytest.approx(drawn["yaw"], abs=0.03)


def test_without_randomization_every_episode_is_the_same(env: CubeRotateEnv) -> None:
    first, _ = env.reset(seed=0)
    np.testing.assert_array_equal(env.reset(seed=1)[0], first)
    for _ in range(200):
        env.step(HOLD)
        assert not env.scene.push.any()


def test_the_cube_is_pushed_now_and_then() -> None:
    env = CubeRotateEnv(max_steps=1000)
    env.reset(seed=0)
    hold = env.joint_action(env.scene.targets)
    pushes = []
    for _ in range(1000):
        env.step(hold)
        pushes.append(np.linalg.norm(env.scene.push))
    pushed = np.array(pushes) > 0
    begins = np.flatnonzero(np.diff(pushed, prepend=False) & pushed)
    assert 5 <= len(begins) <= 35  # 0.02 of 1000, four standard deviations
    assert pushed.sum() == 2 * len(begins)
    assert 0.2 <= np.min(np.array(pushes)[pushed]) and np.max(pushes) <= 0.8


def test_an_action_sets_joint_targets_around_the_nominal_pose(env: CubeRotateEnv) -> None:
    env.reset(seed=0)
    action = np.random.default_rng(0).uniform(-0.2, 0.2, 12)
    env.step(action)
    np.testing.assert_allclose(env.scene.targets, env.scene.nominal_pose + action * ACTION_SPAN)
    np.testing.assert_allclose(env.joint_action(env.scene.targets), action, atol=1e-12)
    env.step(np.full(12, 7.0))
    bound = np.minimum(env.scene.nominal_pose + ACTION_SPAN, env.scene.control_high)
    np.testing.assert_allclose(env.scene.targets, bound)
    assert (env.joint_action(np.full(12, 9.0)) == 1).all()


@pytest.mark.parametrize("action", [np.zeros(11), np.zeros((1, 12)), np.full(12, np.nan), np.full(12, np.inf)])
def test_bad_actions_are_refused(env: CubeRotateEnv, action: np.ndarray) -> None:
    env.reset(seed=0)
    with pytest.raises(ValueError, match="an action"):
        env.step(action)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reward": "stagd"}, "did you mean 'staged'"),
        ({"render_mode": "human"}, "CubeRotate has no render_mode 'human': use 'rgb_array'"),
        ({"camera": "belw"}, "did you mean 'below'"),
        ({"max_steps": 0}, "at least 1"),
        ({"success_turns": 0.0}, "success_turns must be positive and finite, got 0.0"),
        ({"success_turns": math.nan}, "success_turns"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CubeRotateEnv(**options)


# -- turns


@pytest.mark.parametrize(("turn", "tilt"), [(0.3, 0.0), (3.0, 0.0), (-0.3, 0.0), (0.3, 0.7), (-1.1, 0.4)])
def test_full_turns_are_counted_past_the_wrap_around(env: CubeRotateEnv, turn: float, tilt: float) -> None:
    env.reset(seed=0)
    TurnTable(env, turn, tilt)
    for step in range(1, 101):
        *_, info = env.step(HOLD)
        assert info["turns"] == pytest.approx(step * turn / (2 * math.pi))
    assert abs(info["turns"]) > 4


def test_wobbling_is_no_turning(env: CubeRotateEnv) -> None:
    """An upright axis that goes around a cone of 30 degrees, the cube not turning about it."""
    env.reset(seed=0)
    table = TurnTable(env, 0.25, math.radians(30))

    def advance(targets: np.ndarray) -> None:
        table(targets)
        back = np.array([math.cos(table.angle / 2), 0, 0, -math.sin(table.angle / 2)])
        mujoco.mju_mulQuat(env.scene.cube_pose[3:], env.scene.cube_pose[3:].copy(), back)
        mujoco.mj_kinematics(env.scene.model, env.scene.data)

    env.scene.advance = advance  # type: ignore[method-assign]
    for _ in range(100):
        *_, info = env.step(HOLD)
        assert info["turns"] == pytest.approx(0, abs=1e-3)


def test_turns_per_minute_and_both_thresholds(env: CubeRotateEnv) -> None:
    _, info = env.reset(seed=0)
    assert info == {
        "is_success": False, "success_by_turns": {"1.25": False, "3": False},
        "turns": 0.0, "rpm": 0.0, "dropped": False, "peak_torque": 0.0, "penetration": 0.0,
    }  # fmt: skip
    TurnTable(env, 2 * math.pi / 40)  # 40 steps are 2 s: 30 turns per minute
    for step in range(1, 131):
        *_, info = env.step(HOLD)
        assert info["rpm"] == pytest.approx(30)
        if step not in (50, 120):  # there it is 1.25 or 3 up to rounding
            assert info["is_success"] is info["success_by_turns"]["1.25"] is (step > 50)
            assert info["success_by_turns"]["3"] is (step > 120)


# -- rewards and ends


def test_the_staged_reward_pays_turns_less_what_they_cost() -> None:
    env = CubeRotateEnv(randomize=False, reward="staged")
    env.reset(seed=0)
    table = TurnTable(env, 0.3, 0.2)
    # 0.3 rad are 0.04774648 turns; 1 - cos 0.2 = 0.01993342; 12 * 0.5^2 * 8e-5 = 2.4e-4; three turns pay 1
    _, reward, *_ = env.step(np.full(12, 0.5))
    assert reward == pytest.approx((0.04774648 - 0.02 * 0.01993342 - 2.4e-4) / 3, abs=1e-9)
    table.turn = -0.3
    _, reward, *_ = env.step(HOLD)
    assert reward == pytest.approx((-0.04774648 - 0.02 * 0.01993342) / 3, abs=1e-9)
    table.height = -0.04
    _, reward, terminated, *_ = env.step(HOLD)
    assert terminated and reward == pytest.approx((-0.2 - 0.02 * 0.01993342) / 3, abs=1e-9)
    _, reward, *_ = env.step(HOLD)  # a drop costs once
    assert reward == pytest.approx(-0.02 * 0.01993342 / 3, abs=1e-9)


def test_three_turns_pay_one() -> None:
    env = CubeRotateEnv(randomize=False, reward="staged")
    env.reset(seed=0)
    TurnTable(env, 6 * math.pi / 200)
    assert sum(env.step(HOLD)[1] for _ in range(200)) == pytest.approx(1)


def test_the_sparse_reward_adds_up_to_the_success() -> None:
    env = CubeRotateEnv(randomize=False, success_turns=0.1)
    env.reset(seed=0)
    table = TurnTable(env, 0.3)  # 0.0477 turns: the third step makes it
    rewards = [env.step(HOLD)[1] for _ in range(5)]
    assert rewards == [0, 0, 1, 0, 0]
    table.turn = -0.5
    assert [env.step(HOLD)[1] for _ in range(3)] == [0, -1, 0]  # 1.0, then 0.5 rad; 0.628 rad are 0.1 turns
    table.turn = 1.0
    assert env.step(HOLD)[1] == 1
    table.height = -0.04
    _, reward, terminated, truncated, info = env.step(HOLD)
    assert reward == -1 and terminated and not truncated
    assert info["dropped"] and not info["is_success"] and not any(info["success_by_turns"].values())


def test_a_success_ends_the_episode_only_if_asked() -> None:
    for ends in (False, True):
        env = CubeRotateEnv(randomize=False, success_turns=0.1, terminate_on_success=ends)
        env.reset(seed=0)
        TurnTable(env, 0.3)
        assert [env.step(HOLD)[2] for _ in range(3)] == [False, False, ends]


@pytest.mark.parametrize(("axis", "offset"), [(2, -0.036), (0, 0.041), (1, -0.041)])
def test_leaving_the_hand_is_a_drop(env: CubeRotateEnv, axis: int, offset: float) -> None:
    for times, expected in ((0.95, False), (1.0, True)):
        env.reset(seed=0)
        table = TurnTable(env, 0.0)

        def advance(targets: np.ndarray, table: TurnTable = table, moved: float = times * offset) -> None:
            table(targets)
            env.scene.cube_pose[axis] += moved

        env.scene.advance = advance  # type: ignore[method-assign]
        _, _, terminated, _, info = env.step(HOLD)
        assert terminated is info["dropped"] is expected


@pytest.mark.parametrize(("degrees", "dropped"), [(58, False), (62, True)])
def test_tipping_over_is_a_drop(env: CubeRotateEnv, degrees: float, dropped: bool) -> None:
    env.reset(seed=0)
    TurnTable(env, 0.0, math.radians(degrees))
    assert env.step(HOLD)[4]["dropped"] is dropped


def test_after_a_drop_nothing_counts(env: CubeRotateEnv) -> None:
    env.reset(seed=0)
    table = TurnTable(env, 0.3)
    env.step(HOLD)
    table.height = -0.04
    *_, at_drop = env.step(HOLD)
    table.height = 0.0  # lifted back into the hand
    for _ in range(30):
        _, _, terminated, _, info = env.step(HOLD)
        assert terminated and info["dropped"] and not info["is_success"]
        assert info["turns"] == at_drop["turns"] == pytest.approx(0.3 / (2 * math.pi))


def test_time_limit_truncates_and_does_not_terminate() -> None:
    env = CubeRotateEnv(max_steps=5, randomize=False)
    env.reset(seed=0)
    results = [env.step(HOLD) for _ in range(5)]
    assert [result[3] for result in results] == [False] * 4 + [True]
    assert not any(result[2] for result in results)


def test_effort_and_penetration_are_the_largest_so_far() -> None:
    env = CubeRotateEnv()
    env.reset(seed=0)
    demonstrator = CubeRotateDemonstrator(env, np.random.default_rng(0))
    cube, data = env.scene.model.geom("cube").id, env.scene.data
    torque = depth = 0.0
    for _ in range(60):
        *_, info = env.step(demonstrator.act())
        torque = max(torque, np.abs(data.actuator_force).max())
        depth = max([depth, *(-c.dist for c in data.contact if cube in (c.geom1, c.geom2))])
        assert info["peak_torque"] == torque <= 0.6 and info["penetration"] == pytest.approx(depth)
    assert torque > 0.05 and 1e-4 < depth < 4e-3


# -- errors


def test_step_needs_a_reset() -> None:
    with pytest.raises(gymnasium.error.ResetNeeded):
        CubeRotateEnv().step(HOLD)


def test_a_cube_that_cannot_be_held_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cube_rotate.RESET_RANGES, "friction", (0.0, 0.0))
    env = CubeRotateEnv()
    with pytest.raises(RuntimeError, match=r"held none of 20 cubes.*make a new environment"):
        env.reset(seed=0)
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(HOLD)
    monkeypatch.undo()
    env.reset(seed=0)
    env.step(HOLD)


@pytest.mark.parametrize("poison", [np.nan, 1e12])
@pytest.mark.parametrize("field", ["qpos", "qvel", "qfrc_applied"])
def test_unstable_simulation_is_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, field: str, poison: float
) -> None:
    monkeypatch.chdir(tmp_path)  # MuJoCo writes a log file where it runs
    env = CubeRotateEnv()
    fresh, _ = env.reset(seed=3)
    env.step(HOLD)
    getattr(env.scene.data, field)[13] = poison  # of the cube
    with pytest.raises(UnstableSimulationError, match=r"step 2 of the episode.*reset the environment") as caught:
        env.step(HOLD)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(HOLD)
    np.testing.assert_array_equal(env.reset(seed=3)[0], fresh)
    assert np.isfinite(env.step(HOLD)[0]).all()
