"""What every method with a chunk critic shares: the critic with its slow target, and the arithmetic of their losses.

The critic values the first `critic.horizon` actions of a chunk as it is executed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from critics import ChunkCritic, bootstrap, chunk_return, soft_update
from softflow.algos.optimization import descend
from softflow.algos.settings import ChunkCriticConfig
from softflow.data import Windows
from softflow.policies import ChunkPolicy

MAX_LOG_WEIGHT = 3.0
"""Upper bound of A / scale in `advantage_weight`: no chunk counts more than e^3 times an average one."""


class CriticLearner:
    """A critic, its slow target, and its optimiser.

    Args:
        config: Sizes and rates.
        policy: Makes the features that the critic is given, from which no gradient reaches the policy.
        device: Where the networks live.

    Attributes:
        critic: What learns.
        target: Its moving average; frozen.
        optimizer: AdamW on the critic's parameters.
    """

    def __init__(self, config: ChunkCriticConfig, policy: ChunkPolicy, device: str = "cpu") -> None:
        self.policy, self.discount, self.target_rate = policy, config.discount, config.target_rate
        self.critic = ChunkCritic(
            context_dim=policy.context_dim,
            horizon=config.critic_horizon or config.n_action_steps,
            action_dim=policy.action_dim,
            members=config.critic_members,
            width=config.critic_width,
        ).to(device)
        self.target = self.critic.make_target()
        self.optimizer = torch.optim.AdamW(self.critic.parameters(), config.critic_learning_rate, fused=True)

    def descend(self, loss: Tensor) -> None:
        """Make one step of the critic, and move the target after it."""
        descend(loss, self.optimizer, "critic")
        soft_update(self.target, self.critic, self.target_rate)

    def q(self, batch: Windows[Tensor]) -> Tensor:
        """Q(s, a) of the steps of each window, by each critic: (E, B)."""
        return self.critic(self.policy.features(batch.observation), batch.chunk)

    def value(self, observation: Tensor, chunks: Tensor) -> Tensor:
        """The critics' mean value of whole chunks: (B, O), (B, n, H, A) -> (B, n)."""
        return self._mean(self.critic, observation, chunks)

    def target_value(self, observation: Tensor, chunks: Tensor) -> Tensor:
        """The same of the target critics."""
        return self._mean(self.target, observation, chunks)

    def best_value(self, observation: Tensor, chunks: Tensor) -> Tensor:
        """The target's value of the chunk that the critic would choose: (B, O), (B, n, H, A) -> (B,).

        One network chooses and another values: what the one overrates, the other may not.
        """
        value = self.target_value(observation, chunks)
        if chunks.shape[1] == 1:
            return value[:, 0]
        best = self.value(observation, chunks).argmax(-1, keepdim=True)
        return value.gather(-1, best)[:, 0]

    def td_target(self, batch: Windows[Tensor], next_value: Tensor) -> Tensor:
        """The discounted reward of the k executed steps and discount^k times the value (B,) after them: (B,).

        Q-chunking, arXiv 2507.07969, eq. 5. Nothing is bootstrapped from a terminal state.
        """
        reward = chunk_return(batch.reward, batch.length, self.discount)
        return bootstrap(reward, self.discount, batch.length, batch.terminated, next_value)

    def parts(self) -> Mapping[str, Any]:
        """Everything that a checkpoint must hold."""
        return {"critic": self.critic, "target": self.target, "critic_optimizer": self.optimizer}

    def _mean(self, critic: ChunkCritic, observation: Tensor, chunks: Tensor) -> Tensor:
        return critic(self.policy.features(observation), chunks[:, :, : critic.horizon]).mean(0)


def normalized_q_loss(q: Tensor, weight: float = 1.0) -> Tensor:
    """-weight * Q / |Q|, |Q| being the mean over all values: a scalar as steep whatever the scale of the reward."""
    return -weight * q.mean() / q.abs().mean().detach().clamp_min(1e-3)


def advantage_weight(advantage: Tensor, scale: float) -> Tensor:
    """exp(A / scale), A in standard deviations of the batch, over the largest of them: (B,) -> (B,).

    Advantage-weighted regression, arXiv 1910.00177.
    """
    log_weight = (advantage / (scale * advantage.std().clamp_min(1e-6))).clamp(max=MAX_LOG_WEIGHT)
    return (log_weight - log_weight.max()).exp()  # not all zero, however bad the data's chunks are


def critic_scalars(loss: Tensor, q: Tensor) -> dict[str, Tensor]:
    """What is logged of a critic: its loss, and the mean and range of its values."""
    loss, q = loss.detach(), q.detach()
    return {"train/critic_loss": loss, "critic/q_mean": q.mean(), "critic/q_min": q.min(), "critic/q_max": q.max()}
