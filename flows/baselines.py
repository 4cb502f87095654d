"""Baseline densities other than the diagonal Gaussian: full covariance, tanh-Gaussian and Gaussian mixture."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from flows.base import ChunkFlow, require_positive
from flows.bases import GaussianBase, MixtureBase, bounded
from flows.bounds import log_tanh_slope
from flows.gaussian import GaussianFlow
from flows.mlp import hidden_layers
from flows.registry import register_flow


@register_flow("full_gaussian")
class FullGaussianFlow(ChunkFlow):
    """Gaussian with a full covariance, p(chunk | context) = N(mean, L L^T), where L = diag(std) (I + lower).

    The mean, std and `lower`, which is strictly lower triangular, depend on the context. Written as a flow, this is

        latent = (I + lower)^-1 ((chunk - mean) / std),  latent ~ N(0, I).

    The network grows with (H * A)^2, so the flow is meant for chunks of up to a few hundred numbers.

    Args:
        horizon, action_dim, context_dim: See `ChunkFlow`.
        width: Width of the hidden layers.
        depth: Number of hidden layers.
        dropout: Dropout probability in the hidden layers.
        log_std_bound: The log standard deviations, log diag(L), stay within +- this. Higher values allow narrower and
            wider densities.
    """

    def __init__(
        self,
        *,
        horizon: int,
        action_dim: int,
        context_dim: int,
        width: int = 256,
        depth: int = 2,
        dropout: float = 0.0,
        log_std_bound: float = 5.0,
    ) -> None:
        super().__init__(horizon=horizon, action_dim=action_dim, context_dim=context_dim)
        require_positive(width=width, depth=depth)
        if not log_std_bound > 0:
            raise ValueError(f"log_std_bound: expected a number > 0, got {log_std_bound!r}")
        dim = horizon * action_dim
        self.log_std_bound = log_std_bound
        self.hidden = hidden_layers(context_dim, [width] * depth, dropout)
        self.mean = nn.Linear(width, dim)
        self.log_std = nn.Linear(width, dim)
        self.lower = nn.Linear(width, dim * dim)  # the entries on and above the diagonal are not used
        nn.init.zeros_(self.lower.weight)  # the covariance starts diagonal
        nn.init.zeros_(self.lower.bias)
        self.base = GaussianBase(dim)

    def embed(self, context: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the mean and log diag(L) of each row, (B, 1, D) each, and `lower`, (B, D, D)."""
        hidden = self.hidden(context)
        log_std = bounded(self.log_std(hidden), self.log_std_bound)
        mean = self.mean(hidden)
        lower = self.lower(hidden).unflatten(-1, (mean.shape[-1], -1)).tril(-1)
        return mean.unsqueeze(1), log_std.unsqueeze(1), lower

    def encode(self, chunk: Tensor, embedding: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        mean, log_std, lower = embedding
        standard = (chunk - mean) * (-log_std).exp()
        latent = torch.linalg.solve_triangular(lower, standard.mT, upper=False, unitriangular=True).mT
        return latent, -log_std.sum(-1).expand(chunk.shape[:-1])

    def decode(self, latent: Tensor, embedding: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        mean, log_std, lower = embedding
        chunk = mean + (latent + latent @ lower.mT) * log_std.exp()
        return chunk, log_std.sum(-1).expand(latent.shape[:-1])


@register_flow("tanh_gaussian")
class TanhGaussianFlow(GaussianFlow):
    """Tanh-Gaussian policy of soft actor-critic: chunk = tanh(u), u ~ N(mean(context), diag(std(context))^2).

    The support is the open box (-1, 1). A chunk at or beyond a bound has no density, so `log_prob`, `to_latent` and
    `loss` raise an error. Other implementations usually clip such a chunk and return the log-density of a different
    one. For data with actions at the bounds, use `make_flow("gaussian", bounds="atanh")`.

    From |u| = 9, float32 would round a sample to the bound. The sample is then the nearest number inside, so every
    sample has a density; the log-density returned along with it is exact. Near the bounds, inverting a tanh is inexact
    in float32: rounding a chunk of 0.999 moves u by 3e-5, one of 0.99999 by 3e-3.

    Haarnoja et al., Soft Actor-Critic, ICML 2018, arXiv 1801.01290 (appendix C).

    The arguments are those of `GaussianFlow`; `log_std_bound` limits the standard deviation of u.

    Raises:
        ValueError: A chunk does not lie strictly within (-1, 1).
    """

    open_box = True

    def encode(self, chunk: Tensor, embedding: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        if not (chunk.abs() < 1).all():
            raise ValueError(
                "chunk: expected values strictly within (-1, 1), where a tanh-Gaussian has its density, got "
                f"{chunk.min():g} to {chunk.max():g}; flow 'gaussian' with the option bounds='atanh' takes any value"
            )
        u = chunk.atanh()
        latent, log_abs_det = super().encode(u, embedding)
        return latent, log_abs_det - log_tanh_slope(u).sum(-1)

    def decode(self, latent: Tensor, embedding: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        u, log_abs_det = super().decode(latent, embedding)
        below_one = 1 - torch.finfo(u.dtype).eps / 2
        return u.tanh().clamp(-below_one, below_one), log_abs_det + log_tanh_slope(u).sum(-1)


@register_flow("gaussian_mixture")
class GaussianMixtureFlow(ChunkFlow):
    """Mixture density network, p(chunk | context) = sum_k w_k N(chunk; mean_k, diag(std_k)^2).

    All parameters depend on the context. The map is the identity on a `MixtureBase`; see there for the temperature, the
    mode and the gradients.

    Args:
        horizon, action_dim, context_dim: See `ChunkFlow`.
        components: Number of mixture components, K. More components can represent more modes.
        width: Width of the two hidden layers.
        dropout: Dropout probability in the hidden layers.
        log_std_bound: Log standard deviations stay within +- this. Higher values allow narrower and wider components.
    """

    def __init__(
        self,
        *,
        horizon: int,
        action_dim: int,
        context_dim: int,
        components: int = 5,
        width: int = 256,
        dropout: float = 0.0,
        log_std_bound: float = 5.0,
    ) -> None:
        super().__init__(horizon=horizon, action_dim=action_dim, context_dim=context_dim)
        require_positive(components=components, width=width)
        if not log_std_bound > 0:
            raise ValueError(f"log_std_bound: expected a number > 0, got {log_std_bound!r}")
        self.base = MixtureBase(horizon * action_dim, context_dim, components, width, dropout, log_std_bound)

    def embed(self, context: Tensor) -> None:
        """Return None: only the base uses the context."""

    def encode(self, chunk: Tensor, embedding: None) -> tuple[Tensor, Tensor]:
        return chunk, chunk.new_zeros(chunk.shape[:-1])

    def decode(self, latent: Tensor, embedding: None) -> tuple[Tensor, Tensor]:
        return latent, latent.new_zeros(latent.shape[:-1])
