"""Policies of another project, for Pendulum-v1: three numbers are observed, and the torque is in -2 ... 2."""

from __future__ import annotations

import torch
from torch import Tensor, nn

HORIZON = 4


class Policy(nn.Module):
    """What the policies share."""

    def __init__(self, weight: float = 0.5, horizon: int = HORIZON) -> None:
        super().__init__()
        self.horizon, self.weight = horizon, nn.Parameter(torch.full((3, 1), weight))

    def torques(self, observation: dict[str, Tensor]) -> Tensor:
        """The same torque at every step: (B, 3) -> (B, H, 1)."""
        return (observation["observation"] @ self.weight).unsqueeze(1).expand(-1, self.horizon, -1)


class Plain(Policy):
    """A policy without noise."""

    def forward(self, observation: dict[str, Tensor]) -> Tensor:
        return self.torques(observation)


class Noisy(Policy):
    """A policy whose noise has another shape than its chunks."""

    noise_shape = (5,)

    def forward(self, observation: dict[str, Tensor], noise: Tensor) -> Tensor:
        return self.torques(observation) + noise.mean(1)[:, None, None]


class Detached(Noisy):
    """A policy without a gradient."""

    @torch.no_grad()
    def forward(self, observation: dict[str, Tensor], noise: Tensor) -> Tensor:
        return super().forward(observation, noise)


class NotANumber(Plain):
    def forward(self, observation: dict[str, Tensor]) -> Tensor:
        return super().forward(observation) * torch.nan


class Failing(Plain):
    def forward(self, observation: dict[str, Tensor]) -> Tensor:
        raise KeyError("joints")


class Random(Plain):
    def forward(self, observation: dict[str, Tensor]) -> Tensor:
        return super().forward(observation) + torch.rand(1)


class Counting(Plain):
    """A policy that changes while it acts."""

    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, observation: dict[str, Tensor]) -> Tensor:
        self.calls += 1
        return super().forward(observation)


class Undeclared(Policy):
    """A policy that does not say that it takes noise."""

    def forward(self, observation: dict[str, Tensor], noise: Tensor) -> Tensor:
        return self.torques(observation) + noise


def still(observation: dict[str, Tensor]) -> Tensor:
    return torch.zeros(len(observation["observation"]), HORIZON, 1)


CONSTANT = 3
