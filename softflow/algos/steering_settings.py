"""Settings of the methods that steer a frozen base: base, head, and the stages of steering by a chunk critic."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from softflow.algos.settings import OnlineStageConfig, PolicyConfig
from softflow.algos.trial_method import TrialMethodConfig
from softflow.policies import FlowPolicy, SteeredPolicy
from softflow.policies.steered import Shape
from softflow.task.layout import ObservationSize


@dataclass
class HeadConfig:
    """The head that steers the base; see `SteeredPolicy`."""

    latent: bool = True
    """Whether the head changes the base's latent."""
    residual: bool = True
    """Whether the head adds a residual to the decoded chunk."""
    deterministic: bool = False
    """Whether the latent starts from the mode of the base's latent density. Otherwise it starts from a sample."""
    latent_shape: Shape = "step"
    """Shape of the change of the latent: separate values for each `step`, or one value that the whole `chunk`
    shares."""
    residual_shape: Shape = "step"
    """Shape of the residual: separate values for each `step`, or one value that the whole `chunk` shares."""
    residual_bound: float = 0.3
    """Largest absolute value of the residual in each action dimension, in multiples of the dimension's scale.
    Higher values let the head change the base more."""
    log_std_bound: float = 2.0
    """Bound b of the log scale of the latent's noise: the head scales the noise by exp(-b) to exp(b).
    Higher values let the head change the noise more."""


@dataclass
class FrozenBaseConfig(PolicyConfig):
    """Settings of a head on the frozen policy of a run."""

    steering: HeadConfig = field(default_factory=HeadConfig)
    base_heads: tuple[dict[str, Any], ...] = ()
    """Heads of a base that is a steered policy itself, from the innermost outwards. They are read from the base; do not
    set them."""

    def make_base(self, observation_dim: ObservationSize, action_dim: int) -> FlowPolicy | SteeredPolicy:
        """Build the base that these settings describe: a flow policy, steered by the heads of `base_heads`, if any.

        Raises:
            ValueError, ImportError: See `FlowPolicy` and `SteeredPolicy`.
        """
        base: FlowPolicy | SteeredPolicy = self.make_policy(observation_dim, action_dim)
        for head in self.base_heads:
            try:
                base = SteeredPolicy(base, **head)
            except TypeError as error:
                raise ValueError(f"base_heads: {error}") from error
        return base


@dataclass
class SteeredConfig(FrozenBaseConfig):
    """Settings of a head on a frozen base that every steering method shares."""

    base_options: dict[str, int | float | str | bool] = field(default_factory=dict)
    """Arguments of the class that `base` names as `module:name`."""


@dataclass
class BaseRolloutsConfig:
    """Rollouts of the base without steering, in which only the critic is trained."""

    steps: int = 10_000
    """Number of primitive environment steps."""
    updates_per_step: float = 0.1
    """Number of critic updates per primitive step. Higher values learn more from each step but take longer."""


@dataclass
class SteeringOnlineConfig(OnlineStageConfig):
    """Online RL of the head on the demonstrations and the policy's own episodes."""

    steps: int = 90_000
    """Number of primitive environment steps."""
    updates_per_step: float = 0.1
    """Number of updates of critic and head per primitive step.
    Higher values learn more from each step but take longer."""
    offline_share: float = 0.5
    """Fraction of each batch that comes from the demonstrations, in (0, 1], here and in `base_rollouts`."""
    learning_rate: float = 3e-4
    """Learning rate of Adam for the head."""
    residual_weight: float = 30.0
    """Weight of the mean square of the residual, in multiples of each dimension's scale. Higher values stay closer to
    the base. With a weight of 1 and a `kl_weight` of 0.1, success on `tape_cut` fell to zero within 10,000 steps (one
    seed)."""
    kl_weight: float = 1.0
    """Weight of the KL divergence of the latent from the base's latent, per dimension.
    Higher values stay closer to the base."""


@dataclass
class SteeringConfig(TrialMethodConfig, SteeredConfig):
    """Settings of steering by a chunk critic."""

    base_rollouts: BaseRolloutsConfig = field(default_factory=BaseRolloutsConfig)
    online: SteeringOnlineConfig = field(default_factory=SteeringOnlineConfig)
