"""Limits that every executed action keeps: a box, and the largest change from one step to the next."""

from __future__ import annotations

import torch
from torch import Tensor, nn

Limit = float | Tensor
"""One number for all action dimensions, or one for each, (A,)."""
ROUNDING = 1e-5
"""How far beyond the box the action executed last may lie: it has been in native units and was scaled back."""


class ActionLimits(nn.Module):
    """Clips chunks to a box, then each step to what can be reached from the step before.

    The order is that of execution: the first step is limited to what can be reached from the action executed last,
    each further one to what can be reached from the limited step before it. A chunk within the limits is returned to
    the bit.

    Args:
        action_dim: Numbers of an action, A.
        low, high: Bounds of the box; -1 <= low < high <= 1.
        rate: The largest change per step; positive, and infinite where there is no limit.

    Raises:
        ValueError: A limit has another shape or is out of range.
    """

    low: Tensor
    high: Tensor
    rate: Tensor

    def __init__(self, action_dim: int, low: Limit = -1.0, high: Limit = 1.0, rate: Limit = torch.inf) -> None:
        super().__init__()
        self.action_dim = action_dim
        for name, limit in (("low", low), ("high", high), ("rate", rate)):
            given = torch.as_tensor(limit, dtype=torch.float32)
            if given.shape not in ((), (action_dim,)):
                raise ValueError(f"{name}: expected one number or ({action_dim},), got {tuple(given.shape)}")
            self.register_buffer(name, given.expand(action_dim).clone())
        self.require_valid()

    def require_valid(self) -> None:
        """Raise ValueError if a limit is out of range."""
        if not ((self.low >= -1) & (self.low < self.high) & (self.high <= 1)).all():
            raise ValueError(f"expected -1 <= low < high <= 1, got {self.low.tolist()} and {self.high.tolist()}")
        if not (self.rate > 0).all():
            raise ValueError(f"rate: expected positive numbers, got {self.rate.tolist()}")

    def forward(self, chunk: Tensor, previous: Tensor | None = None) -> Tensor:
        """Limit chunks: (B, *n, H, A) -> (B, *n, H, A).

        Args:
            chunk: The chunks as proposed.
            previous: The actions executed last, (B, A), within the box up to `ROUNDING`. None where nothing was
                executed yet, so that the first step is free.

        Raises:
            ValueError: `previous` has another shape, or lies outside the box, from where no step keeps both limits.
        """
        if previous is not None:
            expected = (len(chunk), self.action_dim)
            if previous.shape != expected:
                raise ValueError(f"previous: expected {expected}, got {tuple(previous.shape)}")
            if not ((previous >= self.low - ROUNDING) & (previous <= self.high + ROUNDING)).all():
                raise ValueError(
                    "previous: the action executed last is not a number within the bounds: give what was executed, or "
                    "None if nothing was"
                )
            previous = previous.clamp(self.low, self.high)
            previous = previous.reshape(len(chunk), *(1 for _ in chunk.shape[1:-2]), self.action_dim)
        steps = []
        for step in chunk.clamp(self.low, self.high).unbind(-2):
            if previous is not None:
                change = step - previous
                reached = previous + change.clamp(-self.rate, self.rate)
                step = torch.where(change.abs() <= self.rate, step, reached)
            steps.append(step)
            previous = step
        return torch.stack(steps, -2)
