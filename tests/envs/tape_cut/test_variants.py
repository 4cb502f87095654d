"""Harder variants of TapeCut by options: other scissors and pads, late actions, mistaken positions."""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np
import pytest

from softflow.envs import CubeRotateEnv, TapeCutDemonstrator, TapeCutEnv
from softflow.envs.tape_cut.env import VARIATION_RANGES
from softflow.envs.tape_cut.observation import OBSERVATION_SIZE, OBSERVATION_SLICES
from softflow.envs.tape_cut.scene import TapeCutScene, Variation
from softflow.errors import UserError
from tests.envs.episodes import observed

ACTIONS = np.random.default_rng(0).uniform(-1, 1, (12, 15))
HARD: dict[str, Any] = {"randomize": True, "latency": 2, "sensor_noise": 0.002}


def test_the_same_seed_gives_the_same_episode() -> None:
    one, other = TapeCutEnv(**HARD), TapeCutEnv(**HARD)
    seen = observed(one, ACTIONS, 3)
    observed(other, ACTIONS, 4)
    np.testing.assert_array_equal(observed(other, ACTIONS, 3), seen)


# -- other scissors and pads


def test_the_variation_is_drawn_after_the_places() -> None:
    env = TapeCutEnv(randomize=True)
    env.reset(seed=5)
    plain = TapeCutEnv()
    plain.reset(seed=5)
    np.testing.assert_array_equal(env.fixture, plain.fixture)
    assert plain.scene.variation == Variation()
    varied = vars(env.scene.variation)
    assert list(varied) == list(VARIATION_RANGES) and 1.0 not in varied.values()
    for name, (low, high) in VARIATION_RANGES.items():
        assert low < varied[name] < high


def test_a_variation_scales_what_it_names() -> None:
    scene, nominal = TapeCutScene(), TapeCutScene().model
    scene.vary(Variation(pad_friction=0.5, scissors_mass=2.0, spring=3.0))
    scene.vary(Variation(pad_friction=0.8, scissors_mass=1.25, spring=0.5))  # not on top of the first
    for name, factor in (("thumb_pad_left", 0.8), ("first_pad", 0.8), ("palm", 1.0), ("grip_a", 1.0)):
        assert scene.model.geom(name).friction[0] == pytest.approx(factor * nominal.geom(name).friction[0])
    for name, factor in (("scissors_a", 1.25), ("scissors_b", 1.25), ("palm", 1.0)):
        assert scene.model.body(name).mass == pytest.approx(factor * nominal.body(name).mass)
        np.testing.assert_allclose(scene.model.body(name).inertia, factor * nominal.body(name).inertia)
    assert scene.model.joint("hinge").stiffness == pytest.approx(0.5 * nominal.joint("hinge").stiffness)


def test_nothing_of_a_cut_ribbon_stays_in_the_model() -> None:
    """What MuJoCo derives anew for a variation is of a whole ribbon."""
    scene, fresh = TapeCutScene(), TapeCutScene()
    scene.sever(0.01)
    scene.vary(Variation())
    for name in ("bvh_aabb", "geom_aabb", "geom_size", "geom_pos", "geom_rbound", "dof_length", "dof_invweight0"):
        np.testing.assert_allclose(getattr(scene.model, name), getattr(fresh.model, name), atol=1e-9)


def test_heavier_scissors_weigh_more_in_the_hand() -> None:
    """The case carries the scissors: what it is pressed with is their weight."""
    pressed = []
    for scale in (1.0, 1.5):
        env = TapeCutEnv()
        env.scene.vary(Variation(scissors_mass=scale))
        env.reset(seed=0)
        for _ in range(10):
            env.step(np.zeros(15))
        force = np.zeros(6)
        total = 0.0
        for index, contact in enumerate(env.scene.data.contact):
            names = {env.scene.model.geom(int(geom)).name for geom in contact.geom}
            if "case_foam" in names:
                mujoco.mj_contactForce(env.scene.model, env.scene.data, index, force)
                total += force[0]
        pressed.append(total)
    assert pressed[0] == pytest.approx(0.058 * 9.81, rel=0.05)
    assert pressed[1] == pytest.approx(1.5 * pressed[0], rel=0.05)


