"""SAC with prior data: soft actor-critic on batches that are half demonstrations (RLPD, arXiv 2302.02948).

    imitation   maximum likelihood on the demonstrations' chunks; skipped by default
    online      critics, actor and entropy weight, on half demonstrations, half own episodes

Imitation is optional, because the demonstrations also enter through the replay. In each update, the E critics are
trained `critic_updates` times on the target

    y = sum_{i<k} discount^i r_i + discount^k * (min_{j in M} Q_j(s_k, a') - alpha log pi(a' | s_k)),  a' ~ pi(. | s_k),

where M is a random subset of the target critics, drawn for each batch (REDQ, arXiv 2101.05982). Together with the
critics' layer normalisation, it allows many updates per step. Then the actor takes one step on the first of these
losses, and alpha one step on the second:

    alpha log pi(a | s) - mean_j Q_j(s, a),  a ~ pi(. | s)        log(alpha) * (entropy - target_entropy)

(arXiv 1812.05905; with log(alpha), as in its authors' code, a small alpha adapts as fast as a large one). An action is
a chunk of H steps. With H = 1, the default, this is RLPD. With H > 1, entropies are those of whole chunks, so chunks
must be valued and executed as a whole: otherwise only the entropy term would train their remainder.

Own episodes are sampled from the policy; the deployed policy acts with its mode.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from softflow.algos.base import Data, Scalars, Stage
from softflow.algos.chunk_critic import CriticLearner, critic_scalars
from softflow.algos.online import OnlineMethod
from softflow.algos.optimization import descend
from softflow.algos.policy_learner import PolicyLearner
from softflow.algos.settings import ImitationConfig, OnlineMethodConfig, OnlineStageConfig
from softflow.data import Windows
from softflow.policies import BestOfN
from softflow.task.layout import ObservationSize


@dataclass
class SACOnlineConfig(OnlineStageConfig):
    """Online RL on the demonstrations and the policy's own episodes."""

    updates_per_step: float = 0.05
    """Number of updates of actor and entropy weight per primitive step.
    Higher values learn more from each step but take longer."""
    critic_updates: int = 5
    """Number of critic updates per actor update. RLPD makes 20 critic updates per step, and one actor update."""
    learning_rate: float = 3e-4
    """Learning rate of AdamW for the actor and of Adam for the entropy weight."""


