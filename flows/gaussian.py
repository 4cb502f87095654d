"""Diagonal Gaussian over chunks, the baseline for the coupling flow."""

from __future__ import annotations

from torch import Tensor, nn

from flows.base import ChunkFlow, require_positive
from flows.bases import GaussianBase, bounded
from flows.mlp import hidden_layers
from flows.registry import register_flow


@register_flow("gaussian")
class GaussianFlow(ChunkFlow):
    """Diagonal Gaussian, p(chunk | context) = N(mean(context), diag(std(context))^2).

    Written as a flow, it standardises the chunk:

        latent = (chunk - mean(context)) / std(context),  latent ~ N(0, I).

    Args:
        horizon, action_dim, context_dim: See `ChunkFlow`.
        width: Width of the hidden layers.
        depth: Number of hidden layers.
        dropout: Dropout probability in the hidden layers.
        log_std_bound: log standard deviations stay within +- this. Higher values allow narrower and wider densities.
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
        self.net = hidden_layers(context_dim, [width] * depth, dropout)
        self.net.append(nn.Linear(width, 2 * dim))
        self.base = GaussianBase(dim)

    def embed(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean and the log standard deviation of each row, (B, 1, D) each."""
        mean, log_std = self.net(context).unsqueeze(1).chunk(2, -1)
        return mean, bounded(log_std, self.log_std_bound)

    def encode(self, chunk: Tensor, embedding: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        mean, log_std = embedding
        return (chunk - mean) * (-log_std).exp(), -log_std.sum(-1).expand(chunk.shape[:-1])

    def decode(self, latent: Tensor, embedding: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        mean, log_std = embedding
        return mean + latent * log_std.exp(), log_std.sum(-1).expand(latent.shape[:-1])
