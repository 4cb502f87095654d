"""Success of a policy on held-out episodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv

from softflow.data import Episode
from softflow.training.rollout import Act, Rollout
from softflow.training.statistics import wilson_interval

HELD_OUT_SEEDS = 1_000_000
"""Seeds of evaluation episodes start here, far above those of training and of demonstrations."""


@dataclass(frozen=True)
class Evaluation:
    """What `episodes` seeded episodes came to.

    Attributes:
        success_rate: share of episodes with `info["is_success"]`; a simulation that failed counts as no success.
        success_ci95: its Wilson 95 % interval.
        mean_return: undiscounted, over the episodes that ended.
        mean_length: primitive steps, over the episodes that ended.
        episodes: how many were started.
        outcome: means of the numbers that the environment measured (`Episode.outcome`), over the episodes that ended.
    """

    success_rate: float
    success_ci95: tuple[float, float]
    mean_return: float
    mean_length: float
    episodes: int
    outcome: dict[str, float] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def evaluate(
    environments: VectorEnv[Any, Any, Any], act: Act, episodes: int, seed: int = HELD_OUT_SEEDS
) -> tuple[Evaluation, list[Episode]]:
    """Run one episode for each of the seeds `seed` ... `seed + episodes - 1`, side by side in `environments`.

    They are what `softflow.training.vector.vectorize` makes.
    """
    rollout = Rollout(environments, iter(range(seed, seed + episodes)))
    done: list[Episode] = []
    while True:
        ended, steps = rollout.execute_chunks(act)
        done += ended
        if not steps:
            return summarize(done, rollout.failures), done


def summarize(done: Sequence[Episode], failures: int = 0) -> Evaluation:
    """Statistics of finished episodes, and of `failures` more that were given up."""
    successes = sum(episode.is_success for episode in done)
    total = len(done) + failures
    names = dict.fromkeys(name for episode in done for name in episode.outcome)
    return Evaluation(
        success_rate=successes / total,
        success_ci95=wilson_interval(successes, total),
        mean_return=float(np.mean([episode.reward.sum() for episode in done])) if done else 0.0,
        mean_length=float(np.mean([len(episode) for episode in done])) if done else 0.0,
        episodes=total,
        outcome={name: float(np.mean([e.outcome[name] for e in done if name in e.outcome])) for name in names},
    )
