"""A policy that learns, and the moving average of its weights, which acts."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from critics import soft_update
from softflow.algos.optimization import descend, set_learning_rate
from softflow.algos.settings import ImitationConfig
from softflow.data import Windows
from softflow.policies import ChunkPolicy

PolicyT = TypeVar("PolicyT", bound=ChunkPolicy)


class PolicyLearner(Generic[PolicyT]):
    """An actor, its optimiser, and the exponential moving average of its weights.

    Args:
        actor: The policy that learns.
        config: Settings of imitation.
        ema_rate: The rate at which the moving average follows the actor.

    Attributes:
        actor: As given.
        policy: The moving average; frozen.
        optimizer: AdamW on the actor's parameters.
        loss_name: What the behaviour-cloning loss is logged as: `flow/nll` if it is a likelihood, else `flow/loss`.
    """

    def __init__(self, actor: PolicyT, config: ImitationConfig, ema_rate: float) -> None:
        self.actor, self.config, self.ema_rate = actor, config, ema_rate
        self.policy = copy.deepcopy(actor).requires_grad_(False).eval()
        self.loss_name = "flow/nll" if actor.flow.loss_is_nll else "flow/loss"
        self.renew_optimizer(config.learning_rate)

    def imitate(self, batch: Windows[Tensor], progress: float) -> dict[str, Tensor]:
        """Make one step on the behaviour-cloning loss; `progress` in [0, 1) of the stage sets the learning rate."""
        set_learning_rate(self.optimizer, self.config.learning_rate, progress)
        loss = self.actor.bc_loss(batch.observation, batch.chunk)
        self.descend(loss)
        return {"train/actor_loss": loss.detach(), self.loss_name: loss.detach()}

    def descend(self, loss: Tensor) -> None:
        """Make one step of the actor on any loss, and move the average after it."""
        descend(loss, self.optimizer, "actor")
        soft_update(self.policy, self.actor, self.ema_rate)

    def restart(self, learning_rate: float) -> None:
        """Go on from the policy that acts, with an optimiser that remembers nothing."""
        self.actor.load_state_dict(self.policy.state_dict())
        self.renew_optimizer(learning_rate)

    def renew_optimizer(self, learning_rate: float) -> None:
        """Replace the optimiser by one that remembers nothing."""
        parameters = self.actor.parameters()
        self.optimizer = torch.optim.AdamW(parameters, learning_rate, weight_decay=self.config.weight_decay, fused=True)

    def reinitialize(self) -> None:
        """Draw all weights anew, with a new optimiser.

        The observation statistics and the weights of a pretrained encoder stay.
        """
        fresh = self.actor.build(**self.actor.describe())
        fresh.normalizer.load_state_dict(self.actor.normalizer.state_dict())
        if fresh.encoder is not None and self.actor.encoder is not None:
            fresh.encoder.load_state_dict(self.actor.encoder.fixed_state(), strict=False)
        for policy in (self.actor, self.policy):
            policy.load_state_dict(fresh.state_dict())
        self.renew_optimizer(self.config.learning_rate)

    def parts(self) -> Mapping[str, Any]:
        """Everything that a checkpoint must hold."""
        return {"actor": self.actor, "policy": self.policy, "optimizer": self.optimizer}
