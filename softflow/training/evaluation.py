"""Success of a policy on held-out episodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch
from gymnasium.vector import VectorEnv

from softflow.data import Decision, Episode
from softflow.policies import GuardedPolicy
from softflow.training.failures import EnvironmentErrors
from softflow.training.intervals import wilson_interval
from softflow.training.rollout import Act, Explore, Rollout

HELD_OUT_SEEDS = 1_000_000
"""Seeds of evaluation episodes start here, far above those of training and of demonstrations."""


@dataclass(frozen=True)
class Evaluation:
    """What `episodes` seeded episodes came to.

    Attributes:
        success_rate: share of episodes with `info["is_success"]`; one that was lost counts as no success.
        success_ci95: its Wilson 95 % interval.
        mean_return: undiscounted, over the episodes that ended.
        mean_length: primitive steps, over the episodes that ended.
        episodes: how many were started.
        errors: how many of them were lost because their environment misbehaved.
        lost: how many were lost in all, also by `EpisodeLost` or with a process that another environment ended.
        outcome: means of the numbers that the environment measured (`Episode.outcome`), over the episodes that ended.
        guard: means of `guard_shares`, behind a guard.
    """

    success_rate: float
    success_ci95: tuple[float, float]
    mean_return: float
    mean_length: float
    episodes: int
    errors: int = 0
    lost: int = 0
    outcome: dict[str, float] = field(default_factory=dict)
    guard: dict[str, float] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def evaluate(
    environments: VectorEnv[Any, Any, Any],
    act: Act,
    episodes: int,
    seed: int = HELD_OUT_SEEDS,
    errors: EnvironmentErrors | None = None,
) -> tuple[Evaluation, list[Episode]]:
    """Run one episode for each of the seeds `seed` ... `seed + episodes - 1`, side by side in `environments`.

    They are what `softflow.training.vector.vectorize` makes; `errors` decides what is done about those that misbehave.

    Raises:
        EnvironmentFailed, FloatingPointError: see `Rollout.execute_chunks`.
    """
    errors = errors or EnvironmentErrors()
    rollout = Rollout(environments, iter(range(seed, seed + episodes)), errors)
    done = _run(rollout, act)
    return summarize(done, rollout.failures, errors.count), done


GUARD_OUTCOME = ("flagged", "replaced", "unlikely", "limited", "unfamiliar")
"""What evaluations count in a guard's `Report`."""


def evaluate_guarded(
    environments: VectorEnv[Any, Any, Any],
    policy: GuardedPolicy,
    episodes: int,
    seed: int = HELD_OUT_SEEDS,
    errors: EnvironmentErrors | None = None,
) -> tuple[Evaluation, list[Episode]]:
    """`evaluate` behind a guard, with the means of `guard_shares` in the result."""
    errors = errors or EnvironmentErrors()
    rollout = Rollout(environments, iter(range(seed, seed + episodes)), errors)
    device = policy.guard.threshold.device

    def act(observation: np.ndarray) -> Decision[np.ndarray]:
        seen = torch.as_tensor(observation, dtype=torch.float32, device=device)
        decided: list[Decision[np.ndarray]] = []
        # one environment at a time: only where an episode goes on is there an action that the rate starts from
        for row, last in zip(seen.split(1), rollout.last_actions, strict=True):
            previous = None if last is None else torch.as_tensor(last, device=device)[None]
            chunk, report = policy.act(row, previous)
            record = torch.stack([getattr(report, name).float() for name in GUARD_OUTCOME], -1)
            decided.append(Decision(chunk.cpu().numpy(), record.cpu().numpy()))
        return Decision(*map(np.concatenate, zip(*decided, strict=True)))

    done = _run(rollout, act)
    shares = [guard_shares(episode) for episode in done]
    means = {name: float(np.mean([share[name] for share in shares])) for name in GUARD_OUTCOME if shares}
    return replace(summarize(done, rollout.failures, errors.count), guard=means), done


def guard_shares(episode: Episode) -> dict[str, float]:
    """The share of the episode's chunks that each name in `GUARD_OUTCOME` is true of. Empty without a guard."""
    if episode.decision is None:
        return {}
    return dict(zip(GUARD_OUTCOME, episode.decision.mean(0).tolist(), strict=True))


def _run(rollout: Rollout, act: Explore) -> list[Episode]:
    """Every episode that the rollout has seeds for."""
    done: list[Episode] = []
    while True:
        ended, steps = rollout.execute_chunks(act)
        done += ended
        if not steps:
            return done


def summarize(done: Sequence[Episode], failures: int = 0, errors: int = 0) -> Evaluation:
    """Statistics of finished episodes, and of `failures` more that were lost, `errors` of them by their environment's
    fault."""
    successes = sum(episode.is_success for episode in done)
    total = len(done) + failures
    names = dict.fromkeys(name for episode in done for name in episode.outcome)
    return Evaluation(
        success_rate=successes / total,
        success_ci95=wilson_interval(successes, total),
        mean_return=float(np.mean([episode.reward.sum() for episode in done])) if done else 0.0,
        mean_length=float(np.mean([len(episode) for episode in done])) if done else 0.0,
        episodes=total,
        errors=errors,
        lost=failures,
        outcome={name: float(np.mean([e.outcome[name] for e in done if name in e.outcome])) for name in names},
    )
