"""What is said about a dataset: its numbers by hand, its actions in native units, and its task."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from softflow.data import Dataset, DemonstrationError, Episode
from softflow.data.summary import in_words, summary_of
from softflow.task import ActionPart, ObservationPart, TaskSpec

HAND = TaskSpec(
    (
        ObservationPart("camera", (3, 16, 20), "float32", "CHW", (0.0, 1.0)),
        ObservationPart("joints", (2,), "float64"),
        ObservationPart("tool", (), "int64", categories=(3,)),
    ),
    (ActionPart("arm", (-1.0, 0.0), (3.0, 0.0)), ActionPart("lock", 5.0, 6.0), ActionPart("grip", 0.0, 10.0)),
    rate=20,
    success="any",
    name="hand",
)
"""The second number of the arm always has one value, so it is not learnt."""


def episode(steps: int, success: bool, moves: bool, last_reward: float) -> Episode:
    """The arm goes from 0 to 2, the lock stays at 5.5, and the gripper opens in the second half."""
    time = np.arange(steps + 1.0)
    observations = {
        "camera": np.zeros((steps + 1, 3, 16, 20)),
        "joints": np.stack([time, time], 1) if moves else np.zeros((steps + 1, 2)),
        "tool": np.ones(steps + 1, np.int64),
    }
    actions = {
        "arm": np.stack([np.linspace(0, 2, steps), np.zeros(steps)], 1),
        "lock": np.full((steps, 1), 5.5),
        "grip": np.where(np.arange(steps) < steps // 2, 2.0, 8.0)[:, None],
    }
    rewards = np.zeros(steps)
    rewards[-1] = last_reward
    ends = {"terminated": success, "truncated": not success, "is_success": success}
    return Episode.from_native(HAND, observations, actions, rewards, **ends)


DATASET = Dataset(
    [
        episode(20, True, True, 1),
        episode(30, False, True, 0),
        episode(26, True, False, 1.5),
        episode(40, True, True, 1),
    ],
    HAND,
)


def test_the_numbers_are_those_by_hand() -> None:
    summary = summary_of(DATASET)
    assert {name: summary[name] for name in ("episodes", "steps", "successes", "terminated", "observation_dtype")} == {
        "episodes": 4,
        "steps": 116,
        "successes": 3,
        "terminated": 3,
        "observation_dtype": "uint8",
    }
    assert summary["length"] == {"min": 20, "median": 28, "max": 40}
    assert summary["return"] == {"min": 0, "median": 1, "max": 1.5}
    assert summary["repeated_final_observations"] == 1
    assert TaskSpec.build(json.loads(json.dumps(summary))["task"]) == HAND


def test_takeovers_are_counted() -> None:
    nobody = summary_of(DATASET)
    assert (nobody["takeovers"], nobody["human_steps"]) == (0, 0)
    first, second, *others = DATASET.episodes
    taken = [replace(first, human=np.arange(20) >= 13), replace(second, human=np.zeros(30, bool)), *others]
    summary = summary_of(Dataset(taken, HAND))
    assert (summary["takeovers"], summary["human_steps"]) == (1, 7)
    assert "takeovers: in 1 of 4 episodes; a person acted at 6.0% of the steps" in list(in_words(summary))
    shown = [replace(episode, human=np.ones(len(episode), bool)) for episode in DATASET.episodes]
    assert "a person acted at every step" in list(in_words(summary_of(Dataset(shown, HAND))))


def test_actions_are_in_native_units() -> None:
    actions = summary_of(DATASET)["actions"]
    ranges = {action["name"]: [action[key] for key in ("min", "max", "low", "high")] for action in actions}
    assert list(ranges) == ["arm[0]", "arm[1]", "lock", "grip"]
    expected = [[0, 2, -1, 3], [0, 0, 0, 0], [5.5, 5.5, 5, 6], [2, 8, 0, 10]]
    np.testing.assert_allclose(list(ranges.values()), expected, atol=1e-5)
    assert [action["values"] for action in actions] == ["continuous", "fixed", "constant", "few values"]


def test_the_rule_is_the_one_that_training_chooses() -> None:
    imitate = summary_of(DATASET)["imitate"]
    assert imitate["rule"] == "reward_to_come"
    assert imitate["line"].startswith("imitate reward_to_come (auto: rewards are sparse or staged")
    assert imitate["line"].endswith(": 3 of 4 episodes, 86 of 116 steps")


def test_the_text() -> None:
    assert list(in_words(summary_of(DATASET)))[:-1] == [
        "4 episodes, 116 steps, 3 successes",
        "length: 20 to 40 steps, median 28",
        "return: 0 to 1.5, median 1",
        "ends: 3 terminated, 1 truncated",
        "final observation: equal to the one before in 1 of 4 episodes, so the true one may not have been recorded",
        "task: hand, 20 Hz, success rule any",
        "observations:",
        "  camera  float32 3 x 16 x 20  image CHW, black 0, white 1",
        "  joints  float64 2",
        "  tool    int64 one number     categories: 3",
        "actions, with their range in the data:",
        "  arm[0]  0 to 2      bounds -1 to 3",
        "  arm[1]  0 to 0      bounds 0 to 0   fixed",
        "  lock    5.5 to 5.5  bounds 5 to 6   constant",
        "  grip    2 to 8      bounds 0 to 10  few values",
    ]


def test_without_a_task_actions_are_in_their_unit_interval() -> None:
    action = np.array([[-0.5, 1.0], [0.25, 0.5]])
    summary = summary_of(Dataset([Episode(np.eye(3), action, np.zeros(2), True, False, True)], None))
    assert summary["task"] is None and summary["imitate"]["rule"] == "success"
    lines = list(in_words(summary))
    assert lines[0] == "1 episode, 2 steps, 1 success"
    assert "final observation: different from the one before in every episode" in lines
    assert "task: not in the file; observations are rows of 3 float32, actions are in [-1, 1]" in lines
    assert lines[-3:-1] == [
        "  action[0]  -0.5 to 0.25  bounds -1 to 1",
        "  action[1]  0.5 to 1      bounds -1 to 1",
    ]


def test_unknown_names_and_rates_are_said() -> None:
    task = replace(HAND, name="", rate=None)
    unnamed = Dataset([replace(one, task=task) for one in DATASET.episodes], task)
    assert "task: without a name, control rate not known, success rule any" in list(in_words(summary_of(unnamed)))


def test_episodes_of_other_sizes_are_refused() -> None:
    one, other = (Episode(np.zeros((2, 3)), np.zeros((1, n)), np.zeros(1), True, False, True) for n in (1, 2))
    with pytest.raises(DemonstrationError, match="action of demonstration 1 has 2 dimensions, expected 1"):
        summary_of(Dataset([one, other], None))
