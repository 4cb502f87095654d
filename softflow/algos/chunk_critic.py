"""The chunk critic with its target network, and the losses that methods with such a critic share.

The critic values the first `critic.horizon` actions of an executed chunk.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from critics import ChunkCritic, bootstrap, chunk_return, soft_update
from softflow.algos.optimization import descend
from softflow.algos.settings import ChunkCriticConfig
from softflow.data import Windows
from softflow.policies import ChunkPolicy

MAX_LOG_WEIGHT = 3.0
"""Upper bound of A / scale in `advantage_weight`: no chunk weighs more than e^3 times an average one."""


class CriticLearner:
    """A critic, its target network and its optimiser.

    Args:
        config: The sizes and rates of the critic.
        policy: The policy whose features the critic reads. No gradient reaches the policy through them.
        device: The device of the networks.

    Attributes:
        critic: The critic that is trained.
        target: The moving average of the critic; frozen.
        optimizer: AdamW on the critic's parameters.
    """

    def __init__(self, config: ChunkCriticConfig, policy: ChunkPolicy, device: str = "cpu") -> None:
        self.policy, self.discount, self.target_rate = policy, config.step_discount, config.target_rate
        self.critic = ChunkCritic(
            context_dim=policy.context_dim,
            horizon=config.critic_horizon or config.n_action_steps,
            action_dim=policy.action_dim,
            members=config.critic_members,
            width=config.critic_width,
            normalize=policy.normalizes_actions,
        ).to(device)
        self.target = self.critic.make_target()
        self.optimizer = torch.optim.AdamW(self.critic.parameters(), config.critic_learning_rate, fused=True)

    def descend(self, loss: Tensor) -> dict[str, Tensor]:
        """Make one optimiser step of the critic and update the target. Return the step's scalars."""
        step = descend(loss, self.optimizer, "critic")
        soft_update(self.target, self.critic, self.target_rate)
        return step

    def read(self, batch: Windows[Tensor]) -> Windows[Tensor]:
        """Return a batch whose images the policy has read, for one update of the critic."""
        observation, next_observation = map(self.policy.read, (batch.observation, batch.next_observation))
        return replace(batch, observation=observation, next_observation=next_observation)

    def q(self, batch: Windows[Tensor]) -> Tensor:
        """Return Q(s, a) of the actions of each window by each critic: (E, B)."""
        return self.critic(self.policy.features(batch.observation), batch.chunk)

    def value(self, observation: Tensor, chunks: Tensor) -> Tensor:
        """Return the mean value of whole chunks over the critics: (B, O), (B, n, H, A) -> (B, n)."""
        return self._mean(self.critic, observation, chunks)

    def target_value(self, observation: Tensor, chunks: Tensor) -> Tensor:
        """Return the mean value of whole chunks over the target critics: (B, O), (B, n, H, A) -> (B, n)."""
        return self._mean(self.target, observation, chunks)

    def best_value(self, observation: Tensor, chunks: Tensor) -> Tensor:
        """Return the target value of the chunk that the critic chooses: (B, O), (B, n, H, A) -> (B,).

        As in double Q-learning, one network chooses and another values, so they rarely overrate the same chunk.
        """
        value = self.target_value(observation, chunks)
        if chunks.shape[1] == 1:
            return value[:, 0]
        best = self.value(observation, chunks).argmax(-1, keepdim=True)
        return value.gather(-1, best)[:, 0]

    def td_target(self, batch: Windows[Tensor], next_value: Tensor) -> Tensor:
        """Return the discounted reward of the k executed steps plus discount^k times the value (B,) after them: (B,).

        Q-chunking, arXiv 2507.07969, eq. 5. Terminal states are not bootstrapped.
        """
        reward = chunk_return(batch.reward, batch.length, self.discount)
        return bootstrap(reward, self.discount, batch.length, batch.terminated, next_value)

    def parts(self) -> Mapping[str, Any]:
        """Return everything that a checkpoint must contain."""
        return {"critic": self.critic, "target": self.target, "critic_optimizer": self.optimizer}

    def _mean(self, critic: ChunkCritic, observation: Tensor, chunks: Tensor) -> Tensor:
        return critic(self.policy.features(observation), chunks[:, :, : critic.horizon]).mean(0)


def normalized_q_loss(q: Tensor, weight: float = 1.0) -> Tensor:
    """Return -weight * Q / |Q|, where |Q| is the mean over all values, so that the scale of the reward cancels."""
    return -weight * q.mean() / q.abs().mean().detach().clamp_min(1e-3)


def advantage_weight(advantage: Tensor, scale: float) -> Tensor:
    """Return exp(A / scale) relative to its largest value, with A in standard deviations of the batch: (B,) -> (B,).

    Advantage-weighted regression, arXiv 1910.00177.
    """
    log_weight = (advantage / (scale * advantage.std().clamp_min(1e-6))).clamp(max=MAX_LOG_WEIGHT)
    return (log_weight - log_weight.max()).exp()  # never all zero, however bad the data are


def critic_scalars(loss: Tensor, q: Tensor) -> dict[str, Tensor]:
    """Return the logged scalars of a critic: its loss, and the mean and range of its values."""
    loss, q = loss.detach(), q.detach()
    return {"train/critic_loss": loss, "critic/q_mean": q.mean(), "critic/q_min": q.min(), "critic/q_max": q.max()}
