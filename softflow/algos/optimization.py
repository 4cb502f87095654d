"""The optimiser step that all learners share."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

GRADIENT_NORM = 10.0
"""Gradients are clipped to this norm."""


def descend(loss: Tensor, optimizer: torch.optim.Optimizer, learner: str) -> dict[str, Tensor]:
    """Make one optimiser step on `loss` with the gradient clipped to `GRADIENT_NORM`.

    Only the optimiser's parameters get a gradient; a critic that the loss passes through gets none.

    Returns:
        The scalars to log: the norm of the gradient before it was clipped, and the learning rate.

    Raises:
        FloatingPointError: The loss or its gradient is not finite. The message names the `learner`, whose
            parameters are unchanged.
    """
    held = (parameter for group in optimizer.param_groups for parameter in group["params"])
    learned = [parameter for parameter in held if parameter.requires_grad]
    optimizer.zero_grad()
    loss.backward(inputs=learned)
    norm = nn.utils.get_total_norm([parameter.grad for parameter in learned if parameter.grad is not None])
    loss_value, norm_value = torch.stack((loss.detach(), norm)).tolist()  # in one read, because reads from a GPU block
    if not math.isfinite(norm_value + loss_value):
        what, value = ("gradient", norm_value) if math.isfinite(loss_value) else ("loss", loss_value)
        raise FloatingPointError(f"the {what} of the {learner} is {value}")
    if norm_value > GRADIENT_NORM:
        nn.utils.clip_grads_with_norm_(learned, GRADIENT_NORM, norm)
    optimizer.step()
    name, rate = f"train/{learner.replace(' ', '_')}", optimizer.param_groups[0]["lr"]
    return {f"{name}_gradient_norm": norm, f"{name}_learning_rate": torch.tensor(rate, dtype=torch.float64)}


def set_learning_rate(optimizer: torch.optim.Optimizer, start: float, progress: float) -> None:
    """Set the learning rate on a cosine that decays from `start` at progress 0 to zero at progress 1."""
    for group in optimizer.param_groups:
        group["lr"] = start * 0.5 * (1 + math.cos(math.pi * progress))
