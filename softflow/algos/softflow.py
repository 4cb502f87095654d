"""SOFT-FLOW: a normalizing-flow policy over action chunks, fine-tuned against a chunk-level critic.

arXiv 2602.09580. Four stages of one loop:

    imitation       maximum likelihood on the demonstrations' chunks
    critic_warmup   the critic learns to value the chunks of the frozen policy
    offline         actor and critic on the demonstrations
    online          actor and critic on half demonstrations, half own episodes

The actor minimises, over its own chunks a ~ pi(. | s) and chunks of the data (d is the dimension of a chunk),

    q_weight * -Q(s, a) / |Q|  +  kl_weight * KL(pi || pi_imitation) / d  +  nll_weight * -w log pi(a_data | s) / d

Both conservative terms are exact because the flow's density is exact. Flow matching has no exact density: its KL is
refused, and its regression loss replaces the likelihood. The data chunks are all demonstrated and own chunks that are
still followed by reward. Each is weighted by w = exp(A / advantage_scale) with its advantage A = Q - V, so sloppy but
successful chunks count less. With the likelihood alone, the default, the actor does not follow the critic's gradient,
so it is never drawn to chunks that nobody has tried.

The acting policy is the moving average of the actor's weights. The critic chooses among the chunks that it proposes.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from critics import StateValue
from softflow.algos.base import Data, Scalars, Stage
from softflow.algos.chunk_critic import (
    CriticLearner,
    advantage_weight,
    critic_scalars,
    normalized_q_loss,
)
from softflow.algos.online import OnlineMethod
from softflow.algos.optimization import descend, set_learning_rate
from softflow.algos.policy_learner import PolicyLearner
from softflow.algos.settings import OnlineMethodConfig, OnlineStageConfig, WarmupConfig
from softflow.data import Windows, to_torch
from softflow.policies import BestOfN, ChunkPolicy
from softflow.task.layout import ObservationSize


@dataclass
class ImprovementConfig:
    """The objective and learning rate of the actor in an offline or online stage."""

    learning_rate: float = 5e-4
    """Initial learning rate of AdamW for the actor. It decays to zero along a cosine over the stage."""
    q_weight: float = 0.0
    """Weight of -Q / |Q| on the actor's own chunks. Higher values follow the critic's gradient more."""
    kl_weight: float = 0.0
    """Weight of the exact KL divergence from the frozen imitation policy, per dimension.
    Higher values stay closer to imitation. Requires a flow with an exact density."""
    final_kl_weight: float | None = None
    """KL weight at the end of the stage, reached geometrically. By default the weight stays constant."""
    nll_weight: float = 1.0
    """Weight of the negative log-likelihood, per dimension, of data chunks that are followed by reward.
    A flow without a likelihood uses its own loss. Higher values stay closer to the data."""
    advantage_scale: float | None = 1.0
    """Data chunks are weighted by exp(A / advantage_scale), with the advantage A in standard deviations of the batch.
    Higher values weight them more evenly; None weights them equally."""

    def __post_init__(self) -> None:
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
    updates: int = 1_000
    """Number of updates of actor and critic."""


@dataclass
class OnlineConfig(ImprovementConfig, OnlineStageConfig):
    """Online RL on the demonstrations and the policy's own episodes."""

    def __post_init__(self) -> None:
        ImprovementConfig.__post_init__(self)
        OnlineStageConfig.__post_init__(self)


@dataclass
class SoftFlowConfig(OnlineMethodConfig):
    """Settings of SOFT-FLOW."""

    candidates: int = 4
    """Number of chunks proposed for each one that is executed. The critic chooses among them.
    More candidates follow the critic more closely, including its errors."""
    warmup: WarmupConfig = field(default_factory=WarmupConfig)
    offline: OfflineConfig = field(default_factory=OfflineConfig)
    online: OnlineConfig = field(default_factory=OnlineConfig)


