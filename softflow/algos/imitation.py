"""Imitation: maximum likelihood on data chunks, or what a flow without a likelihood learns by. Every method begins with
it."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from critics import soft_update
from flows import DEFAULT_FLOW
from softflow.data import Windows
from softflow.policies import ChunkPolicy, FlowPolicy
from softflow.task.layout import ObservationSize

PolicyT = TypeVar("PolicyT", bound=ChunkPolicy)

GRADIENT_NORM = 10.0
"""Gradients are clipped to this norm."""


@dataclass
class ImitationConfig:
    """Imitation: maximum likelihood on the demonstrations."""

    updates: int = 8_000
    """Updates of the policy."""
    learning_rate: float = 1.5e-3
    """Learning rate of AdamW at the start; falls to zero along a cosine."""
    weight_decay: float = 0.0
    """Weight decay of AdamW."""


@dataclass
class PolicyConfig:
    """Settings of a flow policy and of its imitation, which every method begins with."""

    flow: str = DEFAULT_FLOW
    """Density of the policy, one that `flows.available_flows()` lists."""
    flow_options: dict[str, int | float | str | bool] = field(default_factory=dict)
    """Options of that flow."""
    encoder: str | None = None
    """Encoder of images, if the observation has any: `conv`, the default, or `resnet18`, pretrained."""
    encoder_options: dict[str, int | float | str | bool] = field(default_factory=dict)
    """Options of that encoder; of `resnet18` its `weights`, a file."""
    horizon: int = 8
    """Actions of a chunk that the policy proposes."""
    n_action_steps: int = 4
    """Actions of a chunk that are executed."""
    temperature: float = 0.35
    """Scale of the base noise of executed chunks."""
    batch_size: int = 256
    """Windows in a batch."""
    ema_rate: float = 0.005
    """Rate of the running average of the actor's weights, which is the policy that acts."""
    imitation: ImitationConfig = field(default_factory=ImitationConfig)

    def __post_init__(self) -> None:
        if not 1 <= self.n_action_steps <= self.horizon:
            raise ValueError(f"n_action_steps must be in 1 ... horizon = {self.horizon}, got {self.n_action_steps}")
        if self.batch_size < 2:
            raise ValueError(f"batch_size must be at least 2: advantages are compared in it; got {self.batch_size}")


def make_policy(config: PolicyConfig, observation_dim: ObservationSize, action_dim: int) -> FlowPolicy:
    """The flow policy that the settings ask for.

    Raises:
        ValueError, ImportError: see `FlowPolicy`.
    """
    return FlowPolicy(
        observation_dim,
        action_dim,
        config.horizon,
        config.flow,
        config.flow_options,
        config.encoder,
        config.encoder_options,
    )


class Imitator(Generic[PolicyT]):
    """A policy that learns, and the running average of its weights, which acts.

    Args:
        actor: what learns.
        config: settings of imitation.
        ema_rate: rate at which the running average follows.

    Attributes:
        actor: as given.
        policy: the running average; frozen.
        optimizer: the actor's AdamW.
        loss_name: what the loss on data chunks is logged as; only a likelihood is called one.
    """

    def __init__(self, actor: PolicyT, config: ImitationConfig, ema_rate: float) -> None:
        self.actor, self.config, self.ema_rate = actor, config, ema_rate
        self.policy = copy.deepcopy(actor).requires_grad_(False).eval()
        self.loss_name = "flow/nll" if actor.flow.loss_is_nll else "flow/loss"
        self.renew_optimizer(config.learning_rate)

    def fit_normalizer(self, mean: Tensor, std: Tensor) -> None:
        """Set the observation statistics (O,) of both."""
        for policy in (self.actor, self.policy):
            policy.normalizer.fit(mean, std)

    def renew_optimizer(self, learning_rate: float) -> None:
        """An optimiser that remembers nothing."""
        parameters = self.actor.parameters()
        self.optimizer = torch.optim.AdamW(parameters, learning_rate, weight_decay=self.config.weight_decay, fused=True)

    def set_learning_rate(self, start: float, progress: float) -> None:
        """Down a cosine, from `start` at progress 0 to zero at progress 1."""
        for group in self.optimizer.param_groups:
            group["lr"] = start * 0.5 * (1 + math.cos(math.pi * progress))

    def reinitialize(self) -> None:
        """Forget all that was learnt: weights drawn anew, a new optimiser. The observation statistics stay, and so do
        the weights of a pretrained encoder."""
        fresh = self.actor.build(**self.actor.describe())
        fresh.normalizer.load_state_dict(self.actor.normalizer.state_dict())
        if fresh.encoder is not None and self.actor.encoder is not None:
            fresh.encoder.load_state_dict(self.actor.encoder.fixed_state(), strict=False)
        for policy in (self.actor, self.policy):
            policy.load_state_dict(fresh.state_dict())
        self.renew_optimizer(self.config.learning_rate)

    def update(self, batch: Windows[Tensor], progress: float) -> dict[str, Tensor]:
        """One step down the loss on data chunks; `progress` in [0, 1) sets the learning rate."""
        self.set_learning_rate(self.config.learning_rate, progress)
        loss = self.actor.bc_loss(batch.observation, batch.chunk)
        self.step(loss)
        return {"train/actor_loss": loss.detach(), self.loss_name: loss.detach()}

    def step(self, loss: Tensor) -> None:
        """One step of the actor down any loss of its own, and of the running average after it."""
        descend(loss, self.optimizer, "actor")
        soft_update(self.policy, self.actor, self.ema_rate)

    def state_dict(self) -> dict[str, Any]:
        """All that continuing needs."""
        return {name: getattr(self, name).state_dict() for name in ("actor", "policy", "optimizer")}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        for name in ("actor", "policy", "optimizer"):
            getattr(self, name).load_state_dict(state[name])


def descend(loss: Tensor, optimizer: torch.optim.Optimizer, learner: str) -> None:
    """One step on `loss` of what the optimiser holds, its gradient clipped to `GRADIENT_NORM`. Nothing else gets a
    gradient, no critic that the loss passes through either.

    Raises:
        FloatingPointError: the loss of `learner`, as it is called in the message, or its gradient is not finite. Its
            parameters are as they were.
    """
    held = (parameter for group in optimizer.param_groups for parameter in group["params"])
    learned = [parameter for parameter in held if parameter.requires_grad]
    optimizer.zero_grad()
    loss.backward(inputs=learned)
    norm = nn.utils.get_total_norm([parameter.grad for parameter in learned if parameter.grad is not None])
    loss_value, norm_value = torch.stack((loss.detach(), norm)).tolist()  # once: a number read from a GPU is waited for
    if not math.isfinite(norm_value + loss_value):
        what, value = ("gradient", norm_value) if math.isfinite(loss_value) else ("loss", loss_value)
        raise FloatingPointError(f"the {what} of the {learner} is {value}")
    if norm_value > GRADIENT_NORM:
        nn.utils.clip_grads_with_norm_(learned, GRADIENT_NORM, norm)
    optimizer.step()
