"""What outcomes of episodes tell about how good a kind of episode is, such as those of a policy (`trial.py`)."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from softflow.data import Episode

SUCCESS_SHARE = 0.75
"""Share of success in the score of an outcome; the rest is its return."""


class Outcome(NamedTuple):
    """What counts of an own episode."""

    is_success: bool
    total_reward: float

    @classmethod
    def of(cls, episode: Episode) -> Outcome:
        return cls(episode.is_success, float(episode.reward.sum()))


class Record:
    """The latest outcomes of one kind of episode, and what is believed before there are any.

    Args:
        window: The number of outcomes kept.
        prior: The numbers (a, b) of outcomes with the highest and lowest score that stand for what is believed before.
    """

    def __init__(self, window: int, prior: tuple[float, float] = (1.0, 1.0)) -> None:
        self.prior = prior
        self.outcomes: deque[Outcome] = deque(maxlen=window)
        self.episodes = 0
        """Number of outcomes in total, including forgotten ones."""

    def add(self, outcome: Outcome) -> None:
        """Add the newest outcome."""
        self.outcomes.append(outcome)
        self.episodes += 1

    def state_dict(self) -> dict[str, Any]:
        return {"prior": self.prior, "outcomes": [tuple(one) for one in self.outcomes], "episodes": self.episodes}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.prior, self.episodes = tuple(state["prior"]), state["episodes"]
        self.outcomes.clear()
        self.outcomes.extend(Outcome(*one) for one in state["outcomes"])


class Belief(NamedTuple):
    """The mean and variance of what is believed about the expected score of one kind of episode."""

    mean: float
    variance: float


def beliefs(*records: Record) -> list[Belief]:
    """Return what records tell about the expected scores of their kinds of episodes.

    The score of an outcome lies in [0, 1]: `SUCCESS_SHARE` for a success, and for the rest its return, from the lowest
    to the highest of all records. So the return decides between records of equal success, such as which of two
    policies that both succeed is faster. With a reward of 1 for success alone, the score is the success.

    The belief is the Bayesian bootstrap (Rubin 1981) of the scores and of the outcomes that the prior stands for: a of
    score 1 and b of score 0. If all scores are 0 or 1, its mean and variance are those of the Beta posterior.
    """
    returns = [one.total_reward for record in records for one in record.outcomes]
    low, high = (min(returns), max(returns)) if returns else (0.0, 0.0)

    def score(one: Outcome) -> float:
        of_return = (one.total_reward - low) / (high - low) if high > low else float(one.is_success)
        return SUCCESS_SHARE * one.is_success + (1 - SUCCESS_SHARE) * of_return

    def belief(record: Record) -> Belief:
        scores = [score(one) for one in record.outcomes]
        a, b = record.prior
        count = a + b + len(scores)
        mean = (a + sum(scores)) / count
        square = (a + sum(one * one for one in scores)) / count
        return Belief(mean, max(square - mean * mean, 0.0) / (count + 1))

    return [belief(record) for record in records]


def probability_better(first: Belief, second: Belief) -> float:
    """Return the probability that the first expected score exceeds the second, both taken as normal."""
    spread = math.sqrt(2 * (first.variance + second.variance))
    return 0.5 * (1 + math.erf((first.mean - second.mean) / max(spread, 1e-12)))


def draw_best(records: Sequence[Record]) -> int:
    """Return the index of the record with the highest draw of its expected score: Thompson sampling."""
    drawn = [one.mean + math.sqrt(one.variance) * torch.randn(()).item() for one in beliefs(*records)]
    return drawn.index(max(drawn))
