"""How a chunk critic learns, whatever the policy: every method with a critic uses this one.

The critic values the first `critic.horizon` actions of a chunk as it is executed. Its target is the discounted reward
of the steps really made, and the target critic's value of a chunk that the policy proposes after them (Q-chunking,
arXiv 2507.07969, eq. 5; `critics.bootstrap`): of several, as in that paper, the one that the critic values most.

Advantages are over a state value V, which learns what the critic says of the data's chunks, on average in each state
(advantage-weighted regression, arXiv 1910.00177): no chunk need be proposed for them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from critics import ChunkCritic, StateValue, bootstrap, chunk_return, soft_update
from softflow.algos.imitation import PolicyConfig, descend
from softflow.data import Windows
from softflow.policies import ChunkPolicy

MAX_LOG_WEIGHT = 3.0
"""Upper bound of A / scale in `advantage_weight`: no chunk counts more than e^3 times an average one."""


@dataclass
class ChunkCriticConfig(PolicyConfig):
    """Settings of a policy with a chunk critic beside it."""

    critic_horizon: int | None = None
    """Actions of a chunk that the critic values: those executed, unless given. 1 is the usual per-step critic."""
    candidates: int = 1
    """Chunks proposed for each that is executed; the critic chooses."""
    target_candidates: int = 1
    """Chunks proposed for each whose value a target of the critic holds; the critic chooses."""
    discount: float = 0.99
    """Per primitive step."""
    critic_members: int = 2
    """Critics in the ensemble; their mean is the value."""
    critic_width: int = 256
    """Hidden width of a critic."""
    critic_learning_rate: float = 5e-4
    """Learning rate of the critics' AdamW."""
    target_rate: float = 0.005
    """Rate at which the target critics follow."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("candidates", "target_candidates"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 1 <= (self.critic_horizon or self.n_action_steps) <= self.horizon:
            raise ValueError(f"critic_horizon must be in 1 ... horizon = {self.horizon}, got {self.critic_horizon}")


@dataclass
class WarmupConfig:
    """Critic warm-up: the critic alone, on the demonstrations, failures included."""

    updates: int = 1_000
    """Updates of the critic."""


class ChunkCriticLearner:
    """A critic, its target and its optimiser, and the same of a state value where advantages are asked for.

    Args:
        config: sizes and rates; its temperature is that of the chunks which the target values.
        policy: proposes those chunks, and says what the critic is given: features that it does not learn from.
        device: where the networks live.
        advantages: whether there is a state value, for `advantage_weight`.
    """

    def __init__(
        self, config: ChunkCriticConfig, policy: ChunkPolicy, device: str = "cpu", advantages: bool = False
    ) -> None:
        self.config, self.policy = config, policy
        self.critic = ChunkCritic(
            context_dim=policy.context_dim,
            horizon=config.critic_horizon or config.n_action_steps,
            action_dim=policy.action_dim,
            members=config.critic_members,
            width=config.critic_width,
        ).to(device)
        self.target = self.critic.make_target()
        self.optimizer = torch.optim.AdamW(self.critic.parameters(), config.critic_learning_rate, fused=True)
        self.state_value = None
        if advantages:
            self.state_value = StateValue(context_dim=policy.context_dim, width=config.critic_width).to(device)
            parameters = self.state_value.parameters()
            self.state_value_optimizer = torch.optim.AdamW(parameters, config.critic_learning_rate, fused=True)

    def update(self, batch: Windows[Tensor]) -> dict[str, Tensor]:
        """Regress Q(s, chunk) on the discounted reward of the executed steps and the target's value after them, and a
        state value V(s) on Q(s, chunk)."""
        c = self.config
        with torch.no_grad():
            reward = chunk_return(batch.reward, batch.length, c.discount)
            next_value = self.next_value(batch.next_observation)
            target = bootstrap(reward, c.discount, batch.length, batch.terminated, next_value)
        features = self.policy.features(batch.observation)
        q = self.critic(features, batch.chunk)
        loss = (q - target).square().mean()
        descend(loss, self.optimizer, "critic")
        soft_update(self.target, self.critic, c.target_rate)
        q = q.detach()
        scalars = {"critic/q_mean": q.mean(), "critic/q_min": q.min(), "critic/q_max": q.max()}
        if self.state_value is not None:
            value_loss = (self.state_value(features) - q.mean(0)).square().mean()
            descend(value_loss, self.state_value_optimizer, "state value")
            scalars["train/value_loss"] = value_loss.detach()
        return {"train/critic_loss": loss.detach(), **scalars}

    def next_value(self, observation: Tensor) -> Tensor:
        """The target's value of the chunk that comes next, of the candidates the one that the critic would choose to
        act, (B, O) -> (B,). One network chooses and another values: what the one overrates, the other may not."""
        c = self.config
        chunks = self.policy.propose(observation, c.target_candidates, c.temperature, self.critic.horizon)
        value = self.value(self.target, observation, chunks)
        if c.target_candidates == 1:
            return value[:, 0]
        best = self.value(self.critic, observation, chunks).argmax(-1, keepdim=True)
        return value.gather(-1, best)[:, 0]

    def value(self, critic: ChunkCritic, observation: Tensor, chunks: Tensor) -> Tensor:
        """The ensemble's mean for what it values of whole chunks (B, n, H, A): (B, n)."""
        return critic(self.policy.features(observation), chunks[:, :, : critic.horizon]).mean(0)

    def actor_loss(self, observation: Tensor, chunks: Tensor, weight: float = 1.0) -> Tensor:
        """-weight * Q / |Q| on proposed chunks (B, n, H, A), |Q| its mean over them: a scalar, as steep whatever the
        scale of the reward."""
        q = self.value(self.critic, observation, chunks)
        return -weight * q.mean() / q.abs().mean().detach().clamp_min(1e-3)

    @torch.no_grad()
    def advantage_weight(self, windows: Windows[Tensor], scale: float) -> Tensor:
        """exp(A / scale) of each window's chunk, A in standard deviations of the batch, over the largest: (B,)."""
        assert self.state_value is not None
        value = self.value(self.target, windows.observation, windows.chunk.unsqueeze(1))[:, 0]
        advantage = value - self.state_value(self.policy.features(windows.observation))
        log_weight = (advantage / (scale * advantage.std().clamp_min(1e-6))).clamp(max=MAX_LOG_WEIGHT)
        return (log_weight - log_weight.max()).exp()  # not all zero, however bad the data's chunks are

    def state_dict(self) -> dict[str, Any]:
        """All that continuing needs."""
        return {name: part.state_dict() for name, part in self._parts().items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave; other keys are left alone."""
        for name, part in self._parts().items():
            part.load_state_dict(state[name])

    def _parts(self) -> dict[str, Any]:
        parts = {"critic": self.critic, "target": self.target, "critic_optimizer": self.optimizer}
        if self.state_value is not None:
            parts |= {"state_value": self.state_value, "state_value_optimizer": self.state_value_optimizer}
        return parts
