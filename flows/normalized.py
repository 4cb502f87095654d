"""Normalised actions: a flow over standardised actions, with statistics that are saved with the flow.

`make_flow(name, normalize=True, ...)` wraps any flow.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from flows.base import ChunkFlow
from flows.bounds import BoundedFlow


class NormalizedFlow(BoundedFlow):
    """A flow whose wrapped flow is a density over normalised actions, with one centre and scale per dimension:

        x = (u - center) / scale,  u = chunk ("raw") or atanh(shrink * chunk) ("atanh", see `BoundedFlow`).

    With "atanh", the statistics are those of u, so the samples respect the bounds as without normalisation. Chunks that
    are given and returned are in units of the action, and so are all log-densities, which stay exact:

        log p(chunk) = log p(x) + log|det du / dchunk| - H * sum_d log scale_d.

    Only `loss` is in normalised units, in which actions are multiples of `action_scale`. It is thus independent of the
    units of the action and compares between tasks; `in_normalized_units` converts log-densities.

    In training mode, `loss` adds noise to u, of one size per dimension. No noise is added in `eval()` mode or by any
    other method.

    The statistics are buffers, (A,) each. Using the flow before they are fitted or loaded raises an error.

    Args:
        flow: The flow to wrap.
        bounds, shrink: See `BoundedFlow`.
        noise: Noise in training, as a fraction of the scale of each dimension. None uses the noise that is passed to
            `fit`. Higher values smooth the density; 0 adds none.
        noise_law: "gaussian", where the noise is the standard deviation, or "uniform", where it is the half-width.

    Attributes:
        center: Centre of each dimension of u.
        scale: Scale of each dimension of u.
        noise: Size of the noise on each dimension of u.
    """

    center: Tensor
    scale: Tensor
    noise: Tensor

    def __init__(
        self,
        flow: ChunkFlow,
        *,
        bounds: str = "raw",
        shrink: float = 0.9,
        noise: float | None = None,
        noise_law: str = "gaussian",
    ) -> None:
        super().__init__(flow, bounds=bounds, shrink=shrink, noise=noise or 0.0, noise_law=noise_law)
        self.noise_fraction = noise
        for name in ("center", "scale", "noise"):
            self.register_buffer(name, torch.full((flow.action_dim,), torch.nan))
        self._ready = False
        self.register_load_state_dict_post_hook(_check_anew)

    def fit(self, center: Tensor, scale: Tensor, noise: Tensor) -> None:
        """Set the statistics of u, (A,) each. A `noise` given to the constructor replaces the one given here.

        Raises:
            ValueError: A shape is wrong, a number is not finite, a scale is not positive, or a noise is negative.
        """
        given = {"center": center, "scale": scale, "noise": noise}
        for name, value in given.items():
            if value.shape != self.center.shape or not value.isfinite().all():
                raise ValueError(f"{name}: expected {tuple(self.center.shape)} finite numbers, got {value}")
        if not (scale > 0).all():
            raise ValueError("scale: expected positive numbers")
        if not (noise >= 0).all():
            raise ValueError("noise: expected numbers >= 0")
        if self.noise_fraction is not None:
            given["noise"] = self.noise_fraction * scale
        for name, value in given.items():
            getattr(self, name).copy_(value)
        self._ready = True

    def require_statistics(self) -> None:
        """Raise RuntimeError if the statistics are missing or invalid."""
        if not self._has_statistics():
            raise RuntimeError(
                "the flow has no action statistics: fit them to demonstrations, or load a whole checkpoint"
            )
        self._ready = True

    def unbounded(self, action: Tensor) -> Tensor:
        """Return u, whose statistics `fit` takes: (..., A) -> (..., A)."""
        return super()._unbound(action)[0]

    @property
    def action_center(self) -> Tensor:
        """The centre of each dimension in units of the action, (A,)."""
        self._require_ready()
        return super()._bound(self.center)[0]

    @property
    def action_scale(self) -> Tensor:
        """The scale of each dimension in units of the action, (A,): half of the distance from u = center - scale to
        center + scale. With "raw" bounds it is `scale` itself."""
        self._require_ready()
        if self.bounds == "raw":
            return self.scale
        low, high = (super(NormalizedFlow, self)._bound(self.center + step)[0] for step in (-self.scale, self.scale))
        return (high - low) / 2

    def in_normalized_units(self, log_prob: Tensor) -> Tensor:
        """Convert log-densities of whole chunks, of any shape, to actions that are measured in `action_scale`."""
        return log_prob + self.horizon * self.action_scale.log().sum()

    def generate(self, latent: Tensor, embedding: Any, length: int | None = None) -> Tensor:
        u = self._denormalized(self.flow.generate(latent, embedding, length))
        return u if self.bounds == "raw" else super()._bound(u)[0]

    def row_loss(self, chunk: Tensor, context: Tensor) -> Tensor:
        """Return the loss in normalised units: (B, H, A), (B, C) -> (B,).

        With noise, the determinant of the atanh is still that of the chunk without noise. The difference does not
        depend on the parameters of the flow.
        """
        self._require_ready()
        u, unbounding = super()._unbound(chunk)
        if self.training and self.noise_fraction != 0:
            u = u + self.noise * self._unit_noise(u)
        loss = self.flow.row_loss((u - self.center) / self.scale, context)
        if self.bounds == "raw" or not self.loss_is_nll:
            return loss
        return loss - unbounding.sum(-1) + self.horizon * (self.scale / self.action_scale).log().sum()

    def _unbound(self, chunk: Tensor) -> tuple[Tensor, Tensor]:
        self._require_ready()
        u, unbounding = super()._unbound(chunk)
        x = (self._actions(u) - self.center) / self.scale
        return x.flatten(-2), unbounding - x.shape[-2] * self.scale.log().sum()

    def _bound(self, u: Tensor) -> tuple[Tensor, Tensor]:
        chunk, bounding = super()._bound(self._denormalized(u))
        return chunk, bounding + u.shape[-1] // self.action_dim * self.scale.log().sum()

    def _denormalized(self, x: Tensor) -> Tensor:
        """Return u = center + scale * x of flat x, (..., k * A) -> (..., k * A)."""
        self._require_ready()
        return torch.addcmul(self.center, self._actions(x), self.scale).flatten(-2)

    def _actions(self, flat: Tensor) -> Tensor:
        """Split flat chunks into actions: (..., k * A) -> (..., k, A)."""
        return flat.unflatten(-1, (-1, self.action_dim))

    def _require_ready(self) -> None:
        if not self._ready:
            self.require_statistics()

    def _has_statistics(self) -> bool:
        finite = all(buffer.isfinite().all() for buffer in (self.center, self.scale, self.noise))
        return finite and bool((self.scale > 0).all() and (self.noise >= 0).all())


def _check_anew(flow: NormalizedFlow, _: object) -> None:
    flow._ready = flow._has_statistics()
