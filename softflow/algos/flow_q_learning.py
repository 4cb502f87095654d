"""Flow Q-learning (FQL, arXiv 2502.02538), here over action chunks with a chunk critic (QC-FQL, arXiv 2507.07969).

A critic improves a one-step policy, and a flow keeps that policy close to the data.

    imitation       the flow imitates the demonstrations' chunks, and the one-step policy mu follows the flow
    critic_warmup   both are frozen, and the critic learns to value the chunks of mu
    offline         flow, mu and critic on the demonstrations
    online          flow, mu and critic on half demonstrations, half own episodes

Flow and mu minimise one sum over observations s of the batch, latents z of the flow and chunks of the data,

    flow_loss(a_data | s)  +  distillation_weight * mean ((mu(s, z) - flow(s, z)) / scale)^2  -  Q(s, mu(s, z)) / |Q|

(without the Q term during imitation). Here scale is that of each action dimension, or 1 if the policy does not
normalise actions. The first term only trains the flow, and the other two only train mu. So the critic cannot change the
flow that constrains mu, and no gradient passes through the flow's steps. The data chunks are all demonstrated and own
chunks that are worth imitating by the run's rule `imitate`; the paper imitates all chunks. Own chunks are those that
mu proposed at its decisions, whole and clipped: mu has no density, and the flow should learn what acts in the box.

Latents are sampled at the acting temperature. The moving average of mu acts, proposes the chunks in the critic's target
and is deployed; the paper uses mu itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from softflow.algos.base import Data, Scalars, Stage
from softflow.algos.chunk_critic import CriticLearner, critic_scalars, normalized_q_loss
from softflow.algos.online import OnlineMethod
from softflow.algos.optimization import set_learning_rate
from softflow.algos.policy_learner import PolicyLearner
from softflow.algos.settings import OnlineMethodConfig, OnlineStageConfig, WarmupConfig
from softflow.data import Windows
from softflow.policies import BestOfN, OneStepPolicy
from softflow.task.layout import ObservationSize


@dataclass
class OneStepConfig:
    """The network of the one-step policy, and the weight of its distance from the flow."""

    width: int = 256
    """Number of units in each hidden layer of the one-step policy."""
    depth: int = 3
    """Number of hidden layers of the one-step policy."""
    distillation_weight: float = 100.0
    """Weight of the squared distance from the flow's chunk, per dimension and in normalised units. Higher values stay
    closer to the data. It is the paper's alpha, which the paper tunes for each task. On `tape_cut`, offline RL with 10
    lost much of the imitated skill."""


@dataclass
class FlowQLearningOfflineConfig:
    """Offline RL on the demonstrations."""

    learning_rate: float = 3e-4
    """Initial learning rate of AdamW for flow and one-step policy. It decays to zero along a cosine over the stage."""
    updates: int = 1_000
    """Number of updates of flow, one-step policy and critic."""


@dataclass
class FlowQLearningOnlineConfig(OnlineStageConfig):
    """Online RL on the demonstrations and the policy's own episodes."""

    learning_rate: float = 3e-4
    """Initial learning rate of AdamW for flow and one-step policy. It decays to zero along a cosine over the stage."""


@dataclass
class FlowQLearningConfig(OnlineMethodConfig):
    """Settings of flow Q-learning."""

    one_step: OneStepConfig = field(default_factory=OneStepConfig)
    warmup: WarmupConfig = field(default_factory=WarmupConfig)
    offline: FlowQLearningOfflineConfig = field(default_factory=FlowQLearningOfflineConfig)
    online: FlowQLearningOnlineConfig = field(default_factory=FlowQLearningOnlineConfig)


