"""Steering of a frozen flow policy by reinforcement learning: residual, latent, or both (RFS, arXiv 2602.01789).

    imitation       the base policy learns from the demonstrations, and is frozen from then on; left out with `base`
    base_rollouts   the base acts unsteered, and the critic learns to value what it does
    online          the head and the critic learn on demonstrations and own episodes, half and half

The head minimises, over composed chunks a = clip(base(s, w) + a_r), as they would be executed (d numbers in a chunk),

    -Q(s, a) / |Q|  +  residual_weight * mean a_r^2  +  kl_weight * KL(w || base's own latent) / d,

with the critic's gradient through the decoding of the base; a flow-matching base is differentiated through its steps.
Steered before it has seen the base's own chunks, a critic is exploited; hence `base_rollouts`, in which nothing is
steered because the head still says zero.

The critic sees composed chunks alone, the demonstrations' among them. What acts is a policy on the same base with the
running average of the head's weights. It also proposes the chunks that the critic's target values, so behaviour and
target are one policy, and it moves slowly enough for the critic to follow.

What deploys may choose its latent once more: of several `candidates` the critic takes the one whose chunk it values
most. Own episodes are single draws all the same: a critic that chooses what it learns from soon sees nothing else, and
what it overrates is then never tried beside what it does not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from critics import soft_update
from softflow.algos.base import Algorithm, Data, Stage
from softflow.algos.chunk_critic import ChunkCriticLearner
from softflow.algos.imitation import Imitator, PolicyConfig, descend, make_policy
from softflow.algos.online import OnlineMethod, OnlineMethodConfig, OnlineStageConfig
from softflow.policies import BestOfN, ChunkPolicy, FlowPolicy, SteeredPolicy
from softflow.policies.steered import Shape
from softflow.task.layout import ObservationSize


@dataclass
class HeadConfig:
    """What steers the base; see `SteeredPolicy`."""

    latent: bool = True
    """Whether the latent is moved."""
    residual: bool = True
    """Whether something is added to the decoded chunk."""
    deterministic: bool = False
    """Start from the mode of the base's latent density instead of a draw."""
    latent_shape: Shape = "step"
    """What is said of the latent: for each step of a chunk, or shared over the chunk."""
    residual_shape: Shape = "step"
    """The residual: one for each step of a chunk, or shared over the chunk."""
    residual_bound: float = 0.1
    """Largest magnitude of each number of the residual; actions lie in [-1, 1]."""
    log_std_bound: float = 2.0
    """The latent's noise is multiplied by at most e to the power of this, and divided by at most as much."""


@dataclass
class SteeredConfig(PolicyConfig):
    """Settings of a head on a frozen base, however it learns."""

    base: str | None = None
    """Run folder, or a checkpoint's folder in it, whose flow policy is steered; without it imitation trains one."""
    steering: HeadConfig = field(default_factory=HeadConfig)


@dataclass
class BaseRolloutsConfig:
    """The base acts unsteered, the critic alone learns."""

    steps: int = 10_000
    """Primitive environment steps."""
    updates_per_step: float = 0.1
    """Updates of the critic for each primitive step."""


@dataclass
class SteeringOnlineConfig(OnlineStageConfig):
    """Online RL of the head."""

    steps: int = 90_000
    """Primitive environment steps."""
    updates_per_step: float = 0.1
    """Updates of critic and head for each primitive step."""
    offline_share: float = 0.5
    """Share of each batch that comes from the demonstrations, in this stage and the one before."""
    learning_rate: float = 3e-4
    """Learning rate of the head's Adam."""
    residual_weight: float = 300.0
    """Weight of the residual's mean square. With 10, and 0.1 on the KL, success on `tape_cut` fell to zero within
    10,000 steps (one seed)."""
    kl_weight: float = 1.0
    """Weight of the KL of the latent to the base's own, per dimension."""


@dataclass
class SteeringConfig(OnlineMethodConfig, SteeredConfig):
    """Settings of steering."""

    base_rollouts: BaseRolloutsConfig = field(default_factory=BaseRolloutsConfig)
    online: SteeringOnlineConfig = field(default_factory=SteeringOnlineConfig)


