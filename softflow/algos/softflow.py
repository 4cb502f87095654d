"""SOFT-FLOW: a normalizing-flow policy over action chunks, fine-tuned against a chunk-level critic.

arXiv 2602.09580. Four stages of one loop:

    imitation       maximum likelihood on the demonstrations' chunks
    critic_warmup   the critic learns to value the chunks of the frozen policy
    offline         actor and critic on the demonstrations
    online          actor and critic on half demonstrations, half own episodes, whose outcomes decide what acts

The actor minimises, over its own chunks a ~ pi(. | s) and chunks of the data (d is the dimension of a chunk),

    q_weight * -Q(s, a) / |Q|  +  kl_weight * KL(pi || pi_champion) / d  +  nll_weight * -w log pi(a_data | s) / d

Both conservative terms are exact because the flow's density is exact. Flow matching has no exact density: its KL is
refused, and its regression loss replaces the likelihood. The data chunks are all demonstrated and own chunks that are
worth imitating by the run's rule `imitate`. An own chunk is the one that the policy proposed at its decision, whole and
before clipping: the actions executed from there on are the starts of several chunks, which together are unlikely under
any policy. Each chunk is weighted by w = exp(A / advantage_scale) with its advantage A = Q - V, so sloppy but
successful chunks count less.

The champion is the policy that has proven itself in own episodes, at first the imitation policy (`trial.py`). The KL
keeps the actor near it. Its weight rises when a copy of the actor is given up and falls when one becomes the champion,
so that the policy moves as far as its own episodes allow. They also decide among how many chunks the critic chooses.

The policy in training is the moving average of the actor's weights. Copies of it go on trial.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
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
from softflow.algos.optimization import descend, set_learning_rate
from softflow.algos.policy_learner import PolicyLearner
from softflow.algos.softflow_settings import ImprovementConfig, SoftFlowConfig
from softflow.algos.trial import Trial
from softflow.algos.trial_method import TrialMethod
from softflow.data import Windows, to_torch
from softflow.policies import ChunkPolicy, FlowPolicy
from softflow.task.layout import ObservationSize

OWN_CHUNK_STRIDE = 4
"""The terms on the actor's own chunks take every fourth observation of a batch, because they cost the most."""