class FlowQLearning(OnlineMethod):
    """Flow Q-learning, as described in the module docstring.

    Attributes:
        actor: The flow and the one-step policy mu, which are trained.
        policy: The moving average of the actor's weights, which acts.
        critic: Q(s, chunk).
    """

    config: FlowQLearningConfig
    base_kind = OneStepPolicy

    def __init__(
        self, config: FlowQLearningConfig, observation_dim: ObservationSize, action_dim: int, device: str = "cpu"
    ) -> None:
        self.config, self.device = config, device
        flow = config.make_policy(observation_dim, action_dim)
        self.actor = OneStepPolicy(flow, width=config.one_step.width, depth=config.one_step.depth).to(device)
        self.policy_learner = PolicyLearner(self.actor, config.imitation, config.ema_rate)
        self.policy = self.policy_learner.policy
        self.critic_learner = CriticLearner(config, self.policy, device)
        self.critic = self.critic_learner.critic
        self.deployed = BestOfN(self.policy, self.critic, config.n_action_steps, config.candidates, config.temperature)

    # ------------------------------------------------------------------------------------------------------- stages

    def stages(self) -> Sequence[Stage]:
        c = self.config
        return [
            Stage("imitation", updates=c.imitation_updates, update=self.imitate),
            Stage("critic_warmup", updates=c.warmup.updates, update=self.learn_values),
            Stage(
                "offline",
                updates=c.offline.updates,
                begin=partial(self.policy_learner.restart, c.offline.learning_rate),
                update=partial(self.improve, c.offline.learning_rate),
            ),
            Stage(
                "online",
                environment_steps=c.online.steps,
                updates_per_step=c.online.updates_per_step,
                candidates=c.candidates,
                begin=partial(self.policy_learner.restart, c.online.learning_rate),
                update=partial(self.improve, c.online.learning_rate),
            ),
        ]

    def imitate(self, data: Data, progress: float) -> Scalars:
        """Update flow and mu once without the critic: the flow imitates, and mu follows the flow."""
        set_learning_rate(self.policy_learner.optimizer, self.config.imitation.learning_rate, progress)
        imitable = self.sample(data, self.config.horizon, imitable=True)
        return self.update_actor(imitable.observation, imitable, improve=False)

    def learn_values(self, data: Data, progress: float) -> Scalars:
        """Update the critic once. Flow and mu stay frozen."""
        return self.update_critic(self.sample(data, self.critic.horizon))

    def improve(self, learning_rate: float, data: Data, progress: float) -> Scalars:
        """Update the critic once, then flow and mu."""
        batch = self.sample(data, self.critic.horizon)
        scalars = self.update_critic(batch)
        set_learning_rate(self.policy_learner.optimizer, learning_rate, progress)
        imitable = self.sample(data, self.config.horizon, imitable=True)
        return scalars | self.update_actor(batch.observation, imitable, improve=True)

    # ------------------------------------------------------------------------------------------------------- losses

    def critic_loss(self, batch: Windows[Tensor]) -> tuple[Tensor, Tensor]:
        """Return (Q(s, a) - y)^2 with y = sum_{i<k} g^i r_i + g^k Q'(s_k, mu(s_k, z)).

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

    def actor_loss(self, observation: Tensor, imitable: Windows[Tensor], improve: bool) -> tuple[Tensor, Scalars]:
        """Return the sum of the three terms. The Q term is only included with `improve`."""
        latent, chunk = self.actor.draw(observation, 1, self.config.temperature)
        imitation = self.actor.bc_loss(imitable.observation, imitable.chunk)
        distillation = self.actor.distillation_loss(observation, latent, chunk)
        loss = imitation + self.config.one_step.distillation_weight * distillation
        if improve:
            q = self.critic_learner.value(observation, chunk.clamp(-1, 1))
            loss = loss + normalized_q_loss(q)
        return loss, {
            "train/actor_loss": loss.detach(),
            self.policy_learner.loss_name: imitation.detach(),
            "one_step/distance_rms": distillation.sqrt().detach(),
        }

    # ------------------------------------------------------------------------------------------------------ updates

    def update_critic(self, batch: Windows[Tensor]) -> Scalars:
        """Make one update of the critics, and return its scalars."""
        loss, q = self.critic_loss(self.critic_learner.read(batch))
        return self.critic_learner.descend(loss) | critic_scalars(loss, q)

    def update_actor(self, observation: Tensor, imitable: Windows[Tensor], improve: bool) -> Scalars:
        """Make one update of the actor, and return its scalars."""
        loss, scalars = self.actor_loss(observation, imitable, improve)
        return scalars | self.policy_learner.descend(loss)

    def parts(self) -> Mapping[str, Any]:
        return {"policy_learner": self.policy_learner.parts(), **self.critic_learner.parts()}
