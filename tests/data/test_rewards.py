"""Rewards that follow from the success of an episode alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from softflow.data import SUCCESS_REWARDS, Episode, describe_reward


def episode(rewards: list[float], is_success: bool, terminated: bool) -> Episode:
    steps = len(rewards)
    return Episode(
        np.zeros((steps + 1, 2)), np.zeros((steps, 1)), np.array(rewards), terminated, not terminated, is_success
    )


@pytest.mark.parametrize(
    ("kind", "is_success", "rewards"),
    [
        ("sparse", True, [0, 0, 1]),
        ("sparse", False, [0, 0, 0]),
        ("steps", True, [-1, -1, 0]),
        ("steps", False, [-1, -1, -1]),
    ],
)
def test_recorded_rewards_are_replaced(kind: str, is_success: bool, rewards: list[float]) -> None:
    for terminated in (False, True):
        new = SUCCESS_REWARDS[kind].of(episode([0.3, 7, -2], is_success, terminated))
        assert new.reward.tolist() == rewards and new.reward.dtype == np.float32
        assert new.terminated == (terminated or is_success) and new.truncated == (not terminated)


@given(st.lists(st.floats(-9, 9), min_size=1, max_size=5), st.booleans(), st.booleans(), st.sampled_from("ab"))
def test_what_was_recorded_does_not_matter(rewards: list[float], is_success: bool, ended: bool, which: str) -> None:
    values = SUCCESS_REWARDS["sparse" if which == "a" else "steps"]
    once = values.of(episode(rewards, is_success, ended))
    twice, other = values.of(once), values.of(episode([0.0] * len(rewards), is_success, ended))
    np.testing.assert_array_equal(once.reward, twice.reward)
    np.testing.assert_array_equal(once.reward, other.reward)


def test_the_choice_is_said() -> None:
    episodes = [episode([0, 1], True, True), episode([0, 0], False, False)]
    assert describe_reward("steps", episodes) == (
        "reward steps: 0 at the success, which ends an episode, and -1 at all other steps; 1 of 2 demonstrations are "
        "successes"
    )
    assert (
        describe_reward("dataset", episodes) == "reward dataset: those of the demonstrations, and the environment's own"
    )
    assert describe_reward("dataset", episodes, has_environment=False) == "reward dataset: those of the demonstrations"
