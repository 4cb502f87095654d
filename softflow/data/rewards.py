"""Rewards that follow from the success of an episode alone, in place of recorded ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from softflow.data.episodes import Episode, RewardKind


class RewardValues(NamedTuple):
    """The rewards of an episode that ends, in a terminal state, at its success."""

    at_success: float
    otherwise: float
    """The reward of every other step, and of all steps of a failure."""

    def of(self, episode: Episode) -> Episode:
        """Return an episode with these rewards. A success ends when the task was first solved, if that is known."""
        if episode.is_success and episode.solved_at is not None:
            episode = episode.until(episode.solved_at)
        reward = np.full(len(episode), self.otherwise, np.float32)
        if episode.is_success:
            reward[-1] = self.at_success
        return replace(episode, reward=reward, terminated=episode.terminated or episode.is_success)


SUCCESS_REWARDS = {"sparse": RewardValues(1.0, 0.0), "steps": RewardValues(0.0, -1.0)}
"""The kinds of rewards that do not depend on what was recorded."""


def describe_reward(kind: RewardKind, episodes: Sequence[Episode], has_environment: bool = True) -> str:
    """Describe in one line what the rewards of demonstrations and of the environment, if there is one, are."""
    if kind == "dataset":
        return "reward dataset: those of the demonstrations" + ", and the environment's own" * has_environment
    values, solved = SUCCESS_REWARDS[kind], sum(episode.is_success for episode in episodes)
    return (
        f"reward {kind}: {values.at_success:g} at the success, which ends an episode, and {values.otherwise:g} at all "
        f"other steps; {solved} of {len(episodes)} demonstrations are successes"
    )
