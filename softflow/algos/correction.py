"""Offline fine-tuning of a frozen policy on human corrections (the real-robot part of RFS, arXiv 2602.01789).

    critic_warmup   the critic learns on all demonstrations including failed ones; skipped without a critic
    correction      the head that steers the base learns from the corrections that ended in success

The environment is never stepped. A corrected decision in a state s has the chunk a_h of a human, and the chunk a_b that
the base would have executed, which is drawn when training starts. So takeovers from earlier policies, of any round,
correct the base of this run. That base may be the corrected policy of the round before. As in TD3+BC (arXiv
2106.06860), the head minimises (d is the dimension of a chunk)

    bc_weight * L(s, a_b, a_h)  +  hold_weight * R(s')  -  q_weight * Q(s, a) / |Q|.

The imitation loss L depends on what the head steers, the residual or the latent:

    residual    mean (a_r(s) - clip((a_h - a_b) / scale, +-residual_bound))^2, the labels of RFS;
                a = clip(a_b + scale * a_r(s)), with the base's scale of each action dimension
    latent      -log p(w = z* | s) / d, with z* = f(a_h; s) the one latent that the base decodes to the human's chunk;
                a = base(s, w). Only normalizing flows have such a z*. See `SteeredPolicy.bc_loss`, which adds
                the base's log-determinant, a constant for the head.

The corrections do not cover the states in which nobody had to intervene, but the network has an output there as well.
R keeps this output at zero, on states s' of the demonstrations that are worth imitating. R is the residual's
mean square, or the KL of the latent from the base's latent, per dimension, so it has the unit of L.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from critics import soft_update
from softflow.algos.base import Algorithm, Data, Scalars, Stage
from softflow.algos.chunk_critic import CriticLearner, critic_scalars, normalized_q_loss
from softflow.algos.optimization import descend
from softflow.algos.policy_learner import copy_policy
from softflow.algos.settings import ChunkCriticConfig, WarmupConfig
from softflow.algos.steering_settings import FrozenBaseConfig
from softflow.data import Corrections, Episode, Windows, divide_reward, to_torch
from softflow.data.takeovers import human_chunks
from softflow.policies import BestOfN, ChunkPolicy, SteeredPolicy
from softflow.task.layout import ObservationSize


@dataclass
class CorrectionStageConfig:
    """Training of the head on the corrections."""

    updates: int = 2_000
    """Number of updates of the head."""
    learning_rate: float = 3e-4
    """Learning rate of Adam for the head."""
    bc_weight: float = 1.0
    """Weight of the imitation loss on the person's labels. Higher values follow the corrections more closely."""
    hold_weight: float = 1.0
    """Weight of the penalty on the head's output in states of the demonstrations. Higher values stay closer to the base
    where nobody took over."""
    q_weight: float = 0.0
    """Weight of -Q / |Q| on the steered chunks. Higher values follow the critic's gradient more. Values above 0 require
    `warmup.updates`."""