class SoftFlow(TrialMethod):
    """SOFT-FLOW, as described in the module docstring.

    Attributes:
        actor: The policy that is trained.
        policy: The moving average of the actor's weights. It acts in the offline stages, and copies of it online.
        imitation_policy: A frozen copy of the policy after imitation.
        critic: Q(s, chunk).
        state_value: V(s), or None if no stage uses advantages.
    """

    config: SoftFlowConfig
    policy: FlowPolicy

    def __init__(
        self, config: SoftFlowConfig, observation_dim: ObservationSize, action_dim: int, device: str = "cpu"
    ) -> None:
        self.config, self.device = config, device
        actor = config.make_policy(observation_dim, action_dim).to(device)
        for name, stage in (("offline", config.offline), ("online", config.online)):
            if stage.kl_weight and not actor.flow.exact_density:
                raise ValueError(
                    f"{name}.kl_weight is {stage.kl_weight:g}, but flow {config.flow!r} has no exact density, which "
                    "the KL requires; set offline.kl_weight and online.kl_weight to 0, or choose another flow"
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
        self.trial = self.make_trial()
        self.deployed = self.behaviour(self.policy, config.candidates)

    # ------------------------------------------------------------------------------------------------------- stages

    def stages(self) -> Sequence[Stage]:
        c, fixed = self.config, self.encoder_is_fixed
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
                encoder_is_fixed=fixed,
                diagnose=self.diagnose_kl,
            ),
            Stage(
                "offline",
                updates=c.offline.updates,
                encoder_is_fixed=fixed,
                begin=partial(self.policy_learner.restart, c.offline.learning_rate),
                update=partial(self.improve, c.offline),
                diagnose=self.diagnose_kl,
            ),
            Stage(
                "online",
                environment_steps=c.online.steps,
                updates_per_step=c.online.updates_per_step,
                candidates=self.online_candidates,
                encoder_is_fixed=fixed,
                begin=self.begin_online,
                update=partial(self.improve, c.online),
                diagnose=self.diagnose_online,
            ),
        ]

    @property
    def encoder_is_fixed(self) -> bool:
        """Whether the image encoder makes the same of an image in every update after imitation."""
        encoder = self.policy.encoder
        return self.trial is not None and encoder is not None and not encoder.varies

    def load_base(self, policy: ChunkPolicy) -> None:
        super().load_base(policy)
        self.freeze_imitation()

    def freeze_imitation(self) -> None:
        """Copy the policy after imitation. It is the first champion, and the KL is measured from it."""
        self.imitation_policy.load_state_dict(self.policy.state_dict())
        if self.trial:
            self.trial.champion.load_state_dict(self.policy.state_dict())

    def begin_online(self) -> None:
        """Renew the optimiser, and put the policy of the offline stage on trial."""
        self.policy_learner.restart(self.config.online.learning_rate)
        self.begin_trials()

    def return_to_champion(self, trial: Trial[Any]) -> None:
        self.policy_learner.return_to(trial.champion)

    def learn_values(self, data: Data, progress: float) -> Scalars:
        """Update the critic and the state value once. The policy stays frozen."""
        return self.update_critic(self.sample(data, self.critic.horizon))

    def improve(self, config: ImprovementConfig, data: Data, progress: float) -> Scalars:
        """Update the critic and the state value, then the actor once.

        With trials, an image encoder stays as it was imitated, so that the critic reads the same features of every
        policy. The actor then reads images once for all networks that judge it.
        """
        if self.trial and self.actor.encoder is not None:
            self.actor.encoder.requires_grad_(False)
        for _ in range(config.critic_updates):
            batch = self.sample(data, self.critic.horizon)
            scalars = self.update_critic(batch)
        if config.trains_actor:
            set_learning_rate(self.policy_learner.optimizer, config.learning_rate, progress)
            imitable = self.sample(data, self.config.horizon, imitable=True)
            observation = batch.observation[::OWN_CHUNK_STRIDE]
            if self.trial:
                observation = self.actor.read(observation)
                imitable = replace(imitable, observation=self.actor.read(imitable.observation))
            scalars |= self.update_actor(observation, imitable, config, progress)
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
        self, observation: Tensor, imitable: Windows[Tensor], config: ImprovementConfig, progress: float
    ) -> tuple[Tensor, Scalars]:
        """Return the sum of the three terms, those on own chunks at `observation` (B, O).

        A term with weight zero is not computed.
        """
        scalars: Scalars = {}
        loss = torch.zeros((), device=self.device)
        if config.kl_weight:
            chunk, log_prob = self.actor.propose_with_log_prob(observation)
            anchor = self.trial.champion if self.trial else self.imitation_policy
            kl = (log_prob - anchor.log_prob(observation, chunk)).mean() / chunk[0, 0].numel()
            scalars["flow/kl_to_anchor"] = kl.detach()
            loss = loss + self.caution * config.kl_weight_at(progress) * kl
        if config.q_weight:
            proposed = chunk.clamp(-1, 1) if config.kl_weight else self.actor.propose(observation)
            q = self.critic_learner.value(observation, proposed)
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
        executed = imitable.chunk.clamp(-1, 1).unsqueeze(1)  # a chunk as it was proposed may leave the box
        q = self.critic_learner.target_value(imitable.observation, executed)[:, 0]
        return advantage_weight(q - self.state_value(self.policy.features(imitable.observation)), scale)

    # ------------------------------------------------------------------------------------------------------ updates

    def update_critic(self, batch: Windows[Tensor]) -> Scalars:
        """Make one update of the critics, and return its scalars."""
        batch = self.critic_learner.read(batch)
        context = self.policy.features(batch.observation)
        loss, q = self.critic_loss(batch, context)
        scalars = self.critic_learner.descend(loss) | critic_scalars(loss, q)
        if self.state_value is not None:
            value_loss = self.value_loss(context, q)
            descend(value_loss, self.value_optimizer, "state value")
            scalars["train/value_loss"] = value_loss.detach()
        return scalars

    def update_actor(
        self, observation: Tensor, imitable: Windows[Tensor], config: ImprovementConfig, progress: float
    ) -> Scalars:
        """Make one update of the actor, and return its scalars."""
        loss, scalars = self.actor_loss(observation, imitable, config, progress)
        return scalars | self.policy_learner.descend(loss)

    # ----------------------------------------------------------------------------------------- diagnostics and parts

    def diagnose_bounds(self, data: Data) -> Scalars:
        """Measure the fraction of sampled action values outside the action bounds."""
        return self._diagnose(data, with_kl=False)

    def diagnose_online(self, data: Data) -> Scalars:
        """Measure the same, and what the trials have shown."""
        return self.diagnose_kl(data) | self.diagnose_trials(data)

    def diagnose_kl(self, data: Data) -> Scalars:
        """Measure the same and, if the density is exact, the KL from imitation."""
        return self._diagnose(data, with_kl=self.policy.flow.exact_density)

    @torch.no_grad()
    def _diagnose(self, data: Data, with_kl: bool) -> Scalars:
        device = torch.device(self.device)
        with torch.random.fork_rng([] if device.type == "cpu" else [device]):
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
        return parts | self.trial_parts()
