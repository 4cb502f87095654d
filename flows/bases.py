"""Base densities over the latent of a flow.

Calling a base on a context (B, C) returns the parameters of the density, which `log_prob`, `sample` and `mode` take.
They are computed once for all samples of a row. Latents are flat: (B, N, D).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from flows.mlp import hidden_layers

LOG_2PI = math.log(2 * math.pi)
NEGLIGIBLE = 50.0  # nats: e^-50 of a sum is far below the precision of float64


def bounded(x: Tensor, bound: float) -> Tensor:
    """Squash x into (-bound, bound) by x / (1 + |x| / bound): the identity near zero, and much faster than tanh."""
    return x / torch.rsub(x.abs(), 1, alpha=-1 / bound)


class LatentBase(nn.Module, ABC):
    """Density over flat latents. It may depend on the context."""

    @abstractmethod
    def forward(self, context: Tensor) -> Any:
        """Return the parameters of the density for each row of a context (B, C)."""

    @abstractmethod
    def log_prob(self, latent: Tensor, params: Any, temperature: float = 1.0) -> Tensor:
        """Return the log-density of `sample` at a temperature above 0, in nats: (B, N, D) -> (B, N)."""

    @abstractmethod
    def sample(self, params: Any, n: int, temperature: float = 1.0) -> Tensor:
        """Draw `n` latents per row, differentiable in the parameters: (B, n, D)."""

    @abstractmethod
    def mode(self, params: Any) -> Tensor:
        """Return the likeliest latent of each row, (B, D); for a mixture, the mean of the likeliest component."""


class GaussianBase(LatentBase):
    """The standard normal N(0, I), independent of the context."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, context: Tensor) -> Tensor:
        """Return an empty tensor (B, 0), which carries the batch size, dtype and device."""
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

    A flow must stretch a single Gaussian over several modes, which leaves samples between them. A mixture can give each
    mode its own component. The likelihood stays exact.

    `sample` draws a component, then the latent by reparameterisation. The temperature scales the spread within a
    component but not the probability of choosing it; at 0 each sample is the mean of its component.

    Drawing a component has no gradient. Gradients through samples are unbiased for the means and scales, but do not
    reach the weights, which learn through `log_prob` alone. On the flow's own samples that gradient is zero on average,
    like any score. The weights thus learn from the likelihood of data, and neither from a critic nor from an entropy.

    Args:
        dim: Dimension of the latent, D.
        context_dim: Dimension of the context, C.
        components: Number of components, K.
        width: Width of the two hidden layers.
        dropout: Dropout probability in the hidden layers.
        log_scale_bound: Log-scales stay within +- this.
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
        # Three heads instead of one wide layer, because splitting its output would copy every gradient.
        self.logit = nn.Linear(width, components)
        self.mean = nn.Linear(width, components * dim)
        self.log_scale = nn.Linear(width, components * dim)
        # Components start at different means (m_k is the bias), and the context moves each differently. Otherwise they
        # often stay together, and one component is stretched over all modes.
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
        # Components that are negligible even in float64 are masked, because their gradients would be subnormal numbers,
        # which take up to half of the time of an update.
        return torch.logsumexp(each.masked_fill(each < each.amax(-1, keepdim=True) - NEGLIGIBLE, -math.inf), -1)

    def sample(self, params: MixtureParams, n: int, temperature: float = 1.0) -> Tensor:
        log_weight, mean, log_scale = params
        # Gumbel-max: the argmax of the log-weights plus Gumbel noise is a categorical draw, for any batch size.
        gumbel = -log_weight.new_empty(len(log_weight), n, self.components).exponential_().log()
        component = (log_weight.unsqueeze(1) + gumbel).argmax(-1)
        index = component.unsqueeze(-1).expand(-1, -1, self.dim)
        mean, scale = mean.gather(1, index), log_scale.gather(1, index).exp()
        return mean + temperature * scale * torch.randn_like(mean)

    def mode(self, params: MixtureParams) -> Tensor:
        likeliest = params.log_weight.argmax(-1)[:, None, None].expand(-1, 1, self.dim)
        return params.mean.gather(1, likeliest)[:, 0]


def make_base(name: str, dim: int, context_dim: int, components: int, dropout: float = 0.0) -> LatentBase:
    """Make the base that a flow's option `base` names. Only "mixture" uses `components` and `dropout`."""
    if name == "mixture":
        return MixtureBase(dim, context_dim, components, dropout=dropout)
    if name == "gaussian":
        return GaussianBase(dim)
    raise ValueError(f"base: expected 'mixture' or 'gaussian', got {name!r}")