class SoftFlow(OnlineMethod):
    """SOFT-FLOW, as described in the module docstring.

    Attributes:
        actor: The policy that is trained.
        policy: The moving average of the actor's weights, which acts.
        imitation_policy: A frozen copy of the policy after imitation.
        critic: Q(s, chunk).
        state_value: V(s), or None if no stage uses advantages.
    """

    config: SoftFlowConfig

    def __init__(
        self, config: SoftFlowConfig, observation_dim: ObservationSize, action_dim: int, device: str = "cpu"
    ) -> None:
        self.config, self.device = config, device
        actor = config.make_policy(observation_dim, action_dim).to(device)
        for name, stage in (("offline", config.offline), ("online", config.online)):
            if stage.kl_weight and not actor.flow.exact_density:
                raise ValueError(
                    f"{name}.kl_weight is {stage.kl_weight:g}, but flow {config.flow!r} has no exact density, which "
                    f"the KL requires; set {name}.kl_weight to 0, or choose another flow"
                )
        self.policy_learner = PolicyLearner(actor, config.imitation, config.ema_rate)
        self.actor, self.policy = actor, self.policy_learner.policy
        self.imitation_policy = copy.deepcopy(self.policy)
        self.critic_learner = CriticLearner(config, self.policy, device)
        self.critic = self.critic_learner.critic
        self.state_value = None
        if any(stage.nll_weight and stage.advantage_scale for stage in (config.offline, config.online)):
            value = StateValue(context_dim=self.policy.context_dim, width=config.critic_width).to(device)
            self.state_value = value
            self.value_optimizer = torch.optim.AdamW(value.parameters(), config.critic_learning_rate, fused=True)
        self.deployed = BestOfN(self.policy, self.critic, config.n_action_steps, config.candidates, config.temperature)

    # ------------------------------------------------------------------------------------------------------- stages

    def stages(self) -> Sequence[Stage]:
        c = self.config
        return [
            Stage(
                "imitation",
                updates=c.imitation_updates,
                update=self.imitate,
                end=self.freeze_imitation,
                diagnose=self.diagnose_bounds,
            ),
            Stage(
                "critic_warmup",
                updates=c.warmup.updates,
                update=self.learn_values,
                diagnose=self.diagnose_kl,
            ),
            Stage(
                "offline",
                updates=c.offline.updates,
                begin=partial(self.policy_learner.restart, c.offline.learning_rate),
                update=partial(self.improve, c.offline),
                diagnose=self.diagnose_kl,
            ),
            Stage(
                "online",
                environment_steps=c.online.steps,
                updates_per_step=c.online.updates_per_step,
                candidates=c.candidates,
                begin=partial(self.policy_learner.restart, c.online.learning_rate),
                update=partial(self.improve, c.online),
                diagnose=self.diagnose_kl,
            ),
        ]

    def load_base(self, policy: ChunkPolicy) -> None:
        super().load_base(policy)
        self.freeze_imitation()

    def freeze_imitation(self) -> None:
        """Copy the policy after imitation; the KL is measured from this copy."""
        self.imitation_policy.load_state_dict(self.policy.state_dict())

    def learn_values(self, data: Data, progress: float) -> Scalars:
        """Update the critic and the state value once. The policy stays frozen."""
        return self.update_critic(self.sample(data, self.critic.horizon))

    def improve(self, config: ImprovementConfig, data: Data, progress: float) -> Scalars:
        """Update the critic and the state value once, then the actor."""
        batch = self.sample(data, self.critic.horizon)
        scalars = self.update_critic(batch)
        if config.trains_actor:
            set_learning_rate(self.policy_learner.optimizer, config.learning_rate, progress)
            imitable = self.sample(data, self.config.horizon, imitable=True)
            scalars |= self.update_actor(batch, imitable, config, progress)
        return scalars

    # ------------------------------------------------------------------------------------------------------- losses

    def critic_loss(self, batch: Windows[Tensor], context: Tensor) -> tuple[Tensor, Tensor]:
        """Return (Q(s, a) - y)^2 with y = sum_{i<k} g^i r_i + g^k Q'(s_k, a'), a' the best of several ~ pi(. | s_k).

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
        q = self.critic(context, batch.chunk)
        return (q - target).square().mean(), q

    def value_loss(self, context: Tensor, q: Tensor) -> Tensor:
        """Return (V(s) - Q(s, a))^2 on the data's chunks, so that V learns their mean without any proposed chunk."""
        assert self.state_value is not None
        return (self.state_value(context) - q.detach().mean(0)).square().mean()

    def actor_loss(
        self, batch: Windows[Tensor], imitable: Windows[Tensor], config: ImprovementConfig, progress: float
    ) -> tuple[Tensor, Scalars]:
        """Return the sum of the three terms. A term with weight zero is not computed."""
        scalars: Scalars = {}
        loss = torch.zeros((), device=self.device)
        if config.kl_weight:
            chunk, log_prob = self.actor.propose_with_log_prob(batch.observation)
            kl = (log_prob - self.imitation_policy.log_prob(batch.observation, chunk)).mean() / chunk[0, 0].numel()
            scalars["flow/kl_to_imitation"] = kl.detach()
            loss = loss + config.kl_weight_at(progress) * kl
        if config.q_weight:
            proposed = chunk.clamp(-1, 1) if config.kl_weight else self.actor.propose(batch.observation)
            q = self.critic_learner.value(batch.observation, proposed)
            loss = loss + normalized_q_loss(q, config.q_weight)
        if config.nll_weight:
            weight = self.chunk_weight(imitable, config.advantage_scale) if config.advantage_scale else None
            data_loss = self.actor.bc_loss(imitable.observation, imitable.chunk, weight)
            scalars[self.policy_learner.loss_name] = data_loss.detach()
            loss = loss + config.nll_weight * data_loss
        return loss, scalars | {"train/actor_loss": loss.detach()}

    @torch.no_grad()
    def chunk_weight(self, imitable: Windows[Tensor], scale: float) -> Tensor:
        """Return w = exp(A / scale) of the data's chunks, (B,), with A = Q - V in standard deviations of the batch."""
        assert self.state_value is not None
        q = self.critic_learner.target_value(imitable.observation, imitable.chunk.unsqueeze(1))[:, 0]
        return advantage_weight(q - self.state_value(self.policy.features(imitable.observation)), scale)

    # ------------------------------------------------------------------------------------------------------ updates

    def update_critic(self, batch: Windows[Tensor]) -> Scalars:
        context = self.policy.features(batch.observation)
        loss, q = self.critic_loss(batch, context)
        self.critic_learner.descend(loss)
        scalars = critic_scalars(loss, q)
        if self.state_value is not None:
            value_loss = self.value_loss(context, q)
            descend(value_loss, self.value_optimizer, "state value")
            scalars["train/value_loss"] = value_loss.detach()
        return scalars

    def update_actor(
        self, batch: Windows[Tensor], imitable: Windows[Tensor], config: ImprovementConfig, progress: float
    ) -> Scalars:
        loss, scalars = self.actor_loss(batch, imitable, config, progress)
        self.policy_learner.descend(loss)
        return scalars

    # ----------------------------------------------------------------------------------------- diagnostics and parts

    def diagnose_bounds(self, data: Data) -> Scalars:
        """Measure the fraction of sampled action values outside the action bounds."""
        return self._diagnose(data, with_kl=False)

    def diagnose_kl(self, data: Data) -> Scalars:
        """Measure the same and, if the density is exact, the KL from imitation."""
        return self._diagnose(data, with_kl=self.policy.flow.exact_density)

    @torch.no_grad()
    def _diagnose(self, data: Data, with_kl: bool) -> Scalars:
        with torch.random.fork_rng([]):
            windows = data.offline.sample(self.config.batch_size, 1, np.random.default_rng(0))
            observation = to_torch(windows, self.device).observation
            chunk = self.policy.flow.sample(self.policy.features(observation))
            scalars = {"flow/out_of_bounds": (chunk.abs() > 1).float().mean()}
            if with_kl:
                now, then = (policy.log_prob(observation, chunk) for policy in (self.policy, self.imitation_policy))
                scalars["flow/kl_to_imitation"] = (now - then).mean() / chunk[0, 0].numel()
        return scalars

    def parts(self) -> Mapping[str, Any]:
        parts: dict[str, Any] = {
            "policy_learner": self.policy_learner.parts(),
            "imitation_policy": self.imitation_policy,
            **self.critic_learner.parts(),
        }
        if self.state_value is not None:
            parts |= {"state_value": self.state_value, "state_value_optimizer": self.value_optimizer}
        return parts
