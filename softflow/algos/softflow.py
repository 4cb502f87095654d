"""SOFT-FLOW: a normalizing-flow policy over action chunks, fine-tuned against a chunk-level critic.

arXiv 2602.09580. Four stages of one loop:

    imitation       maximum likelihood on the demonstrations' chunks
    critic_warmup   the policy is frozen, the critic learns to value its chunks
    offline         actor and critic on the demonstrations
    online          actor and critic on demonstrations and own episodes, half and half

The actor minimises, over chunks a ~ pi(. | s) and chunks of the data (per dimension d of a chunk),

    q_weight * -Q(s, a) / |Q|  +  kl_weight * KL(pi || pi_imitation) / d  +  nll_weight * -w log pi(a_data | s) / d

Both conservative terms are exact, because the flow's density is; with one whose density is not, flow matching, the KL
is refused, and the regression that it learns by takes the likelihood's place. Chunks of the data are those that reward
still comes after, demonstrated and own, each with the weight w = exp(A / advantage_scale) of its advantage A = Q - V:
what is sloppy but succeeds in the end counts less. With the likelihood alone, the default, the actor never follows the
critic's gradient, and is never led to chunks that nobody tried.

What acts is the running average of the actor's weights, and of the chunks it proposes the critic chooses one.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from softflow.algos.base import Data, Stage
from softflow.algos.chunk_critic import ChunkCriticLearner, WarmupConfig
from softflow.algos.imitation import Imitator, make_policy
from softflow.algos.online import OnlineMethod, OnlineMethodConfig, OnlineStageConfig
from softflow.data import Windows, to_torch
from softflow.policies import BestOfN
from softflow.task.layout import ObservationSize


@dataclass
class ImprovementConfig:
    """What the actor minimises in an offline or online stage, and how fast."""

    learning_rate: float = 5e-4
    """Learning rate of the actor's AdamW at the start of the stage; falls to zero along a cosine."""
    q_weight: float = 0.0
    """Weight of -Q / |Q| on the policy's own chunks."""
    kl_weight: float = 0.0
    """Weight of the exact KL to the frozen imitation policy, per dimension; needs a flow with an exact density."""
    final_kl_weight: float | None = None
    """That weight at the end of the stage, reached in equal ratios; without it the weight stays as it is."""
    nll_weight: float = 1.0
    """Weight of the negative log-likelihood of data chunks that reward comes after, per dimension (of the flow's own
    loss, if it has no likelihood)."""
    advantage_scale: float | None = 1.0
    """Data chunks count exp(A / this), A in standard deviations of the batch; without it all count alike."""

    def __post_init__(self) -> None:
        if self.final_kl_weight is not None and not (self.kl_weight > 0 and self.final_kl_weight > 0):
            raise ValueError(
                f"final_kl_weight {self.final_kl_weight:g} is reached in equal ratios from {self.kl_weight:g}: "
                "both must be above 0"
            )
        getattr(super(), "__post_init__", lambda: None)()  # of the other half of OnlineConfig

    def kl_weight_at(self, progress: float) -> float:
        """The weight of the KL at `progress` in [0, 1] of the stage."""
        if self.final_kl_weight is None:
            return self.kl_weight
        return self.kl_weight ** (1 - progress) * self.final_kl_weight**progress

    @property
    def trains_actor(self) -> bool:
        """Whether any term is left; without one the critic alone learns."""
        return any((self.q_weight, self.kl_weight, self.nll_weight))


@dataclass
class OfflineConfig(ImprovementConfig):
    """Offline RL on the demonstrations: short, because they teach a critic little about what else might be done."""

    learning_rate: float = 2e-4
    """Learning rate of the actor's AdamW at the start of the stage; falls to zero along a cosine."""
    updates: int = 1_000
    """Updates of actor and critic."""


@dataclass
class OnlineConfig(ImprovementConfig, OnlineStageConfig):
    """Online RL."""


@dataclass
class SoftFlowConfig(OnlineMethodConfig):
    """Settings of SOFT-FLOW."""

    candidates: int = 4
    """Chunks proposed for each that is executed; the critic chooses."""
    warmup: WarmupConfig = field(default_factory=WarmupConfig)
    offline: OfflineConfig = field(default_factory=OfflineConfig)
    online: OnlineConfig = field(default_factory=OnlineConfig)