@dataclass
class CorrectionConfig(ChunkCriticConfig, FrozenBaseConfig):
    """Settings of learning from corrections."""

    base: str = field(kw_only=True)
    """Run folder, or the folder of one of its checkpoints, whose policy was corrected."""
    corrections: tuple[str, ...] = field(kw_only=True)
    """Files of episodes in which a person took over from this policy or earlier ones, recorded by `softflow-demo
    --corrections`. All of them are used. Alternatively, one file of labelled decisions (docs/how-to/corrections.md)."""
    warmup: WarmupConfig = field(default_factory=lambda: WarmupConfig(updates=0))
    correction: CorrectionStageConfig = field(default_factory=CorrectionStageConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.correction.q_weight and not self.warmup.updates:
            raise ValueError("correction.q_weight needs a critic: give it warmup.updates to learn in")


class Corrected(NamedTuple):
    """Decisions in which a human took over from the base."""

    observation: Tensor
    """(B, O)."""
    base_chunk: Tensor
    """The chunks that the base would have executed, (B, H, A)."""
    human_chunk: Tensor
    """The chunks that the human executed, (B, H, A)."""


class Correction(Algorithm):
    """Learning from corrections, as described in the module docstring.

    Attributes:
        base: The policy that was corrected; frozen.
        actor: The base with the head that is trained.
        policy: The acting policy: the base with the moving average of the head's weights.
        critic_learner: The learner of Q(s, chunk), or None without `warmup.updates`.
    """

    steers_steered = True

    def __init__(
        self, config: CorrectionConfig, observation_dim: ObservationSize, action_dim: int, device: str = "cpu"
    ) -> None:
        self.config, self.device = config, device
        head = config.steering
        if head.latent == head.residual:
            raise ValueError("corrections label the latent or the residual: set one of steering.latent and .residual")
        base = config.make_base(observation_dim, action_dim)
        if head.latent and not base.flow.exact_density:
            raise ValueError(
                f"flow {config.flow!r} has no exact inverse to compute the latent of a human chunk: "
                "use a normalizing flow, or learn a residual"
            )
        if (
            head.latent and base.flow.open_box and config.base_heads
        ):  # less the base's residual, a chunk may lie outside
            raise ValueError(
                f"flow {config.flow!r} has a density within the bounds only, which a steered base leaves: use another "
                "flow, or learn a residual"
            )
        self.base = base.to(device)
        self.actor = SteeredPolicy(self.base, **asdict(head)).to(device)
        self.policy = self.actor.twin()
        self.head_optimizer = torch.optim.Adam(
            self.actor.head.parameters(), config.correction.learning_rate, fused=True
        )
        self.critic_learner = CriticLearner(config, self.policy, device) if config.warmup.updates else None
        critic = self.critic_learner.critic if self.critic_learner is not None else None
        self.deployed = BestOfN(self.policy, critic, config.n_action_steps, config.candidates, config.temperature)

    def load_base(self, policy: ChunkPolicy) -> None:
        copy_policy(policy, self.base)

    def load_takeovers(self, episodes: Sequence[Episode]) -> None:
        self._learn_from(*human_chunks(episodes, self.base.horizon), None)

    def load_corrections(self, corrections: Corrections) -> None:
        expected = self.base.observation_dim, self.base.horizon, self.base.action_dim
        if corrections.shape != expected:
            raise ValueError(f"they have (O, H, A) = {corrections.shape}, the base has {expected}")
        rows = corrections.successful
        self._learn_from(*(getattr(corrections, name)[rows] for name in ("observation", "human_chunk", "base_chunk")))

    @torch.no_grad()
    def _learn_from(self, observation: np.ndarray, human_chunk: np.ndarray, base_chunk: np.ndarray | None) -> None:
        if not len(observation):
            raise ValueError("none of them ended in success, so nothing is worth learning: record more")
        self.observation, self.human_chunk = (
            torch.as_tensor(part, device=self.device) for part in (observation, human_chunk)
        )
        self.base_chunk = None if base_chunk is None else torch.as_tensor(base_chunk, device=self.device)
        if self.config.steering.latent and not self.base.normalizes_actions:  # otherwise any chunk has a density
            # Raises ValueError if the flow has no density at one of the chunks.
            chunk = self.human_chunk
            self.base.flow.log_prob(chunk, chunk.new_zeros(len(chunk), self.base.context_dim))

    @property
    def corrected(self) -> Corrected:
        """All corrected decisions. The chunks of the base are drawn once, the same ones after `load_state_dict`."""
        if self.base_chunk is None:
            deployed = BestOfN(self.base, None, self.config.n_action_steps, 1, self.config.temperature)
            with torch.random.fork_rng():
                torch.manual_seed(0)
                self.base_chunk = deployed.choose(self.observation).clone()  # losses refuse tensors of inference mode
        return Corrected(self.observation, self.base_chunk, self.human_chunk)

    @property
    def discount(self) -> float:
        return self.config.step_discount

    @property
    def imitates(self) -> bool:
        """Whether it imitates: the base has done so."""
        return False

    # ------------------------------------------------------------------------------------------------------- stages

    def stages(self) -> Sequence[Stage]:
        c = self.config
        return [
            Stage("critic_warmup", updates=c.warmup.updates, candidates=c.candidates, update=self.learn_values),
            Stage("correction", updates=c.correction.updates, candidates=c.candidates, update=self.correct),
        ]

    def learn_values(self, data: Data, progress: float) -> Scalars:
        """Update the critic once, if there is one, with rewards relative to the largest return of a demonstration."""
        if self.critic_learner is None:
            return {}
        windows = data.offline.sample(self.config.batch_size, self.critic_learner.critic.horizon, data.rng)
        return self.update_critic(to_torch(divide_reward(windows, data.offline.largest_return), self.device))

    def correct(self, data: Data, progress: float) -> Scalars:
        """Update the critic once, if there is one, then the head."""
        scalars, size = self.learn_values(data, progress), self.config.batch_size
        rows = torch.as_tensor(data.rng.integers(len(self.observation), size=size))
        ordinary = to_torch(data.offline.sample(size, 1, data.rng, imitable=True), self.device)
        corrected = Corrected(*(part[rows.to(self.device)] for part in self.corrected))
        return scalars | self.update_head(corrected, ordinary.observation)

    # ------------------------------------------------------------------------------------------------------- losses

    def critic_loss(self, batch: Windows[Tensor]) -> tuple[Tensor, Tensor]:
        """Return (Q(s, a) - y)^2 with y = sum_{i<k} g^i r_i + g^k Q'(s_k, a'), a' proposed by the acting policy.

        Returns:
            The loss, and Q(s, a) as (E, B).
        """
        assert self.critic_learner is not None
        c, length = self.config, self.critic_learner.critic.horizon
        with torch.no_grad():
            next_chunks = self.policy.propose(batch.next_observation, c.target_candidates, c.temperature, length)
            next_value = self.critic_learner.best_value(batch.next_observation, next_chunks)
            target = self.critic_learner.td_target(batch, next_value)
        q = self.critic_learner.q(batch)
        return (q - target).square().mean(), q

    def head_loss(self, corrected: Corrected, ordinary: Tensor) -> tuple[Tensor, Scalars]:
        """Return the sum of the three terms on corrected decisions and ordinary observations (B, O)."""
        observation, base_chunk, human_chunk = corrected
        c, actor, scalars = self.config.correction, self.actor, {}
        said = actor.steer(ordinary)
        if self.config.steering.residual:
            residual, bound = actor.steer(observation).residual, actor.residual_bound
            wanted = (human_chunk - base_chunk) / actor.action_scale
            cloning = (residual - wanted.clamp(-bound, bound)).square().mean()
            held = said.residual.square().mean()
            scalars["correction/clipped"] = (wanted.abs() > bound).float().mean()
        else:
            cloning = actor.bc_loss(observation, human_chunk)
            held = actor.latent_kl(ordinary, said).mean() / human_chunk[0].numel()
        loss = c.bc_weight * cloning + c.hold_weight * held
        if c.q_weight:
            assert self.critic_learner is not None
            if self.config.steering.residual:
                chunk = (base_chunk + actor.action_scale * residual).clamp(-1, 1).unsqueeze(1)
            else:
                chunk = actor.propose(observation, 1, self.config.temperature)
            q = self.critic_learner.value(observation, chunk)
            loss = loss + normalized_q_loss(q, c.q_weight)
        scalars |= {"train/actor_loss": loss, "correction/cloning": cloning, "correction/held": held}
        return loss, {name: value.detach() for name, value in scalars.items()}

    # ------------------------------------------------------------------------------------------------------ updates

    def update_critic(self, batch: Windows[Tensor]) -> Scalars:
        """Make one update of the critics, and return its scalars."""
        assert self.critic_learner is not None
        loss, q = self.critic_loss(self.critic_learner.read(batch))
        return self.critic_learner.descend(loss) | critic_scalars(loss, q)

    def update_head(self, corrected: Corrected, ordinary: Tensor) -> Scalars:
        """Make one update of the steering head, and return its scalars."""
        loss, scalars = self.head_loss(corrected, ordinary)
        step = descend(loss, self.head_optimizer, "head")
        soft_update(self.policy.head, self.actor.head, self.config.ema_rate)
        return scalars | step

    def parts(self) -> Mapping[str, Any]:
        return {
            "base": self.base,
            "head": self.actor.head,
            "average_head": self.policy.head,
            "head_optimizer": self.head_optimizer,
            **(self.critic_learner.parts() if self.critic_learner is not None else {}),
        }
