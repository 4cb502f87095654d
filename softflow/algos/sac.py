"""SAC with prior data: soft actor-critic whose batches are half demonstrations (RLPD, arXiv 2302.02948).

    imitation   maximum likelihood on the demonstrations' chunks; left out unless it is given updates
    online      critics, actor and entropy weight, on demonstrations and own episodes, half and half

Nothing has to be imitated: demonstrations enter by the replay alone. `critic_updates` times in each update, the E
critics regress on

    y = sum_{i<k} discount^i r_i + discount^k * (min_{j in M} Q_j(s_k, a') - alpha log pi(a' | s_k)),  a' ~ pi(. | s_k),

M a random few of the target critics, drawn anew for each batch (REDQ, arXiv 2101.05982): together with the critics'
layer normalisation it is what many updates for each step need. Then, once, the actor minimises the first and alpha the
second of

    alpha log pi(a | s) - mean_j Q_j(s, a),  a ~ pi(. | s)        log(alpha) * (entropy - target_entropy)

(arXiv 1812.05905; by log(alpha), as in its authors' code, alpha goes on as fast when it is small). An action is a chunk
of H steps. With H = 1, the default, this is RLPD; beyond it, entropies are those of whole chunks, so that a chunk must
be valued and executed whole: the rest of it would be left to chance.

Own episodes are draws from the policy; what deploys is its mode.
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
    """Online RL."""

    updates_per_step: float = 0.05
    """Updates of actor and entropy weight for each primitive step."""
    critic_updates: int = 5
    """Updates of the critics before each of these. RLPD has 20 of them, and one of the actor, for each step."""
    learning_rate: float = 3e-4
    """Learning rate of the actor's AdamW and the entropy weight's Adam."""


@dataclass
class SACConfig(OnlineMethodConfig):
    """Settings of SAC with prior data."""

    horizon: int = 1
    """Actions of a chunk that the policy proposes."""
    n_action_steps: int = 1
    """Actions of a chunk that are executed: all of them."""
    temperature: float = 0.0
    """Scale of the base noise of deployed chunks; own episodes are collected at 1."""
    ema_rate: float = 1.0
    """Rate of the running average of the actor's weights, which is the policy that acts; at 1 the actor itself."""
    critic_members: int = 10
    """Critics in the ensemble, E; the actor follows their mean."""
    critic_learning_rate: float = 3e-4
    """Learning rate of the critics' AdamW."""
    target_members: int = 2
    """Critics of which a target takes the least."""
    entropy_in_target: bool = True
    """Whether targets count the entropy to come; RLPD leaves it out where the reward is sparse."""
    entropy_weight: float = 1.0
    """alpha at the start; learnt from there on."""
    target_entropy: float = -0.5
    """Entropy that alpha is learnt to keep, in nats for each number of a chunk."""
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
                f"a soft target values one draw: target_candidates must be 1, got {self.target_candidates}"
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
    """alpha: positive, because its logarithm is what is learnt."""

    def __init__(self, start: float) -> None:
        super().__init__()
        self.log = nn.Parameter(torch.tensor(math.log(start)))

    def forward(self) -> Tensor:
        return self.log.exp()


class SAC(OnlineMethod):
    """SAC with prior data, see the module.

    Attributes:
        actor: The policy that learns.
        policy: The moving average of its weights, which acts.
        critic: Q(s, chunk), E of them.
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
        """A tanh-Gaussian has no density at the bounds of the actions, and needs none to learn by the critic."""
        return self.config.imitation.updates > 0

    # ------------------------------------------------------------------------------------------------------- stages

    def stages(self) -> Sequence[Stage]:
        c = self.config
        return [
            Stage("imitation", updates=c.imitation.updates, update=self.imitate),
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
    def explore(self, observation: Tensor) -> Tensor:
        """A draw from the policy."""
        return self.policy.propose(observation)[:, 0]

    def learn(self, data: Data, progress: float) -> Scalars:
        """Several updates of the critics, and one of the actor and the entropy weight."""
        for _ in range(self.config.online.critic_updates):
            batch = self.sample(data, self.config.horizon)
            scalars = self.update_critic(batch)
        return scalars | self.update_actor(batch.observation)

    # ------------------------------------------------------------------------------------------------------- losses

    def critic_loss(self, batch: Windows[Tensor]) -> tuple[Tensor, Tensor]:
        """(Q(s, a) - y)^2 with the soft target y of the module, the least of a random few critics in it.

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
        """alpha log pi(a | s) - mean_j Q_j(s, a) for a draw a ~ pi(. | s).

        Returns:
            The loss, and the entropy of the policy in nats for each number of a chunk.
        """
        chunk, log_prob = self.actor.propose_with_log_prob(observation)
        q = self.critic_learner.value(observation, chunk.clamp(-1, 1))
        entropy = -log_prob.detach().mean() / chunk[0, 0].numel()
        return (self.alpha().detach() * log_prob - q).mean(), entropy

    def alpha_loss(self, entropy: Tensor) -> Tensor:
        """log(alpha) * (entropy - target_entropy): alpha rises if the policy's entropy is below its target."""
        return self.alpha.log * (entropy - self.config.target_entropy)

    # ------------------------------------------------------------------------------------------------------ updates

    def update_critic(self, batch: Windows[Tensor]) -> Scalars:
        loss, q = self.critic_loss(batch)
        self.critic_learner.descend(loss)
        return critic_scalars(loss, q)

    def update_actor(self, observation: Tensor) -> Scalars:
        alpha = self.alpha().detach()
        loss, entropy = self.actor_loss(observation)
        self.policy_learner.descend(loss)
        descend(self.alpha_loss(entropy), self.alpha_optimizer, "entropy weight")
        return {"train/actor_loss": loss.detach(), "sac/entropy": entropy, "sac/entropy_weight": alpha}

    def parts(self) -> Mapping[str, Any]:
        return {
            "policy_learner": self.policy_learner.parts(),
            "alpha": self.alpha,
            "alpha_optimizer": self.alpha_optimizer,
            **self.critic_learner.parts(),
        }
