"""Bounded actions: a flow over the atanh of the slightly shrunk action, and noise on the chunks that it learns from.

`make_flow(name, bounds="atanh", noise=0.03, ...)` wraps any flow.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from flows.base import ChunkFlow
from flows.bases import LatentBase

JOIN = 0.99  # of tanh: where the map leaves it for its tangent
JOIN_SLOPE = 1 - JOIN**2


def log_tanh_slope(u: Tensor) -> Tensor:
    """log(1 - tanh(u)^2) for any u; computed as written it is -inf from |u| = 9 (float32) or 19 (float64)."""
    return 2 * (math.log(2) - u - F.softplus(-2 * u))


class BoundedFlow(ChunkFlow):
    """A flow made to suit actions in [-1, 1], many of them exactly at a bound.

    With `bounds="atanh"` the flow's density lives on

        u = atanh(shrink * chunk),

    so that nearly all of its mass stays near the box, and a chunk on the bounds is an ordinary point (u = +-1.47).
    Where shrink * |chunk| exceeds 0.99 (at the default shrink, |chunk| > 1.1) the map goes on along its tangent. It
    thus is a bijection of the real line: log-densities are finite for any chunk, exact, and integrate to one; and
    float32 can invert it, which it cannot tanh. A sample may pass 1.1 by a little, 0.022 for each unit of u beyond
    2.65: the environment clips, and no log-density is ever that of a clipped chunk.

    With `bounds="raw"` the flow is left as it is: a density over all chunks, clipped by the environment.

    In training mode, `loss` adds independent noise to the chunk (dequantisation): data on a lower-dimensional set,
    such as a gripper that is open or shut, has no density, and a likelihood without noise would grow forever. `eval()`
    and every other method leave the chunk alone.

    Args:
        flow: the flow to wrap.
        bounds: "atanh" or "raw".
        shrink: in (0, 0.99].
        noise: in units of the action: standard deviation (gaussian) or half-width (uniform); 0 for none.
        noise_law: "gaussian" or "uniform".
    """

    def __init__(
        self,
        flow: ChunkFlow,
        *,
        bounds: str = "atanh",
        shrink: float = 0.9,
        noise: float = 0.0,
        noise_law: str = "gaussian",
    ) -> None:
        super().__init__(horizon=flow.horizon, action_dim=flow.action_dim, context_dim=flow.context_dim)
        if bounds not in ("atanh", "raw"):
            raise ValueError(f"bounds: expected 'atanh' or 'raw', got {bounds!r}")
        if not 0 < shrink <= JOIN:
            raise ValueError(f"shrink: expected a number in (0, {JOIN}], got {shrink!r}")
        if not 0 <= noise < math.inf:
            raise ValueError(f"noise: expected a finite number >= 0, got {noise!r}")
        if noise_law not in ("gaussian", "uniform"):
            raise ValueError(f"noise_law: expected 'gaussian' or 'uniform', got {noise_law!r}")
        self.flow = flow
        self.bounds = bounds
        self.shrink = shrink
        self.noise = noise
        self.noise_law = noise_law
        self.loss_is_nll = flow.loss_is_nll
        self.exact_density = flow.exact_density

    @property
    def base(self) -> LatentBase:  # type: ignore[override]  # an attribute would enter the state dict a second time
        return self.flow.base

    def embed(self, context: Tensor) -> Any:
        return self.flow.embed(context)

    def encode(self, chunk: Tensor, embedding: Any) -> tuple[Tensor, Tensor]:
        u, unbounding = self._unbound(chunk)
        latent, log_abs_det = self.flow.encode(u, embedding)
        return latent, log_abs_det + unbounding

    def decode(self, latent: Tensor, embedding: Any) -> tuple[Tensor, Tensor]:
        u, log_abs_det = self.flow.decode(latent, embedding)
        chunk, bounding = self._bound(u)
        return chunk, log_abs_det + bounding

    def generate(self, latent: Tensor, embedding: Any, length: int | None = None) -> Tensor:
        return self._bound(self.flow.generate(latent, embedding, length))[0]

    def row_loss(self, chunk: Tensor, context: Tensor) -> Tensor:
        if self.training and self.noise:
            unit = torch.randn_like(chunk) if self.noise_law == "gaussian" else 2 * torch.rand_like(chunk) - 1
            chunk = chunk + self.noise * unit
        u, log_abs_det = self._unbound(chunk)
        loss = self.flow.row_loss(u, context)
        return loss - log_abs_det.sum(-1) if self.loss_is_nll else loss

    def _unbound(self, chunk: Tensor) -> tuple[Tensor, Tensor]:
        """Chunk (..., d) -> u and log|det du / dchunk| (...)."""
        if self.bounds == "raw":
            return chunk, chunk.new_zeros(chunk.shape[:-1])
        x = self.shrink * chunk
        inner = x.clamp(-JOIN, JOIN)
        u = inner.atanh() + (x - inner) / JOIN_SLOPE
        return u, (math.log(self.shrink) - torch.log1p(-inner.square())).sum(-1)

    def _bound(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Inverse of `_unbound`: u (..., d) -> chunk and log|det dchunk / du| (...)."""
        if self.bounds == "raw":
            return u, u.new_zeros(u.shape[:-1])
        inner = u.clamp(-math.atanh(JOIN), math.atanh(JOIN))
        x = inner.tanh() + (u - inner) * JOIN_SLOPE
        return x / self.shrink, (log_tanh_slope(inner) - math.log(self.shrink)).sum(-1)
