"""Steering of a frozen flow policy by RFS's own on-policy update (arXiv 2602.01789): PPO on latent and residual.

    imitation       the base policy learns from the demonstrations, and is frozen from then on; left out with `base`
    online          the head learns from the episodes that it has just acted, by PPO (arXiv 1707.06347)

A decision is a latent w and a residual a_r, drawn together once for each executed chunk a = clip(base(s, w) + a_r):

    w = z * exp(log_std(s)) + mean(s),  z from the base's density at the temperature that acts,
    a_r = residual(s) + sigma * noise,  noise ~ N(0, I), sigma learned, the same in every state.

Both densities are exact, on a flow-matching base too, because nothing is decoded to know them. A clipped chunk tells
neither w nor a_r; so each decision is recorded with the episode, together with its log-density. With rho the ratio
of the joint density now to the recorded one, and A the advantage, the head minimises

    -mean min(rho * A, clip(rho, 1 - clip, 1 + clip) * A)  -  entropy_weight * entropy.

An episode may have begun under a slightly older head. Its recorded densities are those of the head that decided, so
rho is right for it all the same.

Advantages are generalised ones over chunks (`critics.generalized_advantage`). A value network of the head's widths
regresses on advantage + value. What deploys has the residual's mean, and the latent's noise at `temperature`.
"""

from __future__ import annotations

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
from softflow.algos.steering import SteeredConfig, SteeringMethod
from softflow.data import Decision, Episode, to_torch
from softflow.policies import BestOfN
from softflow.policies.steered import HeadOutput, zero_mlp
from softflow.task.layout import ObservationSize


@dataclass
class PpoConfig:
    """Online RL of the head, on its own latest episodes."""

    steps: int = 500_000
    """Primitive environment steps."""
    epochs: int = 4
    """How often each decision is learnt from, in minibatches of `batch_size`, before it is forgotten."""
    learning_rate: float = 1e-4
    """Learning rate of the Adam of head and residual noise. RFS has 3e-4; a density over a whole chunk is of so many
    numbers that a bout of such steps takes three ratios in four out of the clipped range (`ppo/ratio_clipped`)."""
    value_learning_rate: float = 1e-3
    """Learning rate of the value network's Adam."""
    clip: float = 0.2
    """Clip range of the ratio of densities, on either side of 1."""
    gae_lambda: float = 0.95
    """Lambda of the advantages, per decision."""
    residual_std: float = 0.02
    """Standard deviation of the residual's noise at the start; actions lie in [-1, 1]."""
    entropy_weight: float = 0.0
    """Weight of the entropy of a decision, per dimension of it."""


@dataclass
class RfsPpoConfig(SteeredConfig):
    """Settings of steering by PPO."""

    discount: float = 0.99
    """Per primitive step."""
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
    """N decisions of episodes that have ended, and what came of them."""

    observation: Tensor
    """(N, O)."""
    latent: Tensor
    """(N, H, A)."""
    residual: Tensor
    """(N, h, A), see `RfsPpo.density_steps`."""
    log_prob: Tensor
    """(N,), when they were made."""
    advantage: Tensor
    """(N,)."""
    value: Tensor
    """(N,), what the value network is to say."""


class LatestDecisions:
    """The decisions of the latest episodes, and the minibatches that are left of the epoch.

    Args:
        batch_size: The number of decisions in a minibatch, as nearly as their number can be divided.
        device: Where the decisions lie.
    """

    def __init__(self, batch_size: int, device: str) -> None:
        self.batch_size, self.device = batch_size, device
        self._decided: Decided | None = None
        self._epoch: list[Tensor] = []
        """Rows of the minibatches."""

    def replace(self, decided: Decided) -> None:
        """Learn from these from now on."""
        self._decided, self._epoch = decided, []

    def minibatch(self, rng: np.random.Generator) -> Decided:
        """Return the next minibatch. An epoch goes through all decisions, in an order that is drawn anew."""
        assert self._decided is not None, "updates online follow an episode"
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
    """The residual's noise: a standard deviation for each number, the same in every state.

    Args:
        shape: (h, A), see `RfsPpo.density_steps`.
        std: The standard deviation at the start.
    """

    def __init__(self, shape: tuple[int, int], std: float) -> None:
        super().__init__()
        self.log_std = nn.Parameter(torch.full(shape, std).log())

    def forward(self) -> Tensor:
        """The standard deviations (h, A)."""
        return self.log_std.exp()


