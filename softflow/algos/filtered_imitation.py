"""Filtered imitation: imitate, act, keep what succeeded, imitate it all anew. No critic.

The simplest method that learns from its own episodes, and so the one that reinforcement learning has to beat.

    imitation     maximum likelihood on the demonstrations' chunks
    collect_1     the policy acts and does not learn
    retrain_1     a new policy, from scratch, on demonstrations and own episodes
    collect_2     ...

Cloning only the best episodes is the %BC baseline of arXiv 2106.01345; sampling, keeping what a binary reward approves
and training on it again, in turns, is ReST-EM, arXiv 2312.06585.

A window is kept if reward still comes after it in its episode. With a sparse reward these are the windows of
successes; with a staged one, beginnings of failures are kept as well, up to the last reward they earned.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from softflow.algos.base import Algorithm, Data, Scalars, Stage
from softflow.algos.policy_learner import PolicyLearner
from softflow.algos.settings import PolicyConfig
from softflow.data import sample_mixed, to_torch
from softflow.policies import BestOfN
from softflow.task.layout import ObservationSize


@dataclass
class CollectionConfig:
    """Collecting own episodes."""

    rounds: int = 2
    """How often the policy collects and is trained anew."""
    steps: int = 75_000
    """Primitive environment steps in each round."""
    offline_share: float = 0.4
    """Share of each later batch that comes from the demonstrations."""


@dataclass
class FilteredImitationConfig(PolicyConfig):
    """Settings of filtered imitation."""

    collection: CollectionConfig = field(default_factory=CollectionConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        collection = self.collection
        if not 0 <= collection.offline_share <= 1:
            raise ValueError(f"collection.offline_share must be in [0, 1], got {collection.offline_share}")


class FilteredImitation(Algorithm):
    """See the module. `imitation.updates` are made on the demonstrations, and as many in each retraining."""

    def __init__(
        self, config: FilteredImitationConfig, observation_dim: ObservationSize, action_dim: int, device: str = "cpu"
    ) -> None:
        self.config, self.device = config, device
        actor = config.make_policy(observation_dim, action_dim).to(device)
        self.policy_learner = PolicyLearner(actor, config.imitation, config.ema_rate)
        self.deployed = BestOfN(self.policy_learner.policy, None, config.n_action_steps, 1, config.temperature)

    def stages(self) -> Sequence[Stage]:
        updates, collection = self.config.imitation.updates, self.config.collection
        stages = [Stage("imitation", updates=updates, update=partial(self.imitate, 1.0))]
        for number in range(1, collection.rounds + 1):
            stages.append(Stage(f"collect_{number}", environment_steps=collection.steps))
            stages.append(
                Stage(
                    f"retrain_{number}",
                    updates=updates,
                    begin=self.policy_learner.reinitialize,
                    update=partial(self.imitate, collection.offline_share),
                )
            )
        return stages

    def imitate(self, offline_share: float, data: Data, progress: float) -> Scalars:
        """One update of imitation on windows of which `offline_share` are demonstrated."""
        size, horizon = self.config.batch_size, self.config.horizon
        windows = sample_mixed(data.offline, data.online, size, horizon, data.rng, offline_share, imitable=True)
        return self.policy_learner.imitate(to_torch(windows, self.device), progress)

    def parts(self) -> Mapping[str, Any]:
        return self.policy_learner.parts()
