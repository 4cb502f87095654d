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
from typing import Any

import torch
from torch import Tensor, nn

from softflow.algos.base import Data, Stage
from softflow.algos.chunk_critic import ChunkCriticLearner
from softflow.algos.imitation import ImitationConfig, Imitator, descend, make_policy
from softflow.algos.online import OnlineMethod, OnlineMethodConfig, OnlineStageConfig
from softflow.policies import BestOfN, FlowPolicy
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


class SoftCriticLearner(ChunkCriticLearner):
    """Critics whose targets are the least of a random few, and count the entropy to come."""

    config: SACConfig
    policy: FlowPolicy

    def __init__(self, config: SACConfig, policy: FlowPolicy, alpha: EntropyWeight, device: str = "cpu") -> None:
        super().__init__(config, policy, device)
        self.alpha = alpha

    def next_value(self, observation: Tensor) -> Tensor:
        """min_{j in M} Q_j(s, a) - alpha log pi(a | s) for a draw a of the policy: (B, O) -> (B,)."""
        chunk, log_prob = self.policy.propose_with_log_prob(observation)
        members = torch.randperm(self.config.critic_members)[: self.config.target_members]
        value = self.target(self.policy.features(observation), chunk.clamp(-1, 1))[members].amin(0)
        if self.config.entropy_in_target:
            value = value - self.alpha() * log_prob
        return value[:, 0]


class SAC(OnlineMethod):
    """See the module. `imitator` holds the actor, which learns, and the policy, its running average, which acts."""

    config: SACConfig

    def __init__(
        self, config: SACConfig, observation_dim: ObservationSize, action_dim: int, device: str = "cpu"
    ) -> None:
        self.config, self.n_action_steps, self.device = config, config.n_action_steps, device
        actor = make_policy(config, observation_dim, action_dim).to(device)
        if not actor.flow.exact_density:
            raise ValueError(f"flow {config.flow!r} has no exact density, which an entropy needs; choose another flow")
        self.imitator = Imitator(actor, config.imitation, config.ema_rate)
        self.actor, self.policy = actor, self.imitator.policy
        self.alpha = EntropyWeight(config.entropy_weight).to(device)
        self.alpha_optimizer = torch.optim.Adam(self.alpha.parameters(), config.online.learning_rate, fused=True)
        self.learner = SoftCriticLearner(config, self.policy, self.alpha, device)
        self.deployed = BestOfN(
            self.policy, self.learner.critic, config.n_action_steps, config.candidates, config.temperature
        )

    @property
    def imitates(self) -> bool:
        """A tanh-Gaussian has no density at the bounds of the actions, and needs none to learn by the critic."""
        return self.config.imitation.updates > 0

    def fit_normalizer(self, mean: Tensor, std: Tensor) -> None:
        self.imitator.fit_normalizer(mean, std)

    def stages(self) -> Sequence[Stage]:
        imitation, online = self.config.imitation, self.config.online
        stages = (
            Stage("imitation", updates=imitation.updates),
            Stage("online", environment_steps=online.steps, updates_per_step=online.updates_per_step),
        )
        return [stage for stage in stages if stage.total > 0]

    def begin(self, stage: Stage) -> None:
        super().begin(stage)
        if stage.name == "online":
            self.imitator.renew_optimizer(self.config.online.learning_rate)

    @torch.inference_mode()
    def explore(self, observation: Tensor) -> Tensor:
        """A draw from the policy."""
        return self.policy.propose(observation)[:, 0]

    def update(self, stage: Stage, data: Data, progress: float) -> dict[str, Tensor]:
        c = self.config
        if stage.name == "imitation":
            return self.imitator.update(self.sample(data, c.horizon, imitable=True), progress)
        for _ in range(c.online.critic_updates):
            batch = self.sample(data, c.horizon)
            scalars = self.learner.update(batch)
        return scalars | self.update_actor(batch.observation)

    def update_actor(self, observation: Tensor) -> dict[str, Tensor]:
        """One step of the actor, and one of alpha: up if the policy's entropy is below its target, else down."""
        chunk, log_prob = self.actor.propose_with_log_prob(observation)
        q = self.learner.value(self.learner.critic, observation, chunk.clamp(-1, 1))
        alpha = self.alpha()
        loss = (alpha.detach() * log_prob - q).mean()
        self.imitator.step(loss)
        entropy = -log_prob.detach().mean() / chunk[0, 0].numel()
        alpha_loss = self.alpha.log * (entropy - self.config.target_entropy)
        descend(alpha_loss, self.alpha_optimizer, "entropy weight")
        return {"train/actor_loss": loss.detach(), "sac/entropy": entropy, "sac/entropy_weight": alpha.detach()}

    def parts(self) -> Mapping[str, Any]:
        return {"imitator": self.imitator, "alpha": self.alpha, "alpha_optimizer": self.alpha_optimizer}