class RfsPpo(SteeringMethod):
    """Steering by PPO, see the module.

    Attributes:
        density_steps: The number h of steps of a residual that are decided: those executed, or one that all of them
            share. The rest touches nothing, and its density would only be noise in the ratio.
        residual_noise: sigma, (h, A).
        value: V(s).
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
        """A decision is worth `n_action_steps` steps, and is learnt from `epochs` times in minibatches of `batch_size`:
        that says how many updates a step pays for."""
        c = self.config
        return [
            Stage("imitation", updates=self.imitation_updates(), update=self.imitate),
            Stage(
                "online",
                environment_steps=c.online.steps,
                updates_per_step=c.online.epochs / (c.n_action_steps * c.batch_size),
                update=self.learn,
            ),
        ]

    def imitate(self, data: Data, progress: float) -> Scalars:
        """One update of imitation, on the demonstrations."""
        windows = data.offline.sample(self.config.batch_size, self.config.horizon, data.rng, imitable=True)
        return self.policy_learner.imitate(to_torch(windows, self.device), progress)

    def learn(self, data: Data, progress: float) -> Scalars:
        """One update of the head, the residual's noise and the value network on the latest decisions."""
        return self.update_head(self.latest.minibatch(data.rng))

    # ---------------------------------------------------------------------------------------- acting, and what came

    @torch.inference_mode()
    def explore(self, observation: Tensor) -> Decision[Tensor]:
        """Chunks of latents and residuals drawn anew, and these with their log-density as the record."""
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
        """Log-density in nats of decisions, of what is steered of them: (B, O), (B, H, A), (B, h, A) -> (B,).

        `steering` is what the head says of these observations, if it was asked already.
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
        """Learn from these from now on. As long as none has ended, those before are learnt from further."""
        if not episodes:
            return
        decided = Decided(*map(torch.cat, zip(*map(self._assess, episodes), strict=True)))
        advantage = decided.advantage
        normalized = (advantage - advantage.mean()) / advantage.std(correction=0).clamp_min(1e-6)
        self.latest.replace(decided._replace(advantage=normalized))

    @torch.no_grad()
    def _assess(self, episode: Episode) -> Decided:
        c, steps = self.config, len(episode)
        assert episode.decision is not None, "own episodes are made of decisions"
        starts = np.arange(0, steps, self.n_action_steps)
        reward = np.pad(episode.reward, (0, -steps % self.n_action_steps)).reshape(-1, self.n_action_steps)
        length = torch.tensor(np.minimum(self.n_action_steps, steps - starts), device=self.device)
        observation = torch.tensor(episode.observation[[*starts, steps]], device=self.device)
        value = self.value(self.base.features(observation))[:, 0]
        returned = chunk_return(torch.tensor(reward, device=self.device), length, c.discount)
        advantage = generalized_advantage(returned, length, episode.terminated, value, c.discount, c.online.gae_lambda)
        record = torch.tensor(episode.decision, device=self.device)
        latent, residual, log_prob = record.tensor_split([c.horizon * self.actor.action_dim, -1], 1)
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
        """-mean min(rho * A, clip(rho, 1 - clip, 1 + clip) * A) - entropy_weight * entropy."""
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
        """(V(s) - advantage - value)^2."""
        return (self.value(self.base.features(batch.observation))[:, 0] - batch.value).square().mean()

    def _entropy(self, steering: HeadOutput) -> Tensor:
        """The entropy of a decision per dimension, less a constant: the mean log standard deviation."""
        parts = []
        if self.config.steering.latent:
            parts.append(steering.log_std.mean(0))
        if self.config.steering.residual:
            parts.append(self.residual_noise.log_std)
        return torch.cat(parts).mean()

    # ------------------------------------------------------------------------------------------------------ updates

    def update_head(self, batch: Decided) -> Scalars:
        loss, scalars = self.head_loss(batch)
        descend(loss, self.optimizer, "head")
        value_loss = self.value_loss(batch)
        descend(value_loss, self.value_optimizer, "value network")
        return {"train/actor_loss": scalars.pop("train/actor_loss"), "train/value_loss": value_loss.detach(), **scalars}

    def parts(self) -> Mapping[str, Any]:
        return {
            "policy_learner": self.policy_learner.parts(),  # the base is in it
            "head": self.actor.head,
            "residual_noise": self.residual_noise,
            "value": self.value,
            "optimizer": self.optimizer,
            "value_optimizer": self.value_optimizer,
            "latest": self.latest,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if "latest" not in state:  # of an earlier version
            latest = {name: state[name] for name in ("decided", "epoch")}
            state = {**state, "latest": latest, "residual_noise": {"log_std": state["residual_log_std"]}}
        super().load_state_dict(state)
