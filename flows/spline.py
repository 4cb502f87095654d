"""Monotone rational-quadratic splines on [-bound, bound], the identity outside. The code has no branches on data.

Equations are those of Durkan et al., Neural Spline Flows, NeurIPS 2019, arXiv 1906.04032. A number x lies in one of K
bins, between the knots (x0, y0) and (x1, y1), where the spline has the derivatives d0 and d1. The slope of the bin is
(y1 - y0) / (x1 - x0), and the relative position in it is t = (x - x0) / (x1 - x0).

The bins of a spline lie along the second-to-last axis. Vector operations then process many splines at once, which takes
half the time of bins along the last axis.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

# The usual 1e-3 allows bins too flat to invert in float32, and does not fit better.
MIN_BIN = 3e-2  # minimum width and height, as a fraction of the box
MIN_DERIVATIVE = 3e-2
MAX_BINS = 16  # leaves about half of the box to learn
IDENTITY_RAW = math.log(math.expm1(1 - MIN_DERIVATIVE))  # MIN_DERIVATIVE + softplus(this) = 1


def spline_knots(raw: Tensor, bound: float) -> Tensor:
    """Compute knots from unconstrained numbers: (..., 3K - 1, M) -> (..., 3, K + 1, M), their x, y and derivatives.

    `raw` contains K widths and K heights (softmax) and K - 1 inner derivatives (softplus). All zeros give the identity.
    The outer knots are exactly (-bound, -bound) and (bound, bound), with derivative 1 to match the tails.
    """
    bins = (raw.shape[-2] + 1) // 3
    share = raw[..., : 2 * bins, :].unflatten(-2, (2, bins)).softmax(-2)
    size = 2 * bound * (MIN_BIN + (1 - bins * MIN_BIN) * share)
    inner = size.cumsum(-2)[..., :-1, :] - bound
    corner = torch.full_like(inner[..., :1, :], bound)
    derivative = (MIN_DERIVATIVE + F.softplus(raw[..., 2 * bins :, :] + IDENTITY_RAW)).unsqueeze(-3)
    tail = torch.ones_like(derivative[..., :1, :])
    return torch.cat((torch.cat((-corner, inner, corner), -2), torch.cat((tail, derivative, tail), -2)), -3)


def spline(x: Tensor, knots: Tensor, inverse: bool = False) -> tuple[Tensor, Tensor]:
    """Evaluate M splines or their inverses, each at its own number, with log-derivatives.

    Knots and bounds are met exactly. Beyond the bounds, the map is the identity. Gradients are finite everywhere.

    Args:
        x: Arguments, (..., M); with `inverse`, values of the splines.
        knots: Knots, (..., 3, K + 1, M); see `spline_knots`.
        inverse: Whether to evaluate the inverses.

    Returns:
        The results and the log-derivatives of the evaluated map, both (..., M).
    """
    edge = knots[..., 1 if inverse else 0, :, :]
    inside = (x >= edge[..., 0, :]) & (x <= edge[..., -1, :])
    held = torch.where(inside, x, 0.0)  # an arbitrary value in the box for numbers outside, where the result is unused
    left = (held.unsqueeze(-2) >= edge[..., 1:-1, :]).sum(-2)
    ends = torch.stack((left, left + 1), -2).unsqueeze(-3)
    (x0, x1), (y0, y1), (d0, d1) = (
        row.unbind(-2) for row in knots.gather(-2, ends.expand(*ends.shape[:-3], 3, -1, -1)).unbind(-3)
    )
    slope = (y1 - y0) / (x1 - x0)
    t = _place((held - y0) / (y1 - y0), slope, d0, d1) if inverse else (held - x0) / (x1 - x0)
    # Eq. 4 and 5 as sums of positive terms, which avoids cancellation.
    here, there, both = t.square(), (1 - t).square(), t * (1 - t)
    denominator = slope * (here + there) + (d0 + d1) * both
    derivative = (slope / denominator).square() * (d1 * here + 2 * slope * both + d0 * there)
    # `lerp` is exact at both ends.
    value = torch.lerp(x0, x1, t) if inverse else torch.lerp(y0, y1, (slope * here + d0 * both) / denominator)
    log_derivative = -derivative.log() if inverse else derivative.log()
    return torch.where(inside, value, x), torch.where(inside, log_derivative, 0.0)


def _place(climbed: Tensor, slope: Tensor, d0: Tensor, d1: Tensor) -> Tensor:
    """Return the t at which a spline has climbed a given fraction of its bin's height, the root of eq. 6 to 8.

    With p = d0 (1 - climbed) - d1 climbed, the discriminant is p^2 + 4 slope^2 climbed (1 - climbed): both terms are
    >= 0, and at least one is positive. If p >= 0, the root has no cancellation either. If p < 0, the same holds with
    the bin reversed.
    """
    rest = 1 - climbed
    p = d0 * rest - d1 * climbed
    root = (p.square() + 4 * slope.square() * climbed * rest).sqrt()
    forwards = p >= 0
    rise = 2 * slope * torch.where(forwards, climbed, rest)
    t = rise / (rise + p.abs() + root)
    return torch.where(forwards, t, 1 - t)