def test_the_state_carries_variation_and_late_actions() -> None:
    one, other = TapeCutEnv(**HARD), TapeCutEnv(**HARD)
    observed(one, ACTIONS[:5], 3)
    observed(other, ACTIONS[:2], 9)
    state = one.get_state()
    np.testing.assert_array_equal(one.set_state(state), other.set_state(state))
    for action in ACTIONS:
        np.testing.assert_array_equal(one.step(action)[0], other.step(action)[0])
    np.testing.assert_array_equal(one.reset()[0], other.reset()[0])


# -- late actions


@pytest.mark.parametrize("make", [TapeCutEnv, CubeRotateEnv])
@pytest.mark.parametrize("latency", [1, 2])
def test_late_actions_do_what_they_would_have_done_earlier(make: type[Any], latency: int) -> None:
    """As long as nothing happens before the first: joint targets then follow as if sent so much later."""
    late, timely = make(latency=latency), make()
    late.reset(seed=1)
    timely.reset(seed=1)
    before = late.scene.data.ctrl.copy()
    actions = ACTIONS[:, : late.action_space.shape[0]]
    for step in range(latency):
        late.step(actions[step])
        np.testing.assert_array_equal(late.scene.data.ctrl, before)
    for step in range(latency, 6):
        late.step(actions[step])
        timely.step(actions[step - latency])
    if make is CubeRotateEnv:  # absolute targets: the very same
        np.testing.assert_array_equal(late.scene.data.ctrl, timely.scene.data.ctrl)
    else:  # wrist targets are on a leash, whose other end has moved on a little
        np.testing.assert_allclose(late.targets, timely.targets, atol=2e-3)


# -- mistaken positions


def test_mistakes_are_as_large_as_said_and_consistent(measured: Any) -> None:
    env, deviation = TapeCutEnv(sensor_noise=0.004), 0.004
    env.reset(seed=0)
    exact = TapeCutEnv()
    truth, _ = exact.reset(seed=0)
    seen = np.array([env._observe() for _ in range(4000)])
    error = seen - truth

    def of(name: str) -> np.ndarray:
        return error[:, OBSERVATION_SLICES[name]]

    for name in ("pivot", "seam"):
        assert measured(np.abs(of(name).std(0) / deviation - 1).max()) < 0.1
        assert measured(np.abs(of(name).mean(0)).max() / (deviation / np.sqrt(4000))) < 6
    np.testing.assert_allclose(of("fixture")[:, :3], of("seam"), atol=1e-6)  # one error moves them together
    heading = seen[:, OBSERVATION_SLICES["heading"]]
    yaw = np.arctan2(heading[:, 1], heading[:, 0])
    assert measured(abs(yaw.std() / (10 * deviation) - 1)) < 0.1
    # what is told of the seam in the scissors' frame follows from where both are seen
    normal = seen[:, OBSERVATION_SLICES["normal"]]
    lateral = np.cross(normal, heading)
    axes = np.stack([heading, lateral, normal], 1)
    offset = seen[:, OBSERVATION_SLICES["seam"]] - seen[:, OBSERVATION_SLICES["pivot"]]
    told = seen[:, OBSERVATION_SLICES["seam_in_scissors"]] / 5
    np.testing.assert_allclose(told, np.einsum("nij,nj->ni", axes, offset), atol=1e-5)
    for name in ("wrist_position", "hand_position", "touch", "opening", "case", "grasped"):
        assert not of(name).any()


def test_mistakes_do_not_touch_the_physics() -> None:
    noisy, exact = TapeCutEnv(sensor_noise=0.01), TapeCutEnv()
    assert not np.array_equal(observed(noisy, ACTIONS, 3), observed(exact, ACTIONS, 3))
    np.testing.assert_array_equal(noisy.scene.data.qpos, exact.scene.data.qpos)


# -- all of it


def test_a_careful_demonstrator_copes(measured: Any) -> None:
    """It knows what is on its way, and sees the truth."""
    env, rng = TapeCutEnv(**HARD), np.random.default_rng(0)
    cuts = 0
    for seed in range(6):
        observation, _ = env.reset(seed=seed)
        assert observation.shape == (OBSERVATION_SIZE,)
        demonstrator, ended = TapeCutDemonstrator(env, rng, sloppiness=0, noise=0), False
        while not ended:
            _, _, terminated, truncated, info = env.step(demonstrator.act())
            ended = terminated or truncated
        cuts += info["is_success"]
    assert measured(cuts / 6) > 0.5


@pytest.mark.parametrize(
    ("options", "message"),
    [({"latency": -1}, "latency must be 0 or more"), ({"sensor_noise": -0.1}, "sensor_noise must be 0 m or more")],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        TapeCutEnv(**options)