class SteeringMethod(Algorithm):
    """What every method has that learns to steer a frozen base: the base, imitated or given, and the head on it.

    `imitator` holds the base, `actor` is the policy whose head learns.
    """

    config: SteeredConfig

    def __init__(
        self, config: SteeredConfig, observation_dim: ObservationSize, action_dim: int, device: str = "cpu"
    ) -> None:
        self.config, self.n_action_steps, self.device = config, config.n_action_steps, device
        imitating = make_policy(config, observation_dim, action_dim)
        self.imitator = Imitator(imitating.to(device), config.imitation, config.ema_rate)
        self.base = self.imitator.policy
        self.actor = SteeredPolicy(self.base, **asdict(config.steering)).to(device)

    def load_base(self, policy: ChunkPolicy) -> None:
        """Steer this one. Its weights and observation statistics are copied.

        Raises:
            ValueError: it is no `FlowPolicy`, or other than the configuration says.
        """
        copy_base(policy, self.base)

    def fit_normalizer(self, mean: Tensor, std: Tensor) -> None:
        """Nothing to do for a base that was trained before: it keeps the statistics it was trained with."""
        if self.config.base is None:
            self.imitator.fit_normalizer(mean, std)


class Steering(SteeringMethod, OnlineMethod):
    """See the module. `policy` is what acts."""

    config: SteeringConfig

    def __init__(
        self, config: SteeringConfig, observation_dim: ObservationSize, action_dim: int, device: str = "cpu"
    ) -> None:
        super().__init__(config, observation_dim, action_dim, device)
        self.policy = self.actor.twin()
        self.head_optimizer = torch.optim.Adam(self.actor.head.parameters(), config.online.learning_rate, fused=True)
        self.learner = ChunkCriticLearner(config, self.policy, device)
        self.deployed = BestOfN(
            self.policy, self.learner.critic, config.n_action_steps, config.candidates, config.temperature
        )

    # ------------------------------------------------------------------------------------------------------- stages

    def stages(self) -> Sequence[Stage]:
        c = self.config
        stages = (
            Stage("imitation", updates=c.imitation.updates if c.base is None else 0),
            _acting("base_rollouts", c.base_rollouts),
            _acting("online", c.online),
        )
        return [stage for stage in stages if stage.total > 0]

    @torch.inference_mode()
    def explore(self, observation: Tensor) -> Tensor:
        """Single draws, however many candidates deploy."""
        return self.policy.propose(observation, 1, self.config.temperature)[:, 0, : self.n_action_steps]

    def update(self, stage: Stage, data: Data, progress: float) -> dict[str, Tensor]:
        if stage.name == "imitation":
            return self.imitator.update(self.sample(data, self.config.horizon, imitable=True), progress)
        batch = self.sample(data, self.learner.critic.horizon)
        scalars = self.learner.update(batch)
        return scalars | self.update_head(batch.observation) if stage.name == "online" else scalars

    def update_head(self, observation: Tensor) -> dict[str, Tensor]:
        """One step of the head on the sum of the three terms, at the temperature that acts."""
        c = self.config
        steering = self.actor.steer(observation)
        chunk = self.actor.draw(observation, 1, c.temperature, steering).chunk
        residual = steering.residual.square().mean()
        kl = self.actor.latent_kl(observation, steering).mean() / chunk[0, 0].numel()
        conservative = c.online.residual_weight * residual + c.online.kl_weight * kl
        loss = self.learner.actor_loss(observation, chunk) + conservative
        descend(loss, self.head_optimizer, "head")
        soft_update(self.policy.head, self.actor.head, c.ema_rate)
        scalars = {"train/actor_loss": loss, "steering/residual_rms": residual.sqrt(), "steering/latent_kl": kl}
        return {name: value.detach() for name, value in scalars.items()}

    def parts(self) -> Mapping[str, Any]:
        return {
            "imitator": self.imitator,  # the base is in it
            "head": self.actor.head,
            "average_head": self.policy.head,
            "head_optimizer": self.head_optimizer,
        }


def _acting(name: str, config: BaseRolloutsConfig | SteeringOnlineConfig) -> Stage:
    return Stage(name, environment_steps=config.steps, updates_per_step=config.updates_per_step)


def copy_base(policy: ChunkPolicy, base: FlowPolicy) -> None:
    """Give `base` the weights and observation statistics of a trained policy.

    Raises:
        ValueError: it is no `FlowPolicy`, or built otherwise than `base`.
    """
    if not isinstance(policy, FlowPolicy):
        raise ValueError(f"a policy of kind {policy.kind!r} cannot be steered, only one of kind 'flow'")
    given, expected = policy.describe(), base.describe()
    for name, value in expected.items():
        if given[name] != value:
            raise ValueError(f"the base's {name} is {given[name]!r}, expected {value!r}")
    base.load_state_dict(policy.state_dict())
