"""The Adroit hand in TapeCut: what is gymnasium-robotics' own, how it pinches, and that it cuts by force alone."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import pytest

from softflow.envs import TapeCutDemonstrator, TapeCutEnv, make_env
from softflow.envs.registry import find_mirror
from softflow.envs.tape_cut import adroit
from softflow.envs.tape_cut.demonstrator import HOLD_WIDTH, OPEN_WIDTH
from softflow.envs.tape_cut.env import CUT_FORCE
from softflow.envs.tape_cut.observation import OBSERVATION_SLICES, observation_slices
from softflow.envs.tape_cut.scene import HAND, TapeCutScene
from softflow.errors import UserError

needs_robotics = pytest.mark.skipif(find_spec("gymnasium_robotics") is None, reason="needs softflow[robotics]")
few_and_many = pytest.mark.parametrize("episodes", [4, pytest.param(40, marks=pytest.mark.slow)])
ACTIONS = np.random.default_rng(0).uniform(-1, 1, (12, 28))


# -- the hand


@needs_robotics
def test_links_and_joints_are_those_of_the_package() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of settings of the hand's file that differ from the scene's
        scene = TapeCutScene(adroit.ADROIT_HAND)
    original = adroit._read_adroit().compile()
    names = [original.body(i).name for i in range(original.nbody)]
    names = names[names.index("palm") : names.index("thdistal") + 1]
    assert len(names) == 23  # 4 to each of three fingers, 5 to the little one and the thumb, the palm
    for name in names:
        here, there = scene.model.body(adroit.PREFIX + name), original.body(name)
        assert here.mass == there.mass
        np.testing.assert_array_equal(here.inertia, there.inertia)
    for name in adroit.JOINTS:
        here, there = scene.model.joint(adroit.PREFIX + name), original.joint(name)
        np.testing.assert_array_equal(here.range, there.range)
        np.testing.assert_array_equal(here.axis, there.axis)
    for pad in adroit.PADS:
        np.testing.assert_array_equal(scene.model.geom(pad).size, original.geom(pad.removeprefix(adroit.PREFIX)).size)


@needs_robotics
def test_pads_and_actuators_are_those_of_the_compact_hand() -> None:
    scene, compact = TapeCutScene(adroit.ADROIT_HAND), TapeCutScene()
    for pad in adroit.PADS:
        for name in adroit.PAD_PROPERTIES:
            np.testing.assert_array_equal(
                getattr(scene.model.geom(pad), name), getattr(compact.model.geom("first_pad"), name)
            )
    for joint in adroit.JOINTS:
        own = compact.model.actuator("thumb_mcp" if joint.startswith("TH") else "first_mcp")
        for name in ("gainprm", "biasprm", "forcerange"):
            np.testing.assert_array_equal(getattr(scene.model.actuator(joint), name), getattr(own, name))


@needs_robotics
@pytest.mark.parametrize("width", [0.005, 0.0105, 0.0205, 0.025, 0.03, 0.042])
def test_a_pinch_has_the_width_that_is_asked_for(width: float) -> None:
    scene = TapeCutScene(adroit.ADROIT_HAND)
    pose = adroit.adroit_pinch(width)
    low, high = scene.control_low[HAND], scene.control_high[HAND]
    assert (pose >= low).all() and (pose <= high).all()
    scene.wrist_position[2] = 0.3
    scene.data.qpos[scene.hand_qpos] = pose
    mujoco.mj_kinematics(scene.model, scene.data)
    for finger, tip in adroit.TIPS.items():
        geom = scene.model.geom(f"{adroit.PREFIX}C_{tip}")
        along = geom.size[1] * scene.data.geom_xmat[geom.id].reshape(3, 3)[:, 2]
        ends = scene.data.geom_xpos[geom.id] + np.array([along, -along]) - scene.hand_point
        side = -1 if finger == "thumb" else 1
        assert (side * ends[:, 1]).min() - geom.size[0] == pytest.approx(
            width, abs=0.0055 if finger == "thumb" else 5e-4
        )
        assert abs(ends[0, 2]) < 0.004  # the handles are 24 mm high
        assert (ends[0, 2] - geom.size[0]) > -0.0125  # and lie 12 mm above the case's foam


# -- the environment


@needs_robotics
def test_observations_and_actions_have_a_number_for_each_joint() -> None:
    env = TapeCutEnv(hand="adroit")
    observation, _ = env.reset(seed=0)
    assert env.action_space.shape == (6 + 22,) and observation.shape == (
        OBSERVATION_SLICES["touch_fine"].stop + 3 * 13,
    )
    env.step(ACTIONS[0])
    observation, *_ = env.step(ACTIONS[1])
    seen = {name: observation[part] for name, part in observation_slices(22).items()}
    scene = env.scene
    np.testing.assert_allclose(seen["hand_position"], scene.data.qpos[scene.hand_qpos], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(seen["hand_velocity"], 0.1 * scene.data.qvel[scene.hand_dof], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(seen["hand_target"], env.targets[HAND], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(seen["pivot"], env.geometry.pivot, rtol=1e-5)
    assert seen["touch_fine"].shape == (4,)


@needs_robotics
def test_a_state_is_returned_to_to_the_bit() -> None:
    one, other = (TapeCutEnv(hand="adroit", randomize=True) for _ in range(2))
    one.reset(seed=3)
    other.reset(seed=4)
    for action in ACTIONS[:5]:
        one.step(action)
    np.testing.assert_array_equal(other.set_state(one.get_state()), one._observe())
    for action in ACTIONS[5:]:
        np.testing.assert_array_equal(one.step(action)[0], other.step(action)[0])


def test_a_right_hand_has_no_mirror_image() -> None:
    assert find_mirror("tape_cut") is not None
    assert find_mirror("tape_cut", hand="compact", latency=1) is not None
    assert find_mirror("tape_cut", hand="adroit") is None


def test_another_hand_is_refused() -> None:
    with pytest.raises(UserError, match=r"TapeCut has no hand 'adroid': .*adroit"):
        make_env("tape_cut", hand="adroid")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adroit, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'softflow\[robotics\]'"):
        TapeCutEnv(hand="adroit")


def test_a_package_without_the_hand_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    spec = ModuleSpec("gymnasium_robotics", None, origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(adroit, "find_spec", lambda name: spec)
    with pytest.raises(UserError, match=r"has no .*adroit_relocate.xml; 1\.4\.2 has it"):
        TapeCutEnv(hand="adroit")


# -- its physics is honest


def attempt(
    episodes: int, alter: Callable[[TapeCutDemonstrator, np.ndarray], np.ndarray], env: TapeCutEnv
) -> tuple[Counter[str], float]:
    """Careful demonstrations of all modes in turn, with altered actions: stages reached, and the hardest pinch."""
    stages: Counter[str] = Counter()
    hardest = 0.0
    for episode in range(episodes):
        env.reset(seed=100 + episode)
        demonstrator = TapeCutDemonstrator(env, np.random.default_rng(0), mode=episode % 4, sloppiness=0, noise=0)
        ended = False
        while not ended:
            _, _, terminated, truncated, info = env.step(alter(demonstrator, demonstrator.act()))
            ended = terminated or truncated
            hardest = max(hardest, env.geometry.pinch)
        stages.update(stage for stage, reached in info["stages"].items() if reached)
    return stages, hardest


def with_fingers(demonstrator: TapeCutDemonstrator, action: np.ndarray, width: float) -> np.ndarray:
    scene = demonstrator.env.scene
    low, high = scene.control_low[HAND], scene.control_high[HAND]
    return np.concatenate([action[:6], 2 * (scene.hand.pinch(width) - low) / (high - low) - 1])


@needs_robotics
@few_and_many
def test_a_careful_demonstrator_cuts_in_all_four_ways(episodes: int, measured: Any) -> None:
    stages, hardest = attempt(episodes, lambda demonstrator, action: action, TapeCutEnv(hand="adroit"))
    assert measured(stages["cut"] / episodes) > 0.7
    assert measured(hardest) > CUT_FORCE


@needs_robotics
@few_and_many
def test_without_a_squeeze_nothing_is_cut(episodes: int, measured: Any) -> None:
    def alter(demonstrator: TapeCutDemonstrator, action: np.ndarray) -> np.ndarray:
        return with_fingers(demonstrator, action, HOLD_WIDTH) if demonstrator.phase in ("cut", "reopen") else action

    stages, _ = attempt(episodes, alter, TapeCutEnv(hand="adroit", max_steps=120))
    assert measured(stages["at_tape"] / episodes) > 0.7
    assert stages["cut"] == 0


@needs_robotics
@few_and_many
def test_slippery_pads_lift_nothing(episodes: int, measured: Any) -> None:
    env = TapeCutEnv(hand="adroit", max_steps=80)
    for pad in adroit.PADS:
        env.scene.model.geom(pad).friction = 0.05, 0.0001, 0.0001
    stages, _ = attempt(episodes, lambda demonstrator, action: action, env)
    assert measured(stages["grasped"] / episodes) > 0.7  # it did squeeze the handles
    assert stages["lifted"] == 0


@needs_robotics
def test_scissors_fall_when_the_hand_opens() -> None:
    env = TapeCutEnv(hand="adroit", max_steps=60)

    opened = False

    def open_once_lifted(demonstrator: TapeCutDemonstrator, action: np.ndarray) -> np.ndarray:
        nonlocal opened
        opened = opened or env.lifted
        return with_fingers(demonstrator, action, OPEN_WIDTH) if opened else action

    attempt(1, open_once_lifted, env)
    assert opened and env.geometry.pivot[2] < env.scene.rest_height + 0.03
