"""Settings of SOFT-FLOW: the objective of its actor, and its stages."""

from __future__ import annotations

from dataclasses import dataclass, field

from softflow.algos.settings import OnlineStageConfig, WarmupConfig
from softflow.algos.trial_method import TrialMethodConfig


@dataclass
class ImprovementConfig:
    """The objective and learning rate of the actor in an offline or online stage."""

    learning_rate: float = 3e-4
    """Initial learning rate of AdamW for the actor. It decays to zero along a cosine over the stage."""
    q_weight: float = 1.0
    """Weight of -Q / |Q| on the actor's own chunks. Higher values follow the critic's gradient more."""
    kl_weight: float = 1.0
    """Weight of the exact KL divergence from the champion, or, without trials, from the imitation policy, per
    dimension. Higher values keep the actor closer to that policy. Trials raise and lower the weight. Requires a flow
    with an exact density."""
    final_kl_weight: float | None = None
    """KL weight at the end of the stage. The weight changes geometrically. By default it stays constant."""
    nll_weight: float = 1.0
    """Weight of the negative log-likelihood, per dimension, of data chunks that are worth imitating.
    A flow without a likelihood uses its own loss. Higher values stay closer to the data."""
    advantage_scale: float | None = 1.0
    """Scale of the advantage weights: data chunks are weighted by exp(A / advantage_scale), with the advantage A in
    standard deviations of the batch. Higher values weight chunks more evenly; None weights them equally."""
    critic_updates: int = 1
    """Number of critic updates per actor update. With more, the critic adapts to new data faster."""

    def __post_init__(self) -> None:
        if self.critic_updates < 1:
            raise ValueError(f"critic_updates must be at least 1, got {self.critic_updates}")
        if self.final_kl_weight is not None and not (self.kl_weight > 0 and self.final_kl_weight > 0):
            raise ValueError(
                f"final_kl_weight {self.final_kl_weight:g} is reached in equal ratios from {self.kl_weight:g}: "
                "both must be above 0"
            )

    def kl_weight_at(self, progress: float) -> float:
        """Return the weight of the KL at `progress` in [0, 1] of the stage."""
        if self.final_kl_weight is None:
            return self.kl_weight
        return self.kl_weight ** (1 - progress) * self.final_kl_weight**progress

    @property
    def trains_actor(self) -> bool:
        """Whether any term has a weight. Without one, only the critic is trained."""
        return any((self.q_weight, self.kl_weight, self.nll_weight))


@dataclass
class OfflineConfig(ImprovementConfig):
    """Offline RL on the demonstrations. It is short, because they teach a critic little about other actions."""

    learning_rate: float = 2e-4
    """Initial learning rate of AdamW for the actor. It decays to zero along a cosine over the stage."""
    q_weight: float = 0.0
    """Weight of -Q / |Q| on the actor's own chunks. It is 0 because a critic that has seen only demonstrations
    misjudges other chunks."""
    updates: int = 1_000
    """Number of updates of actor and critic."""


@dataclass
class OnlineConfig(ImprovementConfig, OnlineStageConfig):
    """Online RL on the demonstrations and the policy's own episodes."""

    updates_per_step: float = 0.1
    """Number of actor updates per primitive step. Higher values learn more from each step, but take longer."""
    critic_updates: int = 10
    """Number of critic updates per actor update. With more, the critic learns more from few own episodes, but a run
    takes longer."""

    def __post_init__(self) -> None:
        ImprovementConfig.__post_init__(self)
        OnlineStageConfig.__post_init__(self)


@dataclass
class SoftFlowConfig(TrialMethodConfig):
    """Settings of SOFT-FLOW."""

    warmup: WarmupConfig = field(default_factory=WarmupConfig)
    offline: OfflineConfig = field(default_factory=OfflineConfig)
    online: OnlineConfig = field(default_factory=OnlineConfig)
