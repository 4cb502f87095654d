"""A cut is earned: everything that only looks like one must not cut, and the clean demonstrator must."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np
import pytest

from softflow.envs import TapeCutDemonstrator, TapeCutEnv
from softflow.envs.tape_cut.demonstrator import HOLD_WIDTH
from softflow.envs.tape_cut.env import CUT_FORCE
from softflow.envs.tape_cut.scene import HAND, TapeCutScene

few_and_many = pytest.mark.parametrize("episodes", [4, pytest.param(40, marks=pytest.mark.slow)])


@dataclass
class Outcome:
    """Counts over episodes, and the hardest pinch of any step."""

    cuts: int
    stages: Counter[str]
    phases: Counter[str]
    hardest_pinch: float


def unchanged(demonstrator: TapeCutDemonstrator, action: np.ndarray) -> np.ndarray:
    return action


def attempt(
    episodes: int,
    aim: Callable[[TapeCutDemonstrator], None] = lambda demonstrator: None,
    alter: Callable[[TapeCutDemonstrator, np.ndarray], np.ndarray] = unchanged,
    env: TapeCutEnv | None = None,
) -> Outcome:
    """Clean demonstrations of all modes in turn; at each step ``aim`` changes the plan and ``alter`` the action."""
    env = TapeCutEnv() if env is None else env
    outcome = Outcome(0, Counter(), Counter(), 0.0)
    for episode in range(episodes):
        env.reset(seed=100 + episode)
        rng = np.random.default_rng(episode)
        demonstrator = TapeCutDemonstrator(env, rng, mode=episode % 4, sloppiness=0, noise=0)
        done, phases = False, set()
        while not done:
            aim(demonstrator)
            _, _, terminated, truncated, info = env.step(alter(demonstrator, demonstrator.act()))
            done = terminated or truncated
            phases.add(demonstrator.phase)
            outcome.hardest_pinch = max(outcome.hardest_pinch, env.geometry.pinch)
        outcome.cuts += info["is_success"]
        outcome.stages.update(stage for stage, reached in info["stages"].items() if reached)
        outcome.phases.update(phases)
    return outcome


def with_fingers(demonstrator: TapeCutDemonstrator, action: np.ndarray, width: float) -> np.ndarray:
    """The same action with the pads ``width`` m from the middle."""
    low, high = demonstrator.env.scene.control_low[HAND], demonstrator.env.scene.control_high[HAND]
    fingers = 2 * (demonstrator.env.scene.hand.pinch(width) - low) / (high - low) - 1
    return np.concatenate([action[:6], fingers])


@few_and_many
def test_the_clean_demonstrator_cuts(episodes: int, measured: Any) -> None:
    outcome = attempt(episodes)
    assert measured(outcome.cuts / episodes) > 0.7
    assert measured(outcome.hardest_pinch) > CUT_FORCE


@few_and_many
def test_blades_beside_the_ribbon_do_not_cut(episodes: int, measured: Any) -> None:
    def aim(demonstrator: TapeCutDemonstrator) -> None:
        demonstrator.crossing_offset[1] = 0.022

    outcome = attempt(episodes, aim)
    assert measured(outcome.phases["reopen"] / episodes) > 0.7  # it did close the blades
    assert outcome.cuts == 0


@few_and_many
def test_stopping_short_of_the_ribbon_does_not_cut(episodes: int, measured: Any) -> None:
    def aim(demonstrator: TapeCutDemonstrator) -> None:
        demonstrator.crossing_offset[0] = 0.090

    outcome = attempt(episodes, aim)
    assert measured(outcome.phases["reopen"] / episodes) > 0.7
    assert outcome.cuts == 0


@few_and_many
def test_outside_the_cut_zone_nothing_is_cut(episodes: int, measured: Any) -> None:
    def aim(demonstrator: TapeCutDemonstrator) -> None:
        demonstrator.crossing_offset[2] = -0.045

    outcome = attempt(episodes, aim)
    assert measured(outcome.phases["reopen"] / episodes) > 0.7
    assert outcome.cuts == 0


@few_and_many
def test_blades_face_on_to_the_ribbon_do_not_cut(episodes: int, measured: Any) -> None:
    def aim(demonstrator: TapeCutDemonstrator) -> None:
        demonstrator.crossing_yaw = 1.3

    outcome = attempt(episodes, aim)
    assert measured(outcome.phases["reopen"] / episodes) > 0
    assert outcome.cuts == 0


@few_and_many
def test_without_a_squeeze_nothing_is_cut(episodes: int, measured: Any) -> None:
    def alter(demonstrator: TapeCutDemonstrator, action: np.ndarray) -> np.ndarray:
        squeezing = demonstrator.phase in ("cut", "reopen")
        return with_fingers(demonstrator, action, HOLD_WIDTH) if squeezing else action

    outcome = attempt(episodes, alter=alter)
    assert measured(outcome.stages["at_tape"] / episodes) > 0.7  # the ribbon was between the blades
    assert outcome.cuts == 0


@few_and_many
def test_arriving_with_shut_blades_does_not_cut(episodes: int, measured: Any) -> None:
    def alter(demonstrator: TapeCutDemonstrator, action: np.ndarray) -> np.ndarray:
        arriving = demonstrator.phase in ("carry", "insert", "cut", "reopen")
        return with_fingers(demonstrator, action, 0.0) if arriving else action

    outcome = attempt(episodes, alter=alter)
    assert measured(outcome.stages["lifted"] / episodes) > 0.7
    assert measured(outcome.phases["reopen"] / episodes) > 0
    assert outcome.cuts == 0


@few_and_many
def test_slippery_pads_lift_nothing(episodes: int, measured: Any) -> None:
    env = TapeCutEnv()
    model = env.scene.model
    for geom in range(model.ngeom):
        if "_pad" in model.geom(geom).name:
            model.geom_friction[geom] = 0.05, 0.0001, 0.0001
    outcome = attempt(episodes, env=env)
    assert measured(outcome.stages["grasped"] / episodes) > 0.7  # it did squeeze the handles
    assert outcome.cuts == 0


@few_and_many
def test_random_actions_do_not_cut(episodes: int) -> None:
    env, rng = TapeCutEnv(), np.random.default_rng(1)
    for episode in range(episodes):
        env.reset(seed=episode)
        action, truncated = np.zeros(15), False
        while not truncated:
            action = np.clip(0.8 * action + 0.6 * rng.normal(size=15), -1, 1)
            _, _, terminated, truncated, info = env.step(action)
            assert np.isfinite(env.geometry.pivot).all()
            truncated |= terminated
        assert not info["is_success"]


@pytest.mark.parametrize(("height", "link", "direction"), [(-0.02, "ribbon_upper", -1), (0.02, "ribbon_lower", 1)])
def test_a_cut_piece_is_touched_up_to_its_end(height: float, link: str, direction: int) -> None:
    """By the thumb, too: of its two pads MuJoCo sorts out those that are far from the piece's box."""
    scene = TapeCutScene()
    model, data = scene.model, scene.data
    scene.sever(height)
    mujoco.mj_kinematics(model, data)
    pad, piece = data.geom("thumb_pad_left"), data.geom(link)
    radius, half, _ = model.geom("thumb_pad_left").size
    end = piece.xpos + np.array([0, 0, direction * model.geom(link).size[2]])
    for depth, touches in ((0.001, True), (-0.001, False)):
        axis = pad.xmat.reshape(3, 3)[:, 2]
        near = pad.xpos - direction * np.sign(axis[2]) * half * axis - [0, 0, direction * radius]  # from beyond the end
        scene.wrist_position[:3] += end - [0, 0, direction * depth] - near
        mujoco.mj_forward(model, data)
        assert any({pad.id, piece.id} == {*contact.geom} for contact in data.contact) is touches
