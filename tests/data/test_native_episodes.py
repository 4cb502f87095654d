"""Episodes of native data: what a robot gives and takes, in order, scaled, and whole."""

from __future__ import annotations

import re
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.wrappers import TransformAction

from softflow.data import Episode, EpisodeBuilder
from softflow.envs import make_env
from softflow.task import ActionPart, ObservationPart, TaskSpec
from tests.task.specs import IMAGES, NUMBERS, OBSERVED, ROW, SEEN

ENDING: dict[str, Any] = dict(terminated=True, truncated=False, is_success=True)
ACTIONS = [[1, 0.25, 0.25, 0.5], [3, 0.5, 0.25, -1]]
UNIT = [[0, 0, 0.5], [1, 1, -1]]
REWARDS = [0.0, 1.0]


def observed(force: float) -> dict[str, Any]:
    return {**OBSERVED, "force": force}


def columns() -> dict[str, Any]:
    """Three observations as arrays of all steps."""
    stacked = {name: np.stack([np.asarray(OBSERVED[name])] * 3) for name in ("gear", "buttons", "grid")}
    return {"robot/joints": np.stack([OBSERVED["robot"]["joints"]] * 3), "force": np.array([1, 2, 3]), **stacked}  # type: ignore[index]


ROWS = [[*ROW[:-1], force] for force in (1, 2, 3)]
STEPS = [observed(1), observed(2), observed(3)]
BY_NAME = [{"gripper": [a[3]], "arm": np.array(a[:2]), "lock": [0.25]} for a in ACTIONS]


@pytest.mark.parametrize("observations", [STEPS, tuple(STEPS), columns(), iter(STEPS)])
def test_observations_become_rows(observations: Any) -> None:
    episode = Episode.from_native(NUMBERS, observations, ACTIONS, REWARDS, **ENDING, mode=2)
    np.testing.assert_array_equal(episode.observation, np.float32(ROWS))
    np.testing.assert_array_equal(episode.action, UNIT)
    np.testing.assert_array_equal(episode.reward, REWARDS)
    assert (episode.terminated, episode.truncated, episode.is_success, episode.mode) == (True, False, True, 2)
    assert episode.layout is None


@pytest.mark.parametrize(
    "actions",
    [
        ACTIONS,
        np.array(ACTIONS),
        torch.tensor(ACTIONS),
        np.array(ACTIONS, np.float16),
        np.array(ACTIONS).reshape(2, 2, 2),  # as an environment whose Box has two axes takes them
        [np.array(action).reshape(2, 2) for action in ACTIONS],
        [torch.tensor(action) for action in ACTIONS],
        BY_NAME,
        {name: np.stack([action[name] for action in BY_NAME]) for name in BY_NAME[0]},
        {"arm": np.array(ACTIONS)[:, :2], "lock": np.array([0.25, 0.25]), "gripper": [0.5, -1]},
    ],
)
def test_actions_are_scaled(actions: Any) -> None:
    episode = Episode.from_native(NUMBERS, STEPS, actions, REWARDS, **ENDING)
    np.testing.assert_array_equal(episode.action, UNIT)


def test_images_are_packed() -> None:
    episode = Episode.from_native(IMAGES, [SEEN] * 3, [[-1], [1]], REWARDS, **ENDING)
    assert episode.layout == IMAGES.layout and episode.observation.dtype == np.uint8
    np.testing.assert_array_equal(episode.observation, np.repeat(IMAGES.rows(SEEN)[0], 3, 0))


def test_a_task_of_one_array_takes_arrays() -> None:
    task = TaskSpec((ObservationPart("observation", (2,)),), (ActionPart("action", (0.0,), (2.0,)),))
    seen = np.array([[1, 2], [3, 4], [5, 6.0]])
    for observations, actions in ((seen, [0.5, 2]), (list(seen), np.array([[0.5], [2]]))):
        episode = Episode.from_native(task, observations, actions, REWARDS, **ENDING)
        np.testing.assert_array_equal(episode.observation, seen)
        np.testing.assert_array_equal(episode.action, [[-0.5], [1]])


