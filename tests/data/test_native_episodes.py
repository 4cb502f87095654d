"""Episodes of what a robot gives and takes: named parts in any order, native units, a final observation or none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from softflow.data import Episode
from softflow.task import ActionPart, ObservationPart, TaskSpec

TASK = TaskSpec(
    observation=(ObservationPart("joints", (2,), "float64"), ObservationPart("gripper/open", (), "float32")),
    action=(ActionPart("arm", (-2.0, 0.0), (2.0, 10.0)), ActionPart("gripper", (0.0,), (1.0,))),
)
ENDING: dict[str, Any] = dict(terminated=True, truncated=False, is_success=True)
OBSERVATIONS = [{"gripper": {"open": i / 4}, "other": "text", "joints": np.array([i, -i])} for i in range(4)]
ACTIONS = [np.array([-2.0, 10.0, 0.5]), np.array([1.0, 0.0, 1.0]), np.array([0.0, 2.5, 0.0])]
ROWS = np.array([[i, -i, i / 4] for i in range(4)], np.float32)
UNIT = np.array([[-1, 1, 0], [0.5, -1, 1], [0, -0.5, -1]], np.float32)


def test_a_list_of_what_an_environment_gave() -> None:
    episode = Episode.from_native(TASK, OBSERVATIONS, ACTIONS, [0, 0, 1], **ENDING, mode=2)
    np.testing.assert_array_equal(episode.observation, ROWS)
    np.testing.assert_allclose(episode.action, UNIT, atol=1e-7)
    assert episode.reward.tolist() == [0, 0, 1] and episode.terminated and episode.is_success and episode.mode == 2


def test_stacked_arrays_by_name_give_the_same() -> None:
    observations = {"gripper/open": ROWS[:, 2].astype(np.float16), "joints": ROWS[:, :2].astype(int)}
    stacked = np.stack(ACTIONS)
    for actions in (stacked, {"gripper": stacked[:, 2:], "arm": stacked[:, :2]}):
        episode = Episode.from_native(TASK, observations, actions, [0, 0, 1], **ENDING)
        np.testing.assert_array_equal(episode.observation, ROWS)
        np.testing.assert_allclose(episode.action, UNIT, atol=1e-7)
    by_name = [{"arm": action[:2], "gripper": action[2:]} for action in ACTIONS]
    np.testing.assert_allclose(
        Episode.from_native(TASK, OBSERVATIONS, by_name, [0, 0, 1], **ENDING).action, UNIT, atol=1e-7
    )


def test_without_the_final_observation_no_reward_is_lost() -> None:
    episode = Episode.from_native(TASK, OBSERVATIONS[:3], ACTIONS, [0, 0, 1], **ENDING, final_observation_missing=True)
    assert episode.reward.tolist() == [0, 0, 1]
    np.testing.assert_array_equal(episode.observation, ROWS[[0, 1, 2, 2]])
    with pytest.raises(
        ValueError, match=r"3 observations for 3 actions, expected 4: .* final_observation_missing=True"
    ):
        Episode.from_native(TASK, OBSERVATIONS[:3], ACTIONS, [0, 0, 1], **ENDING)


def test_images_are_packed_whatever_their_axes() -> None:
    task = TaskSpec(
        observation=(ObservationPart("wrist", (3, 16, 17), "uint8", axes="CHW"), ObservationPart("q", (1,))),
        action=(ActionPart("a", (-1.0,), (1.0,)),),
    )
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 16, 17), np.uint8)
    seen = [{"q": np.array([0.5]), "wrist": image} for image in pixels]
    episode = Episode.from_native(task, seen, [[0.25]], [1.0], **ENDING)
    assert episode.layout == task.layout and task.layout is not None
    parts = task.layout.unpack(episode.observation)
    np.testing.assert_array_equal(parts["wrist"], pixels.transpose(0, 2, 3, 1))
    assert parts["q"].tolist() == [[0.5], [0.5]] and episode.action.tolist() == [[0.25]]


@pytest.mark.parametrize(
    ("observations", "actions", "message"),
    [
        ([*OBSERVATIONS[:3], {"joints": [0, 0]}], ACTIONS, "step 3: the observation has no 'gripper/open'"),
        (
            [*OBSERVATIONS[:3], {**OBSERVATIONS[3], "joints": [0, np.nan]}], ACTIONS,
            r"step 3: observation joints\[1\] is nan",
        ),
        (
            [*OBSERVATIONS[:3], {**OBSERVATIONS[3], "joints": [0]}], ACTIONS,
            r"step 3: observation 'joints' is .* \(1,\)",
        ),
        (OBSERVATIONS[0], ACTIONS, "one observation is no episode"),
        ([], ACTIONS, "there are no observations"),
        (OBSERVATIONS, [*ACTIONS[:2], [2.1, 0, 0]], r"arm\[0\] = 2.1 of action 2 is outside its bounds -2 ... 2"),
        (OBSERVATIONS, [*ACTIONS[:2], [0, np.nan, 0]], r"arm\[1\] = nan of action 2 is outside its bounds 0 ... 10"),
        (OBSERVATIONS, [{"arm": [0, 0]}] * 3, "action 'gripper' is missing, got arm"),
        (
            OBSERVATIONS, [{"arm": [0, 0], "gripper": [0]}, {"arm": [0, 0]}],
            "action 1 has the parts arm, the first arm, gripper",
        ),
        (OBSERVATIONS, np.zeros((3, 2)), r"an action \(arm \(2\), gripper \(1\)\) is float64 of shape \(3, 2\)"),
        (OBSERVATIONS, np.zeros(3), r"actions must be of shape \(T, 3\)"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(observations: Any, actions: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Episode.from_native(TASK, observations, actions, [0, 0, 1], **ENDING)


@given(st.data())
def test_native_actions_come_back(data: st.DataObject) -> None:
    low = data.draw(st.lists(st.floats(-100, 100), min_size=1, max_size=5))
    width = [data.draw(st.floats(0.01, 100)) for _ in low]
    task = TaskSpec(
        observation=(ObservationPart("q", (1,)),),
        action=(ActionPart("a", tuple(low), tuple(a + b for a, b in zip(low, width, strict=True))),),
    )
    share = np.array([[data.draw(st.floats(0, 1)) for _ in low] for _ in range(3)])
    native = np.array(low) + share * np.array(width)
    episode = Episode.from_native(task, np.zeros((4, 1)), native, np.ones(3), **ENDING)
    np.testing.assert_allclose(task.native_actions(episode.action), native, rtol=1e-5, atol=1e-5 * max(width))
