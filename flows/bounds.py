"""Bounded actions: a flow over the atanh of slightly shrunk actions, and noise on the chunks in training.

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

JOIN = 0.99  # value of tanh at which the map goes over to the tangent
JOIN_SLOPE = 1 - JOIN**2


def log_tanh_slope(u: Tensor) -> Tensor:
    """Return log(1 - tanh(u)^2). The plain formula would give -inf from |u| = 9 (float32) or 19 (float64)."""
    return 2 * (math.log(2) - u - F.softplus(-2 * u))


class BoundedFlow(ChunkFlow):
    """A flow for actions in [-1, 1], of which many may lie exactly at a bound.

    With `bounds="atanh"` the wrapped flow is a density over

        u = atanh(shrink * chunk).

    Nearly all of its mass then lies near the box, and an action at a bound is an ordinary point (u = +-1.47). Where
    shrink * |chunk| exceeds 0.99 (|chunk| > 1.1 at the default shrink), the map continues along its tangent. It is thus
    a bijection of the real line: log-densities are exact, finite for any chunk, and integrate to one. Unlike a tanh, it
    can be inverted in float32. A sample may exceed 1.1 slightly, by 0.022 for each unit of u beyond 2.65. The
    environment clips it; log-densities are always those of the chunk before clipping.

    With `bounds="raw"` the flow is a density over all chunks, and the environment clips its samples.

    In training mode, `loss` adds independent noise to the chunk (dequantisation). Data on a lower-dimensional set, such
    as a gripper that is either open or shut, has no density: without noise its likelihood would grow without bound.
    No noise is added in `eval()` mode or by any other method.

    Args:
        flow: The flow to wrap.
        bounds: "atanh" or "raw".
        shrink: Factor on the action before the atanh, in (0, 0.99]. Higher values leave less mass outside the box, but
            the map is steeper at the bounds.
        noise: Noise on the chunks in training, in units of the action: the standard deviation ("gaussian") or the
            half-width ("uniform"). 0 adds none.
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
        self.noise_size = noise
        self.noise_law = noise_law
        self.loss_is_nll = flow.loss_is_nll
        self.exact_density = flow.exact_density
        self.guidable = flow.guidable

    @property
    def base(self) -> LatentBase:  # type: ignore[override]  # an attribute would enter the state dict a second time
        """The base density of the flow's latents."""
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

    def guide(self, latent: Tensor, embedding: Any, known: Tensor, weight: Tensor, strength: float) -> Tensor:
        return self._bound(self.flow.guide(latent, embedding, self._unbound(known)[0], weight, strength))[0]

    def row_loss(self, chunk: Tensor, context: Tensor) -> Tensor:
        if self.training and self.noise_size:
            chunk = chunk + self.noise_size * self._unit_noise(chunk)
        u, log_abs_det = self._unbound(chunk)
        loss = self.flow.row_loss(u, context)
        return loss - log_abs_det.sum(-1) if self.loss_is_nll else loss

    def _unit_noise(self, like: Tensor) -> Tensor:
        return torch.randn_like(like) if self.noise_law == "gaussian" else 2 * torch.rand_like(like) - 1

    def _unbound(self, chunk: Tensor) -> tuple[Tensor, Tensor]:
        """Map a chunk (..., d) to u (..., d) and log|det du / dchunk| (...)."""
        if self.bounds == "raw":
            return chunk, chunk.new_zeros(chunk.shape[:-1])
        x = self.shrink * chunk
        inner = x.clamp(-JOIN, JOIN)
        u = inner.atanh() + (x - inner) / JOIN_SLOPE
        return u, (math.log(self.shrink) - torch.log1p(-inner.square())).sum(-1)

    def _bound(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Invert `_unbound`: u (..., d) -> chunk (..., d) and log|det dchunk / du| (...)."""
        if self.bounds == "raw":
            return u, u.new_zeros(u.shape[:-1])
        inner = u.clamp(-math.atanh(JOIN), math.atanh(JOIN))
        x = inner.tanh() + (u - inner) * JOIN_SLOPE
        return x / self.shrink, (log_tanh_slope(inner) - math.log(self.shrink)).sum(-1)