@pytest.mark.parametrize("terminated", [True, False])
def test_a_missing_final_observation_is_repeated_and_the_last_reward_kept(terminated: bool) -> None:
    ending = dict(terminated=terminated, truncated=not terminated, is_success=True)
    for observations in (STEPS[:2], {name: values[:2] for name, values in columns().items()}):
        episode = Episode.from_native(NUMBERS, observations, ACTIONS, REWARDS, **ending, final_observation_missing=True)
        np.testing.assert_array_equal(episode.observation, np.float32([ROWS[0], ROWS[1], ROWS[1]]))
        np.testing.assert_array_equal(episode.reward, REWARDS)


@pytest.mark.parametrize(
    ("observations", "actions", "options", "message"),
    [
        (STEPS[:2], ACTIONS, {}, "2 observations for 2 actions, .* set final_observation_missing=True"),
        (STEPS, ACTIONS, {"final_observation_missing": True}, "3 observations for 2 actions, expected as many"),
        (STEPS[:1], ACTIONS, {}, "observation has 1 rows for 2 actions, expected 3"),
        ([*STEPS[:2], {"gear": 1}], ACTIONS, {}, "observation of step 2: the observation has no 'robot/joints'"),
        ([observed(1), observed(np.inf)], ACTIONS, {}, "observation of step 1: observation force is inf"),
        ([columns()], ACTIONS, {}, "observation of step 0: it has a batch axis"),
        (OBSERVED, ACTIONS, {}, "observations holds a single observation"),
        (STEPS, [ACTIONS[0], [4, 0, 0.25, 0]], {}, r"action of step 1: arm\[0\] = 4 is outside its bounds -1 \.\.\. 3"),
        (STEPS, np.array([ACTIONS[0], [4, 0, 0.25, 0]]), {}, r"arm\[0\] = 4 of action 1 is outside"),
        (STEPS, [ACTIONS[0], {"arm": [0, 0]}], {}, "action of step 1: action 'lock' is missing"),
        (STEPS, [ACTIONS[0], ACTIONS[0][:3]], {}, r"action of step 1: .* of shape \(3,\), expected 4 numbers"),
        (STEPS, np.array(3.0), {}, "an action is a single number"),
        ([], [], {}, "0 observations for 0 actions"),
        ([OBSERVED], [], {}, "an episode needs at least one step"),
        ([OBSERVED], np.zeros((0, 4)), {}, "an episode needs at least one step"),
        ([], ACTIONS, {}, "observation has 0 rows for 2 actions"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(observations: Any, actions: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        Episode.from_native(NUMBERS, observations, actions, REWARDS, **ENDING, **options)
    assert not re.search("\n", str(caught.value))


def test_an_environments_own_data_give_the_episode_that_a_recording_gives() -> None:
    native, env = gymnasium.make("Pendulum-v1"), make_env("Pendulum-v1")
    task, builder = TaskSpec.from_env(env), EpisodeBuilder()
    observations, actions, rewards = [native.reset(seed=4)[0]], [], []
    observation, _ = env.reset(seed=4)
    for unit in np.linspace(-1, 1, 5, dtype=np.float32)[:, None]:
        following, reward, *_ = env.step(unit)
        builder.append(observation, unit, float(reward))
        observation = following
        actions.append(2 * unit)  # Nm
        seen, earned, *_ = native.step(actions[-1])
        observations.append(seen)
        rewards.append(earned)
    recorded = builder.finish(observation, False, True, False)
    made = Episode.from_native(task, observations, actions, rewards, terminated=False, truncated=True, is_success=False)
    for name in ("observation", "action", "reward"):
        np.testing.assert_allclose(getattr(made, name), getattr(recorded, name), rtol=1e-6)
    assert task.rate == pytest.approx(20) and isinstance(env, TransformAction)
