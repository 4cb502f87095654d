"""Evaluation of a policy on held-out episodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch
from gymnasium.vector import VectorEnv

from softflow.data import Decision, Episode, observation_tensor
from softflow.policies import GuardedPolicy
from softflow.training.failures import EnvironmentErrors
from softflow.training.intervals import wilson_interval
from softflow.training.progress import StageProgress
from softflow.training.rollout import Act, Explore, Rollout

HELD_OUT_SEEDS = 1_000_000
"""First seed of a run's evaluation episodes, well apart from the seeds of demonstrations and training."""
OTHER_SEEDS = 2_000_000
"""First seed of other held-out episodes. They did not choose the best policy, so its success on them is unbiased."""
ROBOT_SEEDS = 3_000_000
"""First seed of a simulated robot's episodes. A policy may learn from these, so they are not evaluated."""
SLOW = 30.0
"""Seconds after which an evaluation shows its progress."""


@dataclass(frozen=True)
class Evaluation:
    """The results of seeded episodes.

    Attributes:
        success_rate: The fraction of episodes that were successes. A lost episode counts as a failure.
        success_ci95: The Wilson 95 % confidence interval of the success rate.
        mean_return: The mean undiscounted return of the episodes that ended.
        mean_length: The mean length in primitive steps of the episodes that ended.
        episodes: The number of episodes started.
        errors: The number of episodes lost to errors of their environment.
        lost: The number of episodes lost in total. This includes those lost by `EpisodeLost`, or because another
            environment ended the process that they shared.
        outcome: The means of the numbers that the environment measured (`Episode.outcome`), over the episodes that
            ended.
        guard: The means of `guard_shares`, if the policy has a guard.
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
        """Return the results as a dict for JSON."""
        return asdict(self)


def evaluate(
    environments: VectorEnv[Any, Any, Any],
    act: Act,
    episodes: int,
    seed: int = HELD_OUT_SEEDS,
    errors: EnvironmentErrors | None = None,
) -> tuple[Evaluation, list[Episode]]:
    """Run one episode for each of the seeds `seed` ... `seed + episodes - 1`, in parallel in `environments`.

    Args:
        environments: A result of `softflow.training.vector.vectorize`.
        act: The policy, which maps observations (B, O) to chunks (B, H, A).
        episodes: The number of episodes.
        seed: The seed of the first episode.
        errors: The handling of environments that raise errors. By default, the first error stops the evaluation.

    Raises:
        EnvironmentFailed, FloatingPointError: See `Rollout.execute_chunks`.
    """
    errors = errors or EnvironmentErrors()
    rollout = Rollout(environments, iter(range(seed, seed + episodes)), errors)
    done = _run(rollout, lambda observation, arms: act(observation), episodes)
    return summarize(done, rollout.failures, errors.count), done


GUARD_OUTCOME = ("flagged", "replaced", "unlikely", "limited", "unfamiliar")
"""The fields of a guard's `Report` that evaluations count."""


def evaluate_guarded(
    environments: VectorEnv[Any, Any, Any],
    policy: GuardedPolicy,
    episodes: int,
    seed: int = HELD_OUT_SEEDS,
    errors: EnvironmentErrors | None = None,
) -> tuple[Evaluation, list[Episode]]:
    """Evaluate a policy with a guard. Like `evaluate`, but the result includes the means of `guard_shares`."""
    errors = errors or EnvironmentErrors()
    rollout = Rollout(environments, iter(range(seed, seed + episodes)), errors)
    device = policy.guard.threshold.device

    def act(observation: np.ndarray, arms: np.ndarray) -> Decision[np.ndarray]:
        seen = observation_tensor(observation, device)
        chunks, records = list[np.ndarray](), list[np.ndarray]()
        # one environment at a time, because an episode that starts has no last action for the guard's rate limit
        for row, last in zip(seen.split(1), rollout.last_actions, strict=True):
            previous = None if last is None else torch.as_tensor(last, device=device)[None]
            chunk, report = policy.act(row, previous)
            record = torch.stack([getattr(report, name).float() for name in GUARD_OUTCOME], -1)
            chunks.append(chunk.cpu().numpy())
            records.append(record.cpu().numpy())
        return Decision(np.concatenate(chunks), np.concatenate(records))

    done = _run(rollout, act, episodes)
    shares = [guard_shares(episode) for episode in done]
    means = {name: float(np.mean([share[name] for share in shares])) for name in GUARD_OUTCOME if shares}
    return replace(summarize(done, rollout.failures, errors.count), guard=means), done


def guard_shares(episode: Episode) -> dict[str, float]:
    """Return for each field of `GUARD_OUTCOME` the fraction of chunks for which it is true. Empty without a guard."""
    if episode.decision is None:
        return {}
    return dict(zip(GUARD_OUTCOME, episode.decision.mean(0).tolist(), strict=True))


def _run(rollout: Rollout, act: Explore, episodes: int) -> list[Episode]:
    """Run an episode for every seed of the rollout."""
    done: list[Episode] = []
    with StageProgress("evaluation", episodes, interval=SLOW, only_if_slow=True) as progress:
        while True:
            ended, steps = rollout.execute_chunks(act)
            done += ended
            progress.update(len(done) + rollout.failures - progress.done)
            if not steps:
                return done


def summarize(done: Sequence[Episode], failures: int = 0, errors: int = 0) -> Evaluation:
    """Return the results of episodes.

    Args:
        done: The finished episodes.
        failures: The number of episodes that were lost.
        errors: How many of these were lost to errors of their environment.
    """
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
