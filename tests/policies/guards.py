"""A guard whose density is the standard normal of two numbers, so that its thresholds are known."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from softflow.policies import ChunkGuard, FlowPolicy

HORIZON, ACTION_DIM, OBSERVATION_DIM = 2, 1, 2


def log_density(chunk: Tensor) -> Tensor:
    """Return the log-density of a standard normal: (*n, 2, 1) -> (*n,)."""
    return -math.log(2 * math.pi) - chunk.square().sum((-2, -1)) / 2


def standard_normal() -> FlowPolicy:
    """Chunks are N(0, I) whatever the observation, whose statistics are 0 and 1."""
    policy = FlowPolicy(OBSERVATION_DIM, ACTION_DIM, HORIZON, "gaussian", dict(width=4))
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.zero_()
    policy.normalizer.fit(torch.zeros(OBSERVATION_DIM), torch.ones(OBSERVATION_DIM))
    return policy


def at_quantiles(n: int) -> Tensor:
    """n chunks whose log-densities are the i / (n + 1) quantiles of the standard normal's, i = 1 ... n: the square of
    the radius is chi-square of 2 degrees of freedom, which exceeds -2 log(p) with probability p."""
    radius = (-2 * (torch.arange(1, n + 1) / (n + 1)).log()).sqrt()
    return torch.stack([radius, torch.zeros(n)], -1).unsqueeze(-1)


def calibrated(quantile: float = 0.05, n: int = 99, **options: Any) -> ChunkGuard:
    """Observations that were learnt are (+-1, +-1), so that none of their directions is rarer than another."""
    guard = ChunkGuard(standard_normal(), **options)
    corners = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    guard.calibrate(corners, corners.repeat(n // 4 + 1, 1)[:n], at_quantiles(n), quantile)
    return guard
