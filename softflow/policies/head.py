"""The head of a steered policy, and its output."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from flows.mlp import hidden_layers

WIDTHS = (256, 128, 64)
"""Widths of the hidden layers, as in RFS (arXiv 2602.01789)."""


def zero_mlp(inputs: int, outputs: int) -> nn.Sequential:
    """Make an MLP with hidden layers of `WIDTHS`, ReLU, and a last layer that is initialised to zero."""
    hidden = hidden_layers(inputs, WIDTHS, dropout=None, activation=nn.ReLU)
    last = nn.Linear(WIDTHS[-1], outputs)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return hidden.append(last)


class HeadOutput(NamedTuple):
    """Output of the head, expanded over the steps of the chunk if they share it."""

    mean: Tensor
    """Shift of the latent, (B, *Z), where Z is the `latent_shape` of the base."""
    log_std: Tensor
    """Logarithm of the factor on the base noise, (B, *Z)."""
    residual: Tensor
    """Residual that is added to the decoded chunk, in multiples of the base's `action_scale`, (B, H, A)."""

    @property
    def squared_residual(self) -> Tensor:
        """Squared norm of the residual over the whole chunk, (B,)."""
        return self.residual.square().sum((-2, -1))

    def latent_of(self, noise: Tensor) -> Tensor:
        """Return noise * exp(log_std) + mean, the latents that the base decodes: (B, *n, *Z) -> (B, *n, *Z)."""
        axes = noise.ndim - self.mean.ndim
        return noise * with_axes(self.log_std, axes).exp() + with_axes(self.mean, axes)

    def noise_of(self, latent: Tensor) -> Tensor:
        """Return the inverse of `latent_of`: (B, *n, *Z) -> (B, *n, *Z)."""
        axes = latent.ndim - self.mean.ndim
        return (latent - with_axes(self.mean, axes)) * (-with_axes(self.log_std, axes)).exp()


def with_axes(part: Tensor, axes: int) -> Tensor:
    """Insert `axes` axes of length 1 after the first: (B, *shape) -> (B, 1, ..., 1, *shape)."""
    for _ in range(axes):  # `reshape` would keep an exported file from taking other batch sizes
        part = part.unsqueeze(1)
    return part
