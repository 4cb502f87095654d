"""Limits on executed actions: a box, and a maximum change per step."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Limit = float | Tensor
"""One number for all action dimensions, or one per dimension, (A,)."""
ROUNDING = 1e-5
"""How far the previous action may lie outside the box, because converting it from native units rounds it."""


class StepLimits(NamedTuple):
    """The same limits for one action after another, without torch. The results are those of `ActionLimits` to the bit.

    The fields are float32 arrays (A,).
    """

    low: NDArray[np.float32]
    high: NDArray[np.float32]
    rate: NDArray[np.float32]

    def apply(self, action: NDArray[np.float32], previous: NDArray[np.float32] | None) -> NDArray[np.float32]:
        """Limit an action (A,), relative to the previous one. The latter is clipped to the box first."""
        inside = action.clip(self.low, self.high)
        if previous is None:
            return inside
        before = previous.clip(self.low, self.high)
        change = inside - before
        return np.where(np.abs(change) <= self.rate, inside, before + change.clip(-self.rate, self.rate))


class ActionLimits(nn.Module):
    """Clips chunks to a box, and limits the change from each step to the next.

    The first step is limited relative to the previously executed action. Each further step is limited relative to the
    limited step before it. A chunk within the limits is returned unchanged, bit for bit.

    Args:
        action_dim: Dimension of an action, A.
        low, high: Bounds of the box; -1 <= low < high <= 1.
        rate: Maximum change per step, positive. Infinity means no limit.

    Raises:
        ValueError: A limit has the wrong shape or is out of range.
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
            chunk: The proposed chunks.
            previous: The previously executed actions, (B, A), within the box up to `ROUNDING`. None if nothing has been
                executed yet; the rate then does not limit the first step.

        Raises:
            ValueError: `previous` has the wrong shape, or lies outside the box, where the limits may conflict.
        """
        if previous is not None:
            expected = (len(chunk), self.action_dim)
            if previous.shape != expected:
                raise ValueError(f"previous: expected {expected}, got {tuple(previous.shape)}")
            if not ((previous >= self.low - ROUNDING) & (previous <= self.high + ROUNDING)).all():
                raise ValueError(
                    "previous: the last executed action is not a number within the bounds: pass the action that was "
                    "executed, or None if there was none"
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

    def of_steps(self) -> StepLimits:
        """Return the limits for one action after another."""
        return StepLimits(*(limit.numpy(force=True) for limit in (self.low, self.high, self.rate)))
