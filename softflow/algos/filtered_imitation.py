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
from typing import Any

from torch import Tensor

from softflow.algos.base import Algorithm, Data, Stage
from softflow.algos.imitation import Imitator, PolicyConfig, make_policy
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
        self.config, self.n_action_steps, self.device = config, config.n_action_steps, device
        actor = make_policy(config, observation_dim, action_dim).to(device)
        self.imitator = Imitator(actor, config.imitation, config.ema_rate)
        self.deployed = BestOfN(self.imitator.policy, None, config.n_action_steps, 1, config.temperature)

    def fit_normalizer(self, mean: Tensor, std: Tensor) -> None:
        self.imitator.fit_normalizer(mean, std)

    def stages(self) -> Sequence[Stage]:
        updates, collection = self.config.imitation.updates, self.config.collection
        stages = [Stage("imitation", updates=updates)]
        for number in range(1, collection.rounds + 1):
            stages.append(Stage(f"collect_{number}", environment_steps=collection.steps))
            stages.append(Stage(f"retrain_{number}", updates=updates))
        return [stage for stage in stages if stage.total > 0]

    def begin(self, stage: Stage) -> None:
        if stage.name.startswith("retrain"):
            self.imitator.reinitialize()

    def update(self, stage: Stage, data: Data, progress: float) -> dict[str, Tensor]:
        c = self.config
        share = 1.0 if stage.name == "imitation" else c.collection.offline_share
        windows = sample_mixed(data.offline, data.online, c.batch_size, c.horizon, data.rng, share, imitable=True)
        return self.imitator.update(to_torch(windows, self.device), progress)

    def state_dict(self) -> dict[str, Any]:
        return self.imitator.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.imitator.load_state_dict(state)
