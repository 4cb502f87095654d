"""Steering of a frozen policy by reinforcement learning: residual, latent, or both (RFS, arXiv 2602.01789).

    imitation       the base policy learns from the demonstrations and is frozen afterwards; skipped if `base` is given
    base_rollouts   the base acts without steering, and the critic learns to value its chunks
    online          the head and the critic learn on half demonstrations, half own episodes

The head minimises, over composed chunks a = clip(base(s, w) + scale * a_r) (d is the dimension of a
chunk, and scale the base's scale of each action dimension, so that a_r is in normalised units),

    -Q(s, a) / |Q|  +  residual_weight * mean a_r^2  +  kl_weight * KL(w || base's own latent) / d,

with the critic's gradient through the base's decoding; a flow-matching base is differentiated through its steps.
The head exploits a critic that has not seen the base's own chunks. Hence the stage `base_rollouts`, which does not
steer because the head still outputs zero.

The critic only sees composed chunks, including those of the demonstrations. The base with the moving average of the
head's weights proposes the chunks in the critic's target. It moves slowly enough for the critic to follow.

Own episodes decide in trials which copy of it acts and deploys, and among how many of its chunks the critic chooses
(`trial.py`). The champion is the base at first. The first challenger still is the base as well, so the first trial
decides about the critic's choice alone. Training returns to the champion's head when a later one does worse. The
trials' caution multiplies both weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, ClassVar

import torch
from torch import Tensor

from critics import soft_update
from softflow.algos.base import Algorithm, Data, Scalars, Stage
from softflow.algos.chunk_critic import CriticLearner, critic_scalars, normalized_q_loss
from softflow.algos.optimization import descend
from softflow.algos.policy_learner import PolicyLearner, copy_policy
from softflow.algos.steering_settings import SteeredConfig, SteeringConfig
from softflow.algos.trial import Trial
from softflow.algos.trial_method import TrialMethod
from softflow.data import Episode, Windows, action_statistics
from softflow.errors import UserError
from softflow.policies import BasePolicy, ChunkPolicy, ForeignPolicy, SteeredPolicy
from softflow.policies.bases import is_foreign
from softflow.task.layout import ObservationSize


class SteeringMethod(Algorithm):
    """Base class of the methods that learn to steer a frozen base.

    Attributes:
        policy_learner: The learner that trains the base by imitation, unless a base is given. A base that is foreign or
            steered has none.
        base: The policy that is steered.
        actor: The steered policy, whose head is trained.
        follows_gradient: Whether the head learns from the gradient of the chunk in the latent.
    """

    config: SteeredConfig
    base: BasePolicy
    steers_steered = True
    steers_foreign = True
    follows_gradient: ClassVar[bool] = False

    def __init__(
        self, config: SteeredConfig, observation_dim: ObservationSize, action_dim: int, device: str = "cpu"
    ) -> None:
        self.config, self.device = config, device
        is_other = config.base is not None and is_foreign(config.base)
        if config.base_options and not is_other:
            raise ValueError("base_options are the arguments of a base that is named as module:name")
        if config.base_heads and (config.base is None or is_other):
            raise ValueError("base_heads are those of the run that base names: give none")
        if config.base is not None and is_other:
            normalize = config.normalize_actions is not False
            foreign = ForeignPolicy(
                observation_dim, action_dim, config.horizon, config.base, config.base_options, normalize
            )
            self.base = foreign.to(device)
        elif config.base_heads:
            self.base = config.make_base(observation_dim, action_dim).to(device)
        else:
            imitating = config.make_policy(observation_dim, action_dim)
            self.policy_learner = PolicyLearner(imitating.to(device), config.imitation, config.ema_rate)
            self.base = self.policy_learner.policy
        self.actor = SteeredPolicy(self.base, **asdict(config.steering)).to(device)

    def load_base(self, policy: ChunkPolicy) -> None:
        """Steer this policy, whose weights and statistics are copied.

        Raises:
            ValueError: Its kind or architecture differs from the configuration.
        """
        copy_policy(policy, self.base)

    def require_base(self, observation: Tensor) -> None:
        if not isinstance(self.base, ForeignPolicy):
            return
        self.base.features(observation)  # checks their number and shape
        latent = torch.randn(len(observation), *self.base.latent_shape, device=observation.device, requires_grad=True)
        chunk, again = (self.base.decode(observation, latent) for _ in range(2))
        if not torch.equal(chunk, again):
            raise UserError(
                f"base {self.base.reference} returned two chunks for one observation and one noise: all that is random "
                "must come from the noise"
            )
        if self.follows_gradient and self.config.steering.latent and not chunk.requires_grad:
            raise UserError(
                f"base {self.base.reference} has no gradient from the noise to the chunk, which the critic needs to "
                "steer the latent: give --algo rfs_ppo or --algo residual"
            )

    def fit_actions(self, episodes: Sequence[Episode]) -> None:
        if isinstance(self.base, ForeignPolicy):
            statistics = action_statistics(episodes)
            self.base.fit_actions(*(torch.as_tensor(values) for values in (statistics.center, statistics.scale)))
        super().fit_actions(episodes)

    def base_parts(self) -> Mapping[str, Any]:
        """Return the parts of a checkpoint that contain the base, or for a foreign one its digest and statistics."""
        if isinstance(self.base, ForeignPolicy | SteeredPolicy):
            return {"base": self.base}
        return {"policy_learner": self.policy_learner.parts()}

    @property
    def imitates(self) -> bool:
        """Whether the base has yet to be trained."""
        return self.config.base is None


class Steering(SteeringMethod, TrialMethod):
    """Steering by a chunk critic, as described in the module docstring.

    Attributes:
        policy: The base with the moving average of the head's weights, copies of which act.
        critic: Q(s, chunk) of composed chunks.
    """

    config: SteeringConfig
    policy: SteeredPolicy
    follows_gradient = True

    def __init__(
        self, config: SteeringConfig, observation_dim: ObservationSize, action_dim: int, device: str = "cpu"
    ) -> None:
        super().__init__(config, observation_dim, action_dim, device)
        self.policy = self.actor.twin()
        self.renew_optimizer()
        self.critic_learner = CriticLearner(config, self.policy, device)
        self.critic = self.critic_learner.critic
        self.trial = self.make_trial()
        self.deployed = self.behaviour(self.policy, config.candidates)

    # ------------------------------------------------------------------------------------------------------- stages

    def stages(self) -> Sequence[Stage]:
        c = self.config
        return [
            Stage("imitation", updates=c.imitation_updates, update=self.imitate),
            Stage(
                "base_rollouts",
                environment_steps=c.base_rollouts.steps,
                updates_per_step=c.base_rollouts.updates_per_step,
                update=self.learn_values,
                encoder_is_fixed=True,
            ),
            Stage(
                "online",
                environment_steps=c.online.steps,
                updates_per_step=c.online.updates_per_step,
                candidates=self.online_candidates,
                encoder_is_fixed=True,
                begin=self.begin_trials,
                update=self.steer,
                diagnose=self.diagnose_trials,
            ),
        ]

    @torch.inference_mode()
    def explore(self, observation: Tensor, arms: Tensor) -> Tensor:
        """Choose chunks as the arms say. Without trials, sample single ones, whatever the number of candidates.

        Own chunks are valued, but never imitated, so the whole ones are not kept.
        """
        if self.trial:
            return self.trial.decide(observation, arms, self.behaviour)[0]
        return self.policy.propose(observation, 1, self.config.temperature)[:, 0, : self.n_action_steps]

    def renew_optimizer(self) -> None:
        """Replace the head's optimiser by a fresh one."""
        head, rate = self.actor.head, self.config.online.learning_rate
        self.head_optimizer = torch.optim.Adam(head.parameters(), rate, fused=True)

    def return_to_champion(self, trial: Trial[Any]) -> None:
        for policy in (self.policy, self.actor):
            policy.head.load_state_dict(trial.champion.head.state_dict())
        self.renew_optimizer()

    def learn_values(self, data: Data, progress: float) -> Scalars:
        """Update the critic once. The head still outputs zero."""
        return self.update_critic(self.sample(data, self.critic.horizon))

    def steer(self, data: Data, progress: float) -> Scalars:
        """Update the critic once, then the head."""
        batch = self.critic_learner.read(self.sample(data, self.critic.horizon))
        return self.update_critic(batch) | self.update_head(batch.observation)

    # ------------------------------------------------------------------------------------------------------- losses

    def critic_loss(self, batch: Windows[Tensor]) -> tuple[Tensor, Tensor]:
        """Return (Q(s, a) - y)^2 with y = sum_{i<k} g^i r_i + g^k Q'(s_k, a'), a' proposed by the acting policy.

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
        """Return the sum of the three terms, at the acting temperature."""
        c = self.config
        steering = self.actor.steer(observation)
        chunk = self.actor.draw(observation, 1, c.temperature, steering).chunk
        residual = steering.residual.square().mean()
        kl = self.actor.latent_kl(observation, steering).mean() / chunk[0, 0].numel()
        conservative = self.caution * (c.online.residual_weight * residual + c.online.kl_weight * kl)
        q = self.critic_learner.value(observation, chunk)
        loss = normalized_q_loss(q) + conservative
        scalars = {"train/actor_loss": loss, "steering/residual_rms": residual.sqrt(), "steering/latent_kl": kl}
        return loss, {name: value.detach() for name, value in scalars.items()}

    # ------------------------------------------------------------------------------------------------------ updates

    def update_critic(self, batch: Windows[Tensor]) -> Scalars:
        """Make one update of the critics, and return its scalars."""
        loss, q = self.critic_loss(self.critic_learner.read(batch))
        return self.critic_learner.descend(loss) | critic_scalars(loss, q)

    def update_head(self, observation: Tensor) -> Scalars:
        """Make one update of the steering head, and return its scalars."""
        loss, scalars = self.head_loss(observation)
        step = descend(loss, self.head_optimizer, "head")
        soft_update(self.policy.head, self.actor.head, self.config.ema_rate)
        return scalars | step

    def parts(self) -> Mapping[str, Any]:
        return {
            **self.base_parts(),
            "head": self.actor.head,
            "average_head": self.policy.head,
            "head_optimizer": self.head_optimizer,
            **self.critic_learner.parts(),
            **self.trial_parts(),
        }