@dataclass
class SACConfig(OnlineMethodConfig):
    """Settings of SAC with prior data."""

    horizon: int = 1
    """Number of actions in each chunk that the policy proposes."""
    n_action_steps: int = 1
    """Number of actions of each chunk that are executed. It must equal the horizon."""
    temperature: float = 0.0
    """Scale of the base noise of deployed chunks; 0 deploys the mode. Own episodes are always collected at 1."""
    ema_rate: float = 1.0
    """Rate of the exponential moving average of the actor's weights, which is the policy that acts.
    Higher values track the actor more closely and smooth less; 1 uses the actor itself."""
    critic_members: int = 10
    """Number of critics E in the ensemble. The actor follows their mean."""
    critic_learning_rate: float = 3e-4
    """Learning rate of AdamW for the critics."""
    target_members: int = 2
    """Number of randomly chosen target critics whose minimum forms the target. Higher values are more pessimistic."""
    entropy_in_target: bool = True
    """Whether the targets include the entropy bonus. RLPD omits it with sparse rewards."""
    entropy_weight: float = 1.0
    """Initial value of the entropy weight alpha, which is then learnt. Higher values explore more at first."""
    target_entropy: float = -0.5
    """Target of the policy's entropy, in nats per dimension of a chunk. Higher values keep the policy more random."""
    imitation: ImitationConfig = field(default_factory=lambda: ImitationConfig(updates=0))
    online: SACOnlineConfig = field(default_factory=SACOnlineConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.horizon == self.n_action_steps == (self.critic_horizon or self.horizon):
            raise ValueError(
                f"SAC values and executes whole chunks: n_action_steps ({self.n_action_steps}) and critic_horizon must "
                f"be horizon = {self.horizon}"
            )
        if self.target_candidates != 1:
            raise ValueError(
                f"a soft target uses a single sample: target_candidates must be 1, got {self.target_candidates}"
            )
        if not 1 <= self.target_members <= self.critic_members:
            raise ValueError(
                f"target_members must be in 1 ... critic_members = {self.critic_members}, got {self.target_members}"
            )
        if not self.entropy_weight > 0:
            raise ValueError(f"entropy_weight must be positive, got {self.entropy_weight}")
        if self.online.critic_updates < 1:
            raise ValueError(f"online.critic_updates must be at least 1, got {self.online.critic_updates}")


class EntropyWeight(nn.Module):
    """The entropy weight alpha. It is always positive, because its logarithm is learnt."""

    def __init__(self, start: float) -> None:
        super().__init__()
        self.log = nn.Parameter(torch.tensor(math.log(start)))

    def forward(self) -> Tensor:
        return self.log.exp()


class SAC(OnlineMethod):
    """SAC with prior data, as described in the module docstring.

    Attributes:
        actor: The policy that is trained.
        policy: The moving average of the actor's weights, which acts.
        critic: The ensemble of E critics Q(s, chunk).
        alpha: The entropy weight.
    """

    config: SACConfig

    def __init__(
        self, config: SACConfig, observation_dim: ObservationSize, action_dim: int, device: str = "cpu"
    ) -> None:
        self.config, self.device = config, device
        actor = config.make_policy(observation_dim, action_dim).to(device)
        if not actor.flow.exact_density:
            raise ValueError(f"flow {config.flow!r} has no exact density, which an entropy needs; choose another flow")
        self.policy_learner = PolicyLearner(actor, config.imitation, config.ema_rate)
        self.actor, self.policy = actor, self.policy_learner.policy
        self.alpha = EntropyWeight(config.entropy_weight).to(device)
        self.alpha_optimizer = torch.optim.Adam(self.alpha.parameters(), config.online.learning_rate, fused=True)
        self.critic_learner = CriticLearner(config, self.policy, device)
        self.critic = self.critic_learner.critic
        self.deployed = BestOfN(self.policy, self.critic, config.n_action_steps, config.candidates, config.temperature)

    @property
    def imitates(self) -> bool:
        """Whether imitation has updates. Without it, a tanh-Gaussian needs no density at the bounds of the actions."""
        return self.config.imitation_updates > 0

    @property
    def discount(self) -> float | None:
        """The discount, or None if the values contain the entropy, which no return does."""
        return None if self.config.entropy_in_target else super().discount

    # ------------------------------------------------------------------------------------------------------- stages

    def stages(self) -> Sequence[Stage]:
        c = self.config
        return [
            Stage("imitation", updates=c.imitation_updates, update=self.imitate),
            Stage(
                "online",
                environment_steps=c.online.steps,
                updates_per_step=c.online.updates_per_step,
                candidates=c.candidates,
                begin=partial(self.policy_learner.renew_optimizer, c.online.learning_rate),
                update=self.learn,
            ),
        ]

    @torch.inference_mode()
    def explore(self, observation: Tensor, arms: Tensor) -> Tensor:
        """Sample chunks from the policy. They are not kept as proposals, because own chunks are never imitated."""
        return self.policy.propose(observation)[:, 0]

    def learn(self, data: Data, progress: float) -> Scalars:
        """Update the critics several times, then the actor and the entropy weight once."""
        for _ in range(self.config.online.critic_updates):
            batch = self.sample(data, self.config.horizon)
            scalars = self.update_critic(batch)
        return scalars | self.update_actor(batch.observation)

    # ------------------------------------------------------------------------------------------------------- losses

    def critic_loss(self, batch: Windows[Tensor]) -> tuple[Tensor, Tensor]:
        """Return (Q(s, a) - y)^2 with the soft target y of the module docstring.

        Returns:
            The loss, and Q(s, a) as (E, B).
        """
        c, target_critic = self.config, self.critic_learner.target
        with torch.no_grad():
            chunk, log_prob = self.policy.propose_with_log_prob(batch.next_observation)
            members = torch.randperm(c.critic_members)[: c.target_members]
            features = self.policy.features(batch.next_observation)
            next_value = target_critic(features, chunk.clamp(-1, 1))[members].amin(0)
            if c.entropy_in_target:
                next_value = next_value - self.alpha() * log_prob
            target = self.critic_learner.td_target(batch, next_value[:, 0])
        q = self.critic_learner.q(batch)
        return (q - target).square().mean(), q

    def actor_loss(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        """Return alpha log pi(a | s) - mean_j Q_j(s, a) for a sample a ~ pi(. | s).

        Returns:
            The loss, and the entropy of the policy in nats per dimension of a chunk.
        """
        chunk, log_prob = self.actor.propose_with_log_prob(observation)
        q = self.critic_learner.value(observation, chunk.clamp(-1, 1))
        entropy = -log_prob.detach().mean() / chunk[0, 0].numel()
        return (self.alpha().detach() * log_prob - q).mean(), entropy

    def alpha_loss(self, entropy: Tensor) -> Tensor:
        """Return log(alpha) * (entropy - target_entropy): alpha rises while the entropy is below its target."""
        return self.alpha.log * (entropy - self.config.target_entropy)

    # ------------------------------------------------------------------------------------------------------ updates

    def update_critic(self, batch: Windows[Tensor]) -> Scalars:
        """Make one update of the critics, and return its scalars."""
        loss, q = self.critic_loss(self.critic_learner.read(batch))
        return self.critic_learner.descend(loss) | critic_scalars(loss, q)

    def update_actor(self, observation: Tensor) -> Scalars:
        """Make one update of the actor, and return its scalars."""
        alpha = self.alpha().detach()
        loss, entropy = self.actor_loss(observation)
        step = self.policy_learner.descend(loss)
        descend(self.alpha_loss(entropy), self.alpha_optimizer, "entropy weight")
        return {"train/actor_loss": loss.detach(), "sac/entropy": entropy, "sac/entropy_weight": alpha, **step}

    def parts(self) -> Mapping[str, Any]:
        return {
            "policy_learner": self.policy_learner.parts(),
            "alpha": self.alpha,
            "alpha_optimizer": self.alpha_optimizer,
            **self.critic_learner.parts(),
        }