class SoftFlow(OnlineMethod):
    """See the module. `imitator` holds the actor, which learns, and the policy, its running average, which acts."""

    config: SoftFlowConfig

    def __init__(
        self, config: SoftFlowConfig, observation_dim: ObservationSize, action_dim: int, device: str = "cpu"
    ) -> None:
        self.config, self.n_action_steps, self.device = config, config.n_action_steps, device
        actor = make_policy(config, observation_dim, action_dim).to(device)
        for name, stage in (("offline", config.offline), ("online", config.online)):
            if stage.kl_weight and not actor.flow.exact_density:
                raise ValueError(
                    f"{name}.kl_weight is {stage.kl_weight:g}, but flow {config.flow!r} has no exact density, which a "
                    f"KL needs; set {name}.kl_weight to 0, or choose another flow"
                )
        self.imitator = Imitator(actor, config.imitation, config.ema_rate)
        self.actor, self.policy = actor, self.imitator.policy
        self.imitation_policy = copy.deepcopy(self.policy)
        advantages = any(stage.nll_weight and stage.advantage_scale for stage in (config.offline, config.online))
        self.learner = ChunkCriticLearner(config, self.policy, device, advantages)
        self.critic = self.learner.critic
        self.deployed = BestOfN(self.policy, self.critic, config.n_action_steps, config.candidates, config.temperature)

    def fit_normalizer(self, mean: Tensor, std: Tensor) -> None:
        self.imitator.fit_normalizer(mean, std)
        self.imitation_policy.normalizer.fit(mean, std)

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
        """Freeze what imitation has learnt when it is over, and start the actor's optimiser anew for each stage."""
        super().begin(stage)
        after_imitation = [s for s in self.stages() if s.name != "imitation"]
        if after_imitation and stage == after_imitation[0]:
            self.imitation_policy.load_state_dict(self.policy.state_dict())
        if stage.name in ("offline", "online"):
            self.actor.load_state_dict(self.policy.state_dict())
            self.imitator.renew_optimizer(getattr(self.config, stage.name).learning_rate)

    def update(self, stage: Stage, data: Data, progress: float) -> dict[str, Tensor]:
        c = self.config
        if stage.name == "imitation":
            return self.imitator.update(self.sample(data, c.horizon, imitable=True), progress)
        batch = self.sample(data, self.critic.horizon)
        scalars = self.learner.update(batch)
        config = {"offline": c.offline, "online": c.online}.get(stage.name)
        if config is not None and config.trains_actor:
            self.imitator.set_learning_rate(config.learning_rate, progress)
            scalars |= self.update_actor(batch, self.sample(data, c.horizon, imitable=True), config, progress)
        return scalars

    # ------------------------------------------------------------------------------------------------------ updates

    def update_actor(
        self, batch: Windows[Tensor], imitable: Windows[Tensor], config: ImprovementConfig, progress: float
    ) -> dict[str, Tensor]:
        """One step on the sum of the three terms; a term of weight zero costs nothing."""
        scalars = {}
        loss = torch.zeros((), device=self.device)
        if config.kl_weight:
            chunk, log_prob = self.actor.propose_with_log_prob(batch.observation)
            kl = (log_prob - self.imitation_policy.log_prob(batch.observation, chunk)).mean() / chunk[0, 0].numel()
            scalars["flow/kl_to_imitation"] = kl.detach()
            loss = loss + config.kl_weight_at(progress) * kl
        if config.q_weight:
            proposed = chunk.clamp(-1, 1) if config.kl_weight else self.actor.propose(batch.observation)
            loss = loss + self.learner.actor_loss(batch.observation, proposed, config.q_weight)
        if config.nll_weight:
            scale = config.advantage_scale
            weight = self.learner.advantage_weight(imitable, scale) if scale else None
            data_loss = self.actor.bc_loss(imitable.observation, imitable.chunk, weight)
            scalars[self.imitator.loss_name] = data_loss.detach()
            loss = loss + config.nll_weight * data_loss
        self.imitator.step(loss)
        return scalars | {"train/actor_loss": loss.detach()}

    # ------------------------------------------------------------------------------------------------------ details

    @torch.no_grad()
    def diagnose(self, stage: Stage, data: Data) -> dict[str, Tensor]:
        """The share of sampled numbers outside the action box, and, if the density is exact, the KL to imitation."""
        with torch.random.fork_rng([]):
            windows = data.offline.sample(self.config.batch_size, 1, np.random.default_rng(0))
            observation = to_torch(windows, self.device).observation
            chunk = self.policy.flow.sample(self.policy.features(observation))
            scalars = {"flow/out_of_bounds": (chunk.abs() > 1).float().mean()}
            if stage.name != "imitation" and self.policy.flow.exact_density:
                now, then = (policy.log_prob(observation, chunk) for policy in (self.policy, self.imitation_policy))
                scalars["flow/kl_to_imitation"] = (now - then).mean() / chunk[0, 0].numel()
        return scalars

    def parts(self) -> Mapping[str, Any]:
        return {"imitator": self.imitator, "imitation_policy": self.imitation_policy}
