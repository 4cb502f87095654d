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
from softflow.algos.base import Algorithm, Data, Scalars, Stage
from softflow.algos.chunk_critic import CriticLearner, critic_scalars, normalized_q_loss
from softflow.algos.online import OnlineMethod
from softflow.algos.optimization import descend
from softflow.algos.policy_learner import PolicyLearner
from softflow.algos.settings import OnlineMethodConfig, OnlineStageConfig, PolicyConfig
from softflow.data import Windows
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
    """What every method has that learns to steer a frozen base.

    Attributes:
        policy_learner: Imitates, and so trains the base, unless a base is given.
        base: The policy that is steered.
        actor: The policy whose head learns.
    """

    config: SteeredConfig

    def __init__(
        self, config: SteeredConfig, observation_dim: ObservationSize, action_dim: int, device: str = "cpu"
    ) -> None:
        self.config, self.device = config, device
        imitating = config.make_policy(observation_dim, action_dim)
        self.policy_learner = PolicyLearner(imitating.to(device), config.imitation, config.ema_rate)
        self.base = self.policy_learner.policy
        self.actor = SteeredPolicy(self.base, **asdict(config.steering)).to(device)

    def load_base(self, policy: ChunkPolicy) -> None:
        """Steer this policy. Its weights and observation statistics are copied.

        Raises:
            ValueError: It is no `FlowPolicy`, or is built otherwise than the configuration says.
        """
        copy_base(policy, self.base)

    def fit_normalizer(self, mean: Tensor, std: Tensor) -> None:
        """Give the statistics to the base; one that was trained before keeps its own."""
        if self.config.base is None:
            super().fit_normalizer(mean, std)

    def imitation_updates(self) -> int:
        """The number of updates of imitation: none if a base is given."""
        return self.config.imitation.updates if self.config.base is None else 0


class Steering(SteeringMethod, OnlineMethod):
    """Steering by a chunk critic, see the module.

    Attributes:
        policy: The base with the moving average of the head's weights, which acts.
        critic: Q(s, chunk) of composed chunks.
    """

    config: SteeringConfig

    def __init__(
        self, config: SteeringConfig, observation_dim: ObservationSize, action_dim: int, device: str = "cpu"
    ) -> None:
        super().__init__(config, observation_dim, action_dim, device)
        self.policy = self.actor.twin()
        self.head_optimizer = torch.optim.Adam(self.actor.head.parameters(), config.online.learning_rate, fused=True)
        self.critic_learner = CriticLearner(config, self.policy, device)
        self.critic = self.critic_learner.critic
        self.deployed = BestOfN(self.policy, self.critic, config.n_action_steps, config.candidates, config.temperature)

    # ------------------------------------------------------------------------------------------------------- stages

    def stages(self) -> Sequence[Stage]:
        c = self.config
        return [
            Stage("imitation", updates=self.imitation_updates(), update=self.imitate),
            Stage(
                "base_rollouts",
                environment_steps=c.base_rollouts.steps,
                updates_per_step=c.base_rollouts.updates_per_step,
                update=self.learn_values,
            ),
            Stage(
                "online",
                environment_steps=c.online.steps,
                updates_per_step=c.online.updates_per_step,
                candidates=c.candidates,
                update=self.steer,
            ),
        ]

    @torch.inference_mode()
    def explore(self, observation: Tensor) -> Tensor:
        """Single draws, however many candidates deploy."""
        return self.policy.propose(observation, 1, self.config.temperature)[:, 0, : self.n_action_steps]

    def learn_values(self, data: Data, progress: float) -> Scalars:
        """One update of the critic; the head still says zero."""
        return self.update_critic(self.sample(data, self.critic.horizon))

    def steer(self, data: Data, progress: float) -> Scalars:
        """One update of the critic, and then of the head."""
        batch = self.sample(data, self.critic.horizon)
        return self.update_critic(batch) | self.update_head(batch.observation)

    # ------------------------------------------------------------------------------------------------------- losses

    def critic_loss(self, batch: Windows[Tensor]) -> tuple[Tensor, Tensor]:
        """(Q(s, a) - y)^2 with y = sum_{i<k} g^i r_i + g^k Q'(s_k, a'), a' composed by the policy that acts.

        Returns:
            The loss, and Q(s, a) as (E, B).
        """
        c = self.config
        with torch.no_grad():
            next_chunks = self.policy.propose(
                batch.next_observation, c.target_candidates, c.temperature, self.critic.horizon
            )
            next_value = self.critic_learner.best_value(batch.next_observation, next_chunks)
            target = self.critic_learner.td_target(batch, next_value)
        q = self.critic_learner.q(batch)
        return (q - target).square().mean(), q

    def head_loss(self, observation: Tensor) -> tuple[Tensor, Scalars]:
        """The sum of the three terms, at the temperature that acts."""
        c = self.config
        steering = self.actor.steer(observation)
        chunk = self.actor.draw(observation, 1, c.temperature, steering).chunk
        residual = steering.residual.square().mean()
        kl = self.actor.latent_kl(observation, steering).mean() / chunk[0, 0].numel()
        conservative = c.online.residual_weight * residual + c.online.kl_weight * kl
        q = self.critic_learner.value(observation, chunk)
        loss = normalized_q_loss(q) + conservative
        scalars = {"train/actor_loss": loss, "steering/residual_rms": residual.sqrt(), "steering/latent_kl": kl}
        return loss, {name: value.detach() for name, value in scalars.items()}

    # ------------------------------------------------------------------------------------------------------ updates

    def update_critic(self, batch: Windows[Tensor]) -> Scalars:
        loss, q = self.critic_loss(batch)
        self.critic_learner.descend(loss)
        return critic_scalars(loss, q)

    def update_head(self, observation: Tensor) -> Scalars:
        loss, scalars = self.head_loss(observation)
        descend(loss, self.head_optimizer, "head")
        soft_update(self.policy.head, self.actor.head, self.config.ema_rate)
        return scalars

    def parts(self) -> Mapping[str, Any]:
        return {
            "policy_learner": self.policy_learner.parts(),  # the base is in it
            "head": self.actor.head,
            "average_head": self.policy.head,
            "head_optimizer": self.head_optimizer,
            **self.critic_learner.parts(),
        }


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
