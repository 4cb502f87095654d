"""A policy that is trained, and the moving average of its weights, which acts."""

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
        actor: The policy to train.
        config: The settings of imitation.
        ema_rate: The rate at which the moving average follows the actor.

    Attributes:
        actor: The policy that is trained.
        policy: The moving average of the actor; frozen.
        optimizer: AdamW on the actor's parameters.
        loss_name: The name of the logged behaviour-cloning loss: `flow/nll` if it is a negative log-likelihood, else
            `flow/loss`.
    """

    def __init__(self, actor: PolicyT, config: ImitationConfig, ema_rate: float) -> None:
        self.actor, self.config, self.ema_rate = actor, config, ema_rate
        self.policy = copy.deepcopy(actor).requires_grad_(False).eval()
        self.loss_name = "flow/nll" if actor.flow.loss_is_nll else "flow/loss"
        self.renew_optimizer(config.learning_rate)

    def start_from(self, policy: ChunkPolicy) -> None:
        """Continue from a trained policy with its weights and observation statistics.

        Raises:
            ValueError: Its kind or architecture differs from that of the actor.
        """
        copy_policy(policy, self.actor)
        self.policy.load_state_dict(self.actor.state_dict())

    def imitate(self, batch: Windows[Tensor], progress: float) -> dict[str, Tensor]:
        """Make one step on the behaviour-cloning loss. `progress` of the stage, in [0, 1), sets the learning rate and
        the noise on the chunks."""
        set_learning_rate(self.optimizer, self.config.learning_rate, progress)
        loss = self.actor.bc_loss(batch.observation, self.blurred(batch.chunk, progress))
        step = self.descend(loss)
        return {"train/actor_loss": loss.detach(), self.loss_name: loss.detach(), **step}

    def blurred(self, chunk: Tensor, progress: float) -> Tensor:
        """Add noise to data chunks that decays to zero over the stage: (B, H, A) -> (B, H, A).

        Wide noise hides the details of the density until its coarse shape is learnt. Flow matching gets none, because
        it learns at all noise levels at once.
        """
        size = self.config.initial_noise * (1 - progress) ** 4
        if not (size and self.actor.flow.loss_is_nll and self.actor.normalizes_actions):
            return chunk
        return chunk + size * self.actor.action_scale * torch.randn_like(chunk)

    def descend(self, loss: Tensor) -> dict[str, Tensor]:
        """Make one optimiser step of the actor on any loss and update the moving average. Return the step's scalars."""
        step = descend(loss, self.optimizer, "actor")
        soft_update(self.policy, self.actor, self.ema_rate)
        return step

    def restart(self, learning_rate: float) -> None:
        """Continue from the acting policy with a fresh optimiser."""
        self.actor.load_state_dict(self.policy.state_dict())
        self.renew_optimizer(learning_rate)

    def return_to(self, policy: PolicyT) -> None:
        """Continue from the weights of another policy with a fresh optimiser."""
        self.policy.load_state_dict(policy.state_dict())
        self.restart(self.optimizer.param_groups[0]["lr"])

    def renew_optimizer(self, learning_rate: float) -> None:
        """Replace the optimiser by a fresh one."""
        parameters = self.actor.parameters()
        self.optimizer = torch.optim.AdamW(parameters, learning_rate, weight_decay=self.config.weight_decay, fused=True)

    def reinitialize(self) -> None:
        """Reinitialise all weights and the optimiser.

        The statistics and the weights of a pretrained encoder are kept.
        """
        fresh = self.actor.build(**self.actor.describe())
        fresh.take_statistics(self.actor)
        if fresh.encoder is not None and self.actor.encoder is not None:
            fresh.encoder.load_state_dict(self.actor.encoder.fixed_state(), strict=False)
        for policy in (self.actor, self.policy):
            policy.load_state_dict(fresh.state_dict())
        self.renew_optimizer(self.config.learning_rate)

    def parts(self) -> Mapping[str, Any]:
        """Return everything that a checkpoint must contain."""
        return {"actor": self.actor, "policy": self.policy, "optimizer": self.optimizer}


def copy_policy(policy: ChunkPolicy, to: ChunkPolicy) -> None:
    """Copy the weights and observation statistics of a trained policy, the base, to another one.

    Raises:
        ValueError: The policies are of different kinds or architectures.
    """
    if policy.kind != to.kind:
        raise ValueError(f"its policy is of kind {policy.kind!r}, expected {to.kind!r}")
    given, expected = policy.describe(), to.describe()
    for name, value in expected.items():
        if given[name] != value:
            raise ValueError(f"the base's {name} is {given[name]!r}, expected {value!r}")
    to.load_state_dict(policy.state_dict())
