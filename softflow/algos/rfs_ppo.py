"""Steering of a frozen flow policy by the on-policy update of RFS (arXiv 2602.01789): PPO on latent and residual.

    imitation       the base policy learns from the demonstrations and is frozen afterwards; skipped if `base` is given
    online          the head learns from its latest episodes by PPO (arXiv 1707.06347)

A decision is a latent w and a residual a_r, sampled together for each executed chunk
a = clip(base(s, w) + scale * a_r),

    w = z * exp(log_std(s)) + mean(s),  z from the base's density at the acting temperature,
    a_r = residual(s) + sigma * noise,  noise ~ N(0, I), sigma learnt and independent of the state,

where scale is the base's scale of each action dimension.

Both densities are exact, even on a flow-matching base, because they do not depend on the decoding. A clipped chunk
determines neither w nor a_r, so the episode records each decision with its log-density. Let rho be the ratio of the
current joint density to the recorded one, and A the advantage. The head minimises

    -mean min(rho * A, clip(rho, 1 - clip, 1 + clip) * A)  -  entropy_weight * entropy.

An episode may have begun under a slightly older head. Its recorded densities are those of the head that made the
decisions, so rho is still correct.

Advantages are generalised advantage estimates over chunks (`critics.generalized_advantage`). A value network with the
head's widths regresses on advantage + value. The deployed policy uses the residual's mean, and latents sampled at
`temperature`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Normal

from critics import chunk_return, generalized_advantage
from softflow.algos.base import Data, Scalars, Stage
from softflow.algos.optimization import descend
from softflow.algos.steering import SteeringMethod
from softflow.algos.steering_settings import SteeredConfig
from softflow.data import Decision, Episode, to_torch
from softflow.policies import BestOfN
from softflow.policies.head import HeadOutput, zero_mlp
from softflow.task.layout import ObservationSize


@dataclass
class PpoConfig:
    """Online RL of the head, on its latest episodes."""

    steps: int = 500_000
    """Number of primitive environment steps."""
    epochs: int = 4
    """Number of passes over the latest decisions, in minibatches of `batch_size`.
    Higher values learn more from each decision but move further from the policy that made it."""
    learning_rate: float = 1e-4
    """Learning rate of Adam for the head and the residual noise.
    With the 3e-4 of RFS, 75 % of the ratios, each over a whole chunk, left the clip range (`ppo/ratio_clipped`)."""
    value_learning_rate: float = 1e-3
    """Learning rate of Adam for the value network."""
    clip: float = 0.2
    """Clip range of the density ratio around 1. Higher values allow larger changes of the policy per update."""
    gae_lambda: float = 0.95
    """Lambda of generalised advantage estimation, per decision. Higher values reduce bias but raise variance."""
    residual_std: float = 0.06
    """Initial standard deviation of the residual's noise, in multiples of each dimension's scale.
    Higher values explore more."""
    entropy_weight: float = 0.0
    """Weight of the entropy bonus, per dimension of a decision. Higher values explore more."""


@dataclass
class RfsPpoConfig(SteeredConfig):
    """Settings of steering by PPO."""

    discount: float = 0.99
    """Discount factor per primitive step. Values closer to 1 look further ahead but are harder to learn."""
    online: PpoConfig = field(default_factory=PpoConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("epochs", "residual_std"):
            if not getattr(self.online, name) > 0:
                raise ValueError(f"online.{name} must be above 0, got {getattr(self.online, name)}")
        if self.steering.latent and (self.steering.deterministic or not self.temperature > 0):
            raise ValueError(
                "a latent without noise has no density: set steering.deterministic to false and temperature above 0, "
                "or steering.latent to false"
            )


class Decided(NamedTuple):
    """N decisions of finished episodes, with their advantages and value targets."""

    observation: Tensor
    """(N, O)."""
    latent: Tensor
    """(N, *Z), Z the `latent_shape` of the base."""
    residual: Tensor
    """(N, h, A), see `RfsPpo.density_steps`."""
    log_prob: Tensor
    """Log-density at the time of the decision, (N,)."""
    advantage: Tensor
    """(N,)."""
    value: Tensor
    """Target of the value network, (N,)."""


class LatestDecisions:
    """The decisions of the latest episodes, and the remaining minibatches of the epoch.

    Args:
        batch_size: The approximate number of decisions in a minibatch. Sizes within an epoch differ by at most one.
        device: The device that stores the decisions.
    """

    def __init__(self, batch_size: int, device: str) -> None:
        self.batch_size, self.device = batch_size, device
        self._decided: Decided | None = None
        self._epoch: list[Tensor] = []
        """Row indices of the remaining minibatches."""

    def replace(self, decided: Decided) -> None:
        """Replace the stored decisions and start a new epoch."""
        self._decided, self._epoch = decided, []

    def minibatch(self, rng: np.random.Generator) -> Decided:
        """Return the next minibatch. Each epoch visits all decisions in a new random order."""
        assert self._decided is not None, "online updates follow an episode"
        if not self._epoch:
            rows = torch.from_numpy(rng.permutation(len(self._decided.log_prob))).to(self.device)
            self._epoch = list(rows.tensor_split(max(1, round(len(rows) / self.batch_size))))
        rows = self._epoch.pop()
        return Decided(*(part[rows] for part in self._decided))

    def state_dict(self) -> dict[str, Any]:
        decided = None if self._decided is None else self._decided._asdict()
        return {"decided": decided, "epoch": self._epoch}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        decided = state["decided"]
        self._decided = None if decided is None else Decided(**{k: v.to(self.device) for k, v in decided.items()})
        self._epoch = [rows.to(self.device) for rows in state["epoch"]]


class ResidualNoise(nn.Module):
    """The residual's noise, with one standard deviation per dimension that does not depend on the state.

    Args:
        shape: (h, A), see `RfsPpo.density_steps`.
        std: The initial standard deviation.
    """

    def __init__(self, shape: tuple[int, int], std: float) -> None:
        super().__init__()
        self.log_std = nn.Parameter(torch.full(shape, std).log())

    def forward(self) -> Tensor:
        """Return the standard deviations, (h, A)."""
        return self.log_std.exp()


class RfsPpo(SteeringMethod):
    """Steering by PPO, as described in the module docstring.

    Attributes:
        density_steps: The number h of residual steps in a decision: the executed ones, or a single one that all steps
            share. Later steps have no effect, and their density would only add noise to the ratio.
        residual_noise: The standard deviation sigma, (h, A).
        value: The value network V(s).
    """

    config: RfsPpoConfig

    def __init__(
        self, config: RfsPpoConfig, observation_dim: ObservationSize, action_dim: int, device: str = "cpu"
    ) -> None:
        super().__init__(config, observation_dim, action_dim, device)
        c = config.online
        self.density_steps = config.n_action_steps if config.steering.residual_shape == "step" else 1
        self.residual_noise = ResidualNoise((self.density_steps, action_dim), c.residual_std).to(device)
        learned = [*self.actor.head.parameters(), *self.residual_noise.parameters()]
        self.optimizer = torch.optim.Adam(learned, c.learning_rate, fused=True)
        self.value = zero_mlp(self.base.context_dim, 1).to(device)
        self.value_optimizer = torch.optim.Adam(self.value.parameters(), c.value_learning_rate, fused=True)
        self.latest = LatestDecisions(config.batch_size, device)
        self.deployed = BestOfN(self.actor, None, config.n_action_steps, 1, config.temperature)

    # ------------------------------------------------------------------------------------------------------- stages

    def stages(self) -> Sequence[Stage]:
        """Return the stages.

        One decision takes `n_action_steps` steps and is used `epochs` times in minibatches of `batch_size`, which
        determines the number of updates per step.
        """
        c = self.config
        return [
            Stage("imitation", updates=self.config.imitation_updates, update=self.imitate),
            Stage(
                "online",
                environment_steps=c.online.steps,
                updates_per_step=c.online.epochs / (c.n_action_steps * c.batch_size),
                update=self.learn,
                encoder_is_fixed=True,
            ),
        ]

    def imitate(self, data: Data, progress: float) -> Scalars:
        """Make one imitation update on the demonstrations."""
        windows = data.offline.sample(self.config.batch_size, self.config.horizon, data.rng, imitable=True)
        return self.policy_learner.imitate(to_torch(windows, self.device), progress)

    def learn(self, data: Data, progress: float) -> Scalars:
        """Update the head, the residual's noise and the value network once, on the latest decisions."""
        return self.update_head(self.latest.minibatch(data.rng))

    # ----------------------------------------------------------------------------------------- acting and its results

    @torch.inference_mode()
    def explore(self, observation: Tensor, arms: Tensor) -> Decision[Tensor]:
        """Sample chunks, and record their latents, residuals and log-densities."""
        steering = self.actor.steer(observation)
        noisy = steering
        if self.config.steering.residual:
            std = self.residual_noise().expand(len(observation), -1, -1)
            residual = steering.residual.clone()
            residual[:, : self.n_action_steps] += std * torch.randn_like(std)
            noisy = steering._replace(residual=residual)
        draw = self.actor.draw(observation, 1, self.config.temperature, noisy)
        latent, residual = draw.latent[:, 0], draw.residual[:, 0, : self.density_steps]
        log_prob = self.log_prob(observation, latent, residual, steering)
        record = torch.cat([latent.flatten(1), residual.flatten(1), log_prob.unsqueeze(1)], 1)
        return Decision(draw.chunk[:, 0, : self.n_action_steps], record)

    def log_prob(
        self, observation: Tensor, latent: Tensor, residual: Tensor, steering: HeadOutput | None = None
    ) -> Tensor:
        """Return the log-density of the steered parts of decisions, in nats: (B, O), (B, *Z), (B, h, A) -> (B,).

        `steering` is the head's output for these observations, if it has been computed already.
        """
        c = self.config
        steering = self.actor.steer(observation) if steering is None else steering
        log_prob = observation.new_zeros(len(observation))
        if c.steering.latent:
            log_prob = log_prob + self.actor.latent_log_prob(observation, latent, steering, c.temperature)
        if c.steering.residual:
            density = Normal(steering.residual[:, : self.density_steps], self.residual_noise())
            log_prob = log_prob + density.log_prob(residual).sum((-2, -1))
        return log_prob

    def receive(self, episodes: Sequence[Episode]) -> None:
        """Replace the latest decisions by those of `episodes`. Without any, keep learning from the previous ones."""
        if not episodes:
            return
        decided = Decided(*map(torch.cat, zip(*map(self._assess, episodes), strict=True)))
        advantage = decided.advantage
        normalized = (advantage - advantage.mean()) / advantage.std(correction=0).clamp_min(1e-6)
        self.latest.replace(decided._replace(advantage=normalized))

    @torch.no_grad()
    def _assess(self, episode: Episode) -> Decided:
        c, steps = self.config, len(episode)
        assert episode.decision is not None, "own episodes record their decisions"
        starts = np.arange(0, steps, self.n_action_steps)
        reward = np.pad(episode.reward, (0, -steps % self.n_action_steps)).reshape(-1, self.n_action_steps)
        length = torch.tensor(np.minimum(self.n_action_steps, steps - starts), device=self.device)
        packed = torch.tensor(episode.observation[[*starts, steps]], device=self.device)
        observation = self.base.read(self.base.encoded(packed))  # once, as they were when it decided
        value = self.value(self.base.features(observation))[:, 0]
        returned = chunk_return(torch.tensor(reward, device=self.device), length, c.discount)
        advantage = generalized_advantage(returned, length, episode.terminated, value, c.discount, c.online.gae_lambda)
        record = torch.tensor(episode.decision, device=self.device)
        latent, residual, log_prob = record.tensor_split([math.prod(self.actor.latent_shape), -1], 1)
        return Decided(
            observation[:-1],
            latent.unflatten(1, self.actor.latent_shape),
            residual.unflatten(1, (self.density_steps, -1)),
            log_prob[:, 0],
            advantage,
            advantage + value[:-1],
        )

    # ------------------------------------------------------------------------------------------------------- losses

    def head_loss(self, batch: Decided) -> tuple[Tensor, Scalars]:
        """Return -mean min(rho * A, clip(rho, 1 - clip, 1 + clip) * A) - entropy_weight * entropy."""
        c = self.config.online
        steering = self.actor.steer(batch.observation)
        log_ratio = self.log_prob(batch.observation, batch.latent, batch.residual, steering) - batch.log_prob
        ratio = log_ratio.exp()
        clipped = ratio.clamp(1 - c.clip, 1 + c.clip)
        loss = -torch.minimum(ratio * batch.advantage, clipped * batch.advantage).mean()
        if c.entropy_weight:
            loss = loss - c.entropy_weight * self._entropy(steering)
        scalars = {
            "train/actor_loss": loss,
            "ppo/ratio_clipped": (ratio != clipped).float().mean(),
            "ppo/approx_kl": (ratio - 1 - log_ratio).mean(),  # never negative (http://joschu.net/blog/kl-approx.html)
            "steering/residual_rms": steering.residual.square().mean().sqrt(),
        }
        return loss, {name: scalar.detach() for name, scalar in scalars.items()}

    def value_loss(self, batch: Decided) -> Tensor:
        """Return (V(s) - advantage - value)^2."""
        return (self.value(self.base.features(batch.observation))[:, 0] - batch.value).square().mean()

    def _entropy(self, steering: HeadOutput) -> Tensor:
        """Return the mean log standard deviation: the entropy of a decision per dimension, up to a constant."""
        parts = []
        if self.config.steering.latent:
            parts.append(steering.log_std.mean(0).flatten())  # latents of a foreign base may have any shape
        if self.config.steering.residual:
            parts.append(self.residual_noise.log_std.flatten())
        return torch.cat(parts).mean()

    # ------------------------------------------------------------------------------------------------------ updates

    def update_head(self, batch: Decided) -> Scalars:
        """Make one update of the steering head, and return its scalars."""
        loss, scalars = self.head_loss(batch)
        step = descend(loss, self.optimizer, "head")
        value_loss = self.value_loss(batch)
        descend(value_loss, self.value_optimizer, "value network")
        actor_loss = scalars.pop("train/actor_loss")
        return {"train/actor_loss": actor_loss, "train/value_loss": value_loss.detach(), **scalars, **step}

    def parts(self) -> Mapping[str, Any]:
        return {
            **self.base_parts(),
            "head": self.actor.head,
            "residual_noise": self.residual_noise,
            "value": self.value,
            "optimizer": self.optimizer,
            "value_optimizer": self.value_optimizer,
            "latest": self.latest,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if "latest" not in state:  # from an earlier version
            latest = {name: state[name] for name in ("decided", "epoch")}
            state = {**state, "latest": latest, "residual_noise": {"log_std": state["residual_log_std"]}}
        super().load_state_dict(state)
