"""Affine coupling flow over the halves of a chunk."""

from __future__ import annotations

import warnings

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flows.base import ChunkFlow, require_positive
from flows.bases import GaussianBase, LatentBase, MixtureBase, bounded
from flows.registry import register_flow


class Conditioner(nn.Module):
    """Residual network from the half that stays to the log-scale and shift of the half that moves."""

    def __init__(self, fixed: int, moved: int, width: int, dropout: float) -> None:
        super().__init__()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Initializing zero-element tensors")  # a chunk of one number: empty half
            self.input = nn.Linear(fixed, width, bias=False)  # the projected context brings the bias
            self.output = nn.Linear(width, 2 * moved)
        self.hidden = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)
        # A flow that starts at the identity starts at the base density.
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(self, half: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        h = self.dropout(F.silu(self.input(half) + context))
        h = h + self.dropout(F.silu(self.hidden(h)))
        log_scale, shift = self.output(h).chunk(2, -1)
        return log_scale, shift


@register_flow("coupling")
class CouplingFlow(ChunkFlow):
    """RealNVP over time-halves: each layer moves one half of the chunk by an affine map that the other half and the
    context decide,

        moved <- moved * exp(s(fixed, context)) + t(fixed, context),

    the halves taking turns. The halves are the first H // 2 steps and the rest; at H = 1, of the action's dimensions.
    One pass in either direction; the log-determinant is the sum of the log-scales.

    Dinh et al., Density estimation using Real NVP, ICLR 2017, arXiv 1605.08803 (eq. 7 and 8).

    Args:
        horizon, action_dim, context_dim: see `ChunkFlow`.
        layers: coupling layers.
        width: of the conditioners.
        base: density of the latent, "mixture" (`MixtureBase`) or "gaussian" (`GaussianBase`).
        components: of the mixture base.
        dropout: probability in the hidden layers of conditioners and mixture base.
        log_scale_bound: a layer's log-scales stay within +- this; unbounded ones make training erratic.
    """

    def __init__(
        self,
        *,
        horizon: int,
        action_dim: int,
        context_dim: int,
        layers: int = 8,
        width: int = 192,
        base: str = "mixture",
        components: int = 8,
        dropout: float = 0.0,
        log_scale_bound: float = 2.0,
    ) -> None:
        super().__init__(horizon=horizon, action_dim=action_dim, context_dim=context_dim)
        require_positive(layers=layers, width=width, components=components)
        if not log_scale_bound > 0:
            raise ValueError(f"log_scale_bound: expected a number > 0, got {log_scale_bound!r}")
        dim = horizon * action_dim
        first = horizon // 2 * action_dim if horizon > 1 else action_dim // 2
        self.sizes = (first, dim - first)
        self.layers = layers
        self.log_scale_bound = log_scale_bound
        self.context = nn.Linear(context_dim, layers * width)  # one matrix product for all layers
        self.conditioners = nn.ModuleList(
            Conditioner(self.sizes[i % 2], self.sizes[1 - i % 2], width, dropout) for i in range(layers)
        )
        self.base = _make_base(base, dim, context_dim, components, dropout)

    def embed(self, context: Tensor) -> tuple[Tensor, ...]:
        """For each layer, what the context adds to its first hidden layer: (B, 1, width)."""
        return self.context(context).unflatten(-1, (self.layers, 1, -1)).unbind(1)

    def encode(self, chunk: Tensor, embedding: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        halves = list(chunk.split(self.sizes, -1))
        log_abs_det = chunk.new_zeros(())
        for i in range(self.layers):
            fixed, moved = i % 2, 1 - i % 2
            log_scale, shift = self._affine(i, halves[fixed], embedding[i])
            halves[moved] = torch.addcmul(shift, halves[moved], log_scale.exp())
            log_abs_det = log_abs_det + log_scale.sum(-1)
        return torch.cat(halves, -1), log_abs_det

    def decode(self, latent: Tensor, embedding: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        halves = list(latent.split(self.sizes, -1))
        log_abs_det = latent.new_zeros(())
        for i in reversed(range(self.layers)):
            fixed, moved = i % 2, 1 - i % 2
            log_scale, shift = self._affine(i, halves[fixed], embedding[i])
            halves[moved] = (halves[moved] - shift) * (-log_scale).exp()
            log_abs_det = log_abs_det - log_scale.sum(-1)
        return torch.cat(halves, -1), log_abs_det

    def _affine(self, layer: int, fixed: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        log_scale, shift = self.conditioners[layer](fixed, context)
        return bounded(log_scale, self.log_scale_bound), shift


def _make_base(name: str, dim: int, context_dim: int, components: int, dropout: float) -> LatentBase:
    if name == "mixture":
        return MixtureBase(dim, context_dim, components, dropout=dropout)
    if name == "gaussian":
        return GaussianBase(dim)
    raise ValueError(f"base: expected 'mixture' or 'gaussian', got {name!r}")
