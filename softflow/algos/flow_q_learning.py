"""Flow Q-learning: a one-step policy that a critic improves and a flow holds to the data (FQL, arXiv 2502.02538), here
over action chunks and with a chunk critic (QC-FQL of arXiv 2507.07969).

    imitation       the flow imitates the demonstrations' chunks, and the one-step policy mu follows the flow
    critic_warmup   both are frozen, the critic learns to value the chunks of mu
    offline         flow, mu and critic on the demonstrations
    online          the same on demonstrations and own episodes, half and half

Flow and mu minimise one sum, over observations s of the batch, latents z of the flow and chunks of the data,

    flow_loss(a_data | s)  +  distillation_weight * mean (mu(s, z) - flow(s, z))^2  -  Q(s, mu(s, z)) / |Q|

(no Q during imitation). The first term moves the flow alone, the other two mu alone: the critic never bends what holds
mu back, and no gradient passes through the flow's steps. Chunks of the data are those that reward still comes after,
demonstrated and own, where the paper imitates all of them.

Latents are drawn at the temperature that acts. What acts, what the target values, and what deploys is the running
average of mu; the paper's policy acts as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from softflow.algos.base import Data, Stage
from softflow.algos.chunk_critic import ChunkCriticLearner, WarmupConfig
from softflow.algos.imitation import Imitator, make_policy
from softflow.algos.online import OnlineMethod, OnlineMethodConfig, OnlineStageConfig
from softflow.data import Windows
from softflow.policies import BestOfN, OneStepPolicy
from softflow.task.layout import ObservationSize


@dataclass
class OneStepConfig:
    """The network of the one-step policy, and how closely it follows the flow."""

    width: int = 256
    """Units of each of its hidden layers."""
    depth: int = 3
    """Number of hidden layers."""
    distillation_weight: float = 1_000.0
    """Weight of the squared distance from the flow's chunk, per dimension: alpha of the paper, which tunes it for each
    task. `tape_cut` forgives little: with 100, offline RL lost much of what imitation had learnt."""


@dataclass
class FlowQLearningOfflineConfig:
    """Offline RL on the demonstrations."""

    learning_rate: float = 3e-4
    """Learning rate of AdamW for flow and one-step policy at the start of the stage; falls to zero along a cosine."""
    updates: int = 1_000
    """Updates of flow, one-step policy and critic."""


@dataclass
class FlowQLearningOnlineConfig(OnlineStageConfig):
    """Online RL."""

    learning_rate: float = 3e-4
    """Learning rate of AdamW for flow and one-step policy at the start of the stage; falls to zero along a cosine."""


@dataclass
class FlowQLearningConfig(OnlineMethodConfig):
    """Settings of flow Q-learning."""

    one_step: OneStepConfig = field(default_factory=OneStepConfig)
    warmup: WarmupConfig = field(default_factory=WarmupConfig)
    offline: FlowQLearningOfflineConfig = field(default_factory=FlowQLearningOfflineConfig)
    online: FlowQLearningOnlineConfig = field(default_factory=FlowQLearningOnlineConfig)


class FlowQLearning(OnlineMethod):
    """See the module. `imitator` holds the actor, flow and mu, which learns, and the policy, its running average."""

    config: FlowQLearningConfig

    def __init__(
        self, config: FlowQLearningConfig, observation_dim: ObservationSize, action_dim: int, device: str = "cpu"
    ) -> None:
        self.config, self.n_action_steps, self.device = config, config.n_action_steps, device
        flow = make_policy(config, observation_dim, action_dim)
        self.actor = OneStepPolicy(flow, width=config.one_step.width, depth=config.one_step.depth).to(device)
        self.imitator = Imitator(self.actor, config.imitation, config.ema_rate)
        self.policy = self.imitator.policy
        self.learner = ChunkCriticLearner(config, self.policy, device)
        self.deployed = BestOfN(
            self.policy, self.learner.critic, config.n_action_steps, config.candidates, config.temperature
        )

    def fit_normalizer(self, mean: Tensor, std: Tensor) -> None:
        self.imitator.fit_normalizer(mean, std)

    # ------------------------------------------------------------------------------------------------------- stages

    def stages(self) -> Sequence[Stage]:
        c = self.config
        stages = (
            Stage("imitation", updates=c.imitation.updates),
            Stage("critic_warmup", updates=c.warmup.updates),
            Stage("offline", updates=c.offline.updates),
            Stage("online", environment_steps=c.online.steps, updates_per_step=c.online.updates_per_step),
        )
        return [stage for stage in stages if stage.total > 0]

    def begin(self, stage: Stage) -> None:
        """Start from what acted in the stage before, with a new optimiser."""
        super().begin(stage)
        if stage.name in ("offline", "online"):
            self.actor.load_state_dict(self.policy.state_dict())
            self.imitator.renew_optimizer(getattr(self.config, stage.name).learning_rate)

    def update(self, stage: Stage, data: Data, progress: float) -> dict[str, Tensor]:
        c = self.config
        if stage.name == "imitation":
            self.imitator.set_learning_rate(c.imitation.learning_rate, progress)
            imitable = self.sample(data, c.horizon, imitable=True)
            return self.update_actor(imitable.observation, imitable, improve=False)
        batch = self.sample(data, self.learner.critic.horizon)
        scalars = self.learner.update(batch)
        if stage.name == "critic_warmup":
            return scalars
        self.imitator.set_learning_rate(getattr(c, stage.name).learning_rate, progress)
        imitable = self.sample(data, c.horizon, imitable=True)
        return scalars | self.update_actor(batch.observation, imitable, improve=True)

    def update_actor(self, observation: Tensor, imitable: Windows[Tensor], improve: bool) -> dict[str, Tensor]:
        """One step of flow and mu on the sum of their terms, without the critic's unless they `improve`."""
        latent, chunk = self.actor.draw(observation, 1, self.config.temperature)
        imitation = self.actor.bc_loss(imitable.observation, imitable.chunk)
        distillation = self.actor.distillation_loss(observation, latent, chunk)
        loss = imitation + self.config.one_step.distillation_weight * distillation
        if improve:
            loss = loss + self.learner.actor_loss(observation, chunk.clamp(-1, 1))
        self.imitator.step(loss)
        scalars = {"train/actor_loss": loss, self.imitator.loss_name: imitation}
        scalars["one_step/distance_rms"] = distillation.sqrt()
        return {name: value.detach() for name, value in scalars.items()}

    def parts(self) -> Mapping[str, Any]:
        return {"imitator": self.imitator}
