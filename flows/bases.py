"""Base densities over the latent of a flow.

A base is called on a context (B, C) and returns its parameters, computed once for all samples of a row;
`log_prob` and `sample` then take these. Latents are flat: (B, N, D).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from flows.mlp import hidden_layers

LOG_2PI = math.log(2 * math.pi)
NEGLIGIBLE = 50.0  # nats: e^-50 of a sum is far below float64's precision


def bounded(x: Tensor, bound: float) -> Tensor:
    """Squash into (-bound, bound), the identity near zero: x / (1 + |x| / bound), several times faster than tanh."""
    return x / torch.rsub(x.abs(), 1, alpha=-1 / bound)


class LatentBase(nn.Module, ABC):
    """Density over flat latents, perhaps conditional on the context."""

    @abstractmethod
    def forward(self, context: Tensor) -> Any:
        """Parameters of the density for each row of a context (B, C)."""

    @abstractmethod
    def log_prob(self, latent: Tensor, params: Any, temperature: float = 1.0) -> Tensor:
        """Log-density in nats of what `sample` draws at a temperature above 0: (B, N, D) -> (B, N)."""

    @abstractmethod
    def sample(self, params: Any, n: int, temperature: float = 1.0) -> Tensor:
        """Draw `n` latents a row, differentiable in the parameters: (B, n, D)."""

    @abstractmethod
    def mode(self, params: Any) -> Tensor:
        """The likeliest latent of each row, (B, D); of a mixture, the mean of its likeliest component."""


class GaussianBase(LatentBase):
    """The standard normal N(0, I), whatever the context."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, context: Tensor) -> Tensor:
        """No parameters: an empty (B, 0), which carries the batch size, dtype and device."""
        return context[:, :0]

    def log_prob(self, latent: Tensor, params: Tensor, temperature: float = 1.0) -> Tensor:
        log_variance = 2 * math.log(temperature)
        return -0.5 * (latent.square().sum(-1) / temperature**2 + self.dim * (LOG_2PI + log_variance))

    def sample(self, params: Tensor, n: int, temperature: float = 1.0) -> Tensor:
        return temperature * params.new_empty(len(params), n, self.dim).normal_()

    def mode(self, params: Tensor) -> Tensor:
        return params.new_zeros(params.shape[0], self.dim)


class MixtureParams(NamedTuple):
    """Parameters of K diagonal Gaussians for each row."""

    log_weight: Tensor  # (B, K), normalised
    mean: Tensor  # (B, K, D)
    log_scale: Tensor  # (B, K, D)


class MixtureBase(LatentBase):
    """Conditional mixture of K diagonal Gaussians:

        p(z | c) = sum_k w_k(c) N(z; m_k + d_k(c), diag(s_k(c))^2)

    A single Gaussian has to be stretched over several routes and leaves samples between them; a component for each
    needs no stretching. The likelihood stays exact.

    `sample` draws the component, then the latent pathwise. Temperature scales the spread within a component and
    leaves the choice among them; at 0 each sample is the mean of its component.

    The draw of a component carries no gradient. Gradients through samples are unbiased for means and scales and leave
    the weights out: these get theirs from `log_prob` alone. Over the flow's own samples that is zero on average (the
    score of a density), so the weights learn from the likelihood of data, not from a critic's value or an entropy.

    Args:
        dim: dimensions of the latent, D.
        context_dim: dimensions of the context, C.
        components: K.
        width: of the two hidden layers.
        dropout: probability in the hidden layers.
        log_scale_bound: log-scales stay within +- this.
    """

    def __init__(
        self,
        dim: int,
        context_dim: int,
        components: int = 4,
        width: int = 128,
        dropout: float = 0.0,
        log_scale_bound: float = 3.0,
    ) -> None:
        super().__init__()
        self.dim = dim
        self.components = components
        self.log_scale_bound = log_scale_bound
        self.hidden = hidden_layers(context_dim, [width, width], dropout)
        # A head each instead of one wide layer to split: the split's backward pass would copy every gradient.
        self.logit = nn.Linear(width, components)
        self.mean = nn.Linear(width, components * dim)
        self.log_scale = nn.Linear(width, components * dim)
        # Components start apart (m_k is the bias), and the context moves each its own way: alike, or moved alike, they
        # often never part, and one of them is stretched over everything.
        nn.init.normal_(self.mean.bias, std=0.5)
        nn.init.normal_(self.mean.weight, std=0.1)
        nn.init.zeros_(self.log_scale.bias)
        nn.init.zeros_(self.logit.bias)

    def forward(self, context: Tensor) -> MixtureParams:
        hidden = self.hidden(context)
        each = (self.components, self.dim)
        return MixtureParams(
            log_weight=self.logit(hidden).log_softmax(-1),
            mean=self.mean(hidden).unflatten(-1, each),
            log_scale=bounded(self.log_scale(hidden), self.log_scale_bound).unflatten(-1, each),
        )

    def log_prob(self, latent: Tensor, params: MixtureParams, temperature: float = 1.0) -> Tensor:
        log_weight, mean, log_scale = params
        log_scale = log_scale + math.log(temperature)
        error = (latent.unsqueeze(2) - mean.unsqueeze(1)) * (-log_scale).exp().unsqueeze(1)  # (B, N, K, D)
        log_peak = log_weight - log_scale.sum(-1) - 0.5 * self.dim * LOG_2PI
        each = log_peak.unsqueeze(1) - 0.5 * torch.linalg.vecdot(error, error)
        # What is too small for float64 to count gets no gradient either: as subnormal numbers, the gradients of far
        # components would take up to half of an update's time.
        return torch.logsumexp(each.masked_fill(each < each.amax(-1, keepdim=True) - NEGLIGIBLE, -math.inf), -1)

    def sample(self, params: MixtureParams, n: int, temperature: float = 1.0) -> Tensor:
        log_weight, mean, log_scale = params
        # Gumbel-max: the arg max of log-weights plus Gumbel noise is a draw from them, for any batch size.
        gumbel = -log_weight.new_empty(len(log_weight), n, self.components).exponential_().log()
        component = (log_weight.unsqueeze(1) + gumbel).argmax(-1)
        index = component.unsqueeze(-1).expand(-1, -1, self.dim)
        mean, scale = mean.gather(1, index), log_scale.gather(1, index).exp()
        return mean + temperature * scale * torch.randn_like(mean)

    def mode(self, params: MixtureParams) -> Tensor:
        likeliest = params.log_weight.argmax(-1)[:, None, None].expand(-1, 1, self.dim)
        return params.mean.gather(1, likeliest)[:, 0]


def make_base(name: str, dim: int, context_dim: int, components: int, dropout: float = 0.0) -> LatentBase:
    """The base that a flow's option `base` names: "gaussian" or "mixture", of which `components` and `dropout` are."""
    if name == "mixture":
        return MixtureBase(dim, context_dim, components, dropout=dropout)
    if name == "gaussian":
        return GaussianBase(dim)
    raise ValueError(f"base: expected 'mixture' or 'gaussian', got {name!r}")
