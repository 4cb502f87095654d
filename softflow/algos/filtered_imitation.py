"""Filtered imitation: imitate, act, keep the successes, and imitate again from scratch. There is no critic.

This is the simplest method that learns from its own episodes, so it is the baseline for reinforcement learning.

    imitation     maximum likelihood on the demonstrations' chunks
    collect_1     the policy acts without learning
    retrain_1     a new policy learns from scratch on demonstrations and own episodes
    collect_2     ...

Cloning only the best episodes is the %BC baseline of arXiv 2106.01345. Alternating between sampling, filtering by a
binary reward and training on the result is ReST-EM, arXiv 2312.06585.

A window is kept if its first step is worth imitating by the run's rule `imitate`. With a sparse reward, these are the
windows of successes. With a staged reward, failures are kept as well, up to the last reward that they earned.
With the rule `all`, nothing is filtered. The windows of own episodes are the chunks that the policy proposed at its
decisions, whole and before clipping.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Self

from softflow.algos.base import Algorithm, Data, Scalars, Stage
from softflow.algos.policy_learner import PolicyLearner
from softflow.algos.settings import MOST_UPDATES, PolicyConfig
from softflow.data import sample_mixed, to_torch
from softflow.policies import BestOfN, ChunkPolicy
from softflow.task.layout import ObservationSize


@dataclass
class CollectionConfig:
    """Collection of own episodes, and retraining on them."""

    rounds: int = 2
    """Number of rounds of collecting episodes and retraining the policy."""
    steps: int = 75_000
    """Number of primitive environment steps per round."""
    offline_share: float = 0.4
    """Fraction of each batch in retraining that comes from the demonstrations, in [0, 1]."""
    updates: int | None = None
    """Number of updates of each retraining. The default is `imitation.updates` if that is set. Otherwise, each
    demonstrated step is drawn as often as in imitation, in at most 8,000 updates."""


@dataclass
class FilteredImitationConfig(PolicyConfig):
    """Settings of filtered imitation."""

    collection: CollectionConfig = field(default_factory=CollectionConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        collection = self.collection
        if not 0 <= collection.offline_share <= 1:
            raise ValueError(f"collection.offline_share must be in [0, 1], got {collection.offline_share}")

    def for_demonstrations(self, steps: int, length: float) -> Self:
        settings = super().for_demonstrations(steps, length)
        collection, share = self.collection, self.collection.offline_share
        if self.imitation.updates is not None or collection.updates is not None or not collection.rounds:
            return settings
        updates = min(math.ceil(settings.full_imitation_updates / share), MOST_UPDATES) if share else MOST_UPDATES
        return replace(settings, collection=replace(collection, updates=updates))

    @property
    def retraining_updates(self) -> int:
        """Number of updates of each retraining."""
        updates = self.collection.updates
        return self.full_imitation_updates if updates is None else updates


class FilteredImitation(Algorithm):
    """Filtered imitation, as described in the module docstring."""

    def __init__(
        self, config: FilteredImitationConfig, observation_dim: ObservationSize, action_dim: int, device: str = "cpu"
    ) -> None:
        self.config, self.device = config, device
        actor = config.make_policy(observation_dim, action_dim).to(device)
        self.policy_learner = PolicyLearner(actor, config.imitation, config.ema_rate)
        self.deployed = BestOfN(self.policy_learner.policy, None, config.n_action_steps, 1, config.temperature)

    def stages(self) -> Sequence[Stage]:
        collection = self.config.collection
        stages = [Stage("imitation", updates=self.config.imitation_updates, update=partial(self.imitate, 1.0))]
        for number in range(1, collection.rounds + 1):
            stages.append(Stage(f"collect_{number}", environment_steps=collection.steps))
            stages.append(
                Stage(
                    f"retrain_{number}",
                    updates=self.config.retraining_updates,
                    begin=self.policy_learner.reinitialize,
                    update=partial(self.imitate, collection.offline_share),
                )
            )
        return stages

    def load_base(self, policy: ChunkPolicy) -> None:
        self.policy_learner.start_from(policy)

    def imitate(self, offline_share: float, data: Data, progress: float) -> Scalars:
        """Make one imitation update on windows, the fraction `offline_share` of which are demonstrated."""
        size, horizon = self.config.batch_size, self.config.horizon
        windows = sample_mixed(data.offline, data.online, size, horizon, data.rng, offline_share, imitable=True)
        return self.policy_learner.imitate(to_torch(windows, self.device), progress)

    def parts(self) -> Mapping[str, Any]:
        return self.policy_learner.parts()
