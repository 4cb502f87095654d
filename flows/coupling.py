"""Coupling flows over the two parts of a chunk, with affine or spline maps."""

from __future__ import annotations

import math
import warnings
from abc import abstractmethod
from itertools import zip_longest

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flows.base import ChunkFlow, require_positive
from flows.bases import bounded, make_base
from flows.mixing import MIXINGS
from flows.registry import register_flow
from flows.spline import MAX_BINS, spline, spline_knots


class Conditioner(nn.Module):
    """Residual network from the fixed part of a chunk to the parameters of the map that transforms the other part."""

    def __init__(self, fixed: int, outputs: int, width: int, dropout: float) -> None:
        super().__init__()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Initializing zero-element tensors")  # a single number: empty part
            self.input = nn.Linear(fixed, width, bias=False)  # the projected context contains the bias
            self.output = nn.Linear(width, outputs)
        self.hidden = nn.Linear(width, width)
        self.dropout = dropout
        # The map starts as the identity, so the flow starts as the base density.
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(self, fixed: Tensor, context: Tensor) -> Tensor:
        """Fixed parts (B, [N,] fixed), projected contexts (B, width) -> parameters (B, [N,] outputs)."""
        spent = not torch.is_grad_enabled()  # without a backward pass, SiLU may overwrite its input
        if fixed.ndim == 2:
            h = torch.addmm(context, fixed, self.input.weight.T)
        else:
            h = self.input(fixed).add_(context.unsqueeze(1))
        h = self._drop(F.silu(h, inplace=spent))
        h = self._drop(F.silu(_linear(self.hidden, h), inplace=spent)).add_(h)
        return _linear(self.output, h)

    def _drop(self, h: Tensor) -> Tensor:
        return F.dropout(h, self.dropout, self.training) if self.dropout else h


def _linear(layer: nn.Linear, x: Tensor) -> Tensor:
    """Return `layer(x)`. Calling the modules would take a tenth of the time of a single chunk."""
    return F.linear(x, layer.weight, layer.bias)


class Coupling(ChunkFlow):
    """Base class of coupling flows.

    Each layer transforms one part of the chunk, number by number, with an invertible map. The parameters of the map are
    a function of the other part and the context, and the parts take turns. Either direction takes one pass.

    A subclass implements `move` and passes the number of parameters of its map. The map should be the identity where
    all parameters are zero, because a new flow starts there.

    Args:
        horizon, action_dim, context_dim: See `ChunkFlow`.
        parameters: Number of parameters of the map of one number.
        layers: Number of coupling layers.
        width: Hidden width of each layer's conditioner, the network that computes the parameters.
        base: Density of the latent: "mixture" (`MixtureBase`) or "gaussian" (`GaussianBase`).
        components: Number of components of the mixture base. More components can represent more modes.
        dropout: Dropout probability in the hidden layers of the conditioners and of the mixture base.
        split: How a chunk is split into two parts. "time": the first H // 2 steps and the rest. "channel": the first
            A // 2 action dimensions of every step and the rest. "time" at H = 1 means "channel", and "channel" at
            A = 1 means "time".
        mixing: Linear map over the whole chunk between two layers: "none", "rotation" (`RotationMixing`) or "lu"
            (`LUMixing`). Mixing accumulates rounding errors: in float32, inverting a latent six standard deviations out
            is about ten times less exact than with "none".
    """

    def __init__(
        self,
        *,
        horizon: int,
        action_dim: int,
        context_dim: int,
        parameters: int,
        layers: int,
        width: int,
        base: str,
        components: int,
        dropout: float,
        split: str,
        mixing: str,
    ) -> None:
        super().__init__(horizon=horizon, action_dim=action_dim, context_dim=context_dim)
        require_positive(layers=layers, width=width, components=components)
        if split not in ("time", "channel"):
            raise ValueError(f"split: expected 'time' or 'channel', got {split!r}")
        if mixing not in ("none", *MIXINGS):
            raise ValueError(f"mixing: expected one of none, {', '.join(MIXINGS)}, got {mixing!r}")
        by_channel = action_dim > 1 if split == "channel" else horizon == 1
        dim = horizon * action_dim
        first = horizon * (action_dim // 2) if by_channel else horizon // 2 * action_dim
        self.sizes = (first, dim - first)
        self.interleaved = by_channel and horizon > 1  # otherwise, the first part is contiguous
        self.layers, self.width = layers, width
        self.context = nn.Linear(context_dim, layers * width)  # one matrix product for all layers
        self.conditioners = nn.ModuleList(
            Conditioner(self.sizes[i % 2], parameters * self.sizes[1 - i % 2], width, dropout) for i in range(layers)
        )
        self.base = make_base(base, dim, context_dim, components, dropout)
        self.mixings = nn.ModuleList(MIXINGS[mixing](dim) for _ in range(layers - 1) if mixing != "none")

    @abstractmethod
    def move(self, part: Tensor, parameters: Tensor, inverse: bool = False) -> tuple[Tensor, Tensor]:
        """Apply the map or its inverse to M numbers: (..., M), (..., P * M) -> (..., M), (..., M).

        The second result is the log-derivative of the map, even with `inverse`. The parameters are ordered as the first
        parameter of every number, then the second of every number, and so on.
        """

    def embed(self, context: Tensor) -> tuple[Tensor, ...]:
        """Return the context's contribution to the first hidden layer of each conditioner, (B, width) each."""
        return self.context(context).view(-1, self.layers, self.width).unbind(1)

    def encode(self, chunk: Tensor, embedding: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        parts, log_derivatives = self._run(chunk, embedding)
        return self._join(parts, chunk), self._log_abs_det(log_derivatives, chunk)

    def decode(self, latent: Tensor, embedding: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        parts, log_derivatives = self._run(latent, embedding, inverse=True)
        return self._join(parts, latent), -self._log_abs_det(log_derivatives, latent)

    def generate(self, latent: Tensor, embedding: tuple[Tensor, ...], length: int | None = None) -> Tensor:
        if length is None or self.interleaved or length * self.action_dim > self.sizes[0]:
            return self._first(self._join(self._run(latent, embedding, inverse=True)[0], latent), length)
        # The layer that is applied last changes only the second part, so it is skipped.
        first = self._run(latent, embedding, inverse=True, spare=True)[0][0]
        return self._first(first.reshape(*latent.shape[:-1], first.shape[-1]), length)

    def _run(
        self, x: Tensor, embedding: tuple[Tensor, ...], inverse: bool = False, spare: bool = False
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Apply the map or its inverse; return the two parts and the log-derivatives of every layer.

        The parts have shape (B, N, size), or (B, size) if N is 1. The log-derivatives are those of the map, even with
        `inverse`. With `spare`, layer 0 is skipped, which leaves the second part unfinished.
        """
        one = x.shape[1] == 1  # a sample axis of length 1 is dropped, because it costs much of the time of one chunk
        parts = self._split(x.squeeze(1) if one else x)
        log_derivatives = []
        layers = list(enumerate(zip_longest(self.conditioners, self.mixings)))
        for i, (conditioner, mixing) in reversed(layers) if inverse else layers:
            if inverse and mixing is not None:
                parts = self._mix(mixing, parts, inverse)
            if spare and i == 0:
                continue
            fixed, moved = i % 2, 1 - i % 2
            parameters = conditioner(parts[fixed], embedding[i])
            parts[moved], log_derivative = self.move(parts[moved], parameters, inverse)
            log_derivatives.append(log_derivative)
            if mixing is not None and not inverse:
                parts = self._mix(mixing, parts, inverse)
        return parts, log_derivatives

    def _mix(self, mixing: nn.Module, parts: list[Tensor], inverse: bool) -> list[Tensor]:
        return list(mixing(torch.cat(parts, -1), inverse).split(self.sizes, -1))

    def _log_abs_det(self, log_derivatives: list[Tensor], x: Tensor) -> Tensor:
        """Return log|det| of the map, (B, N), for an input x (B, N, D) of the map or of its inverse."""
        total = torch.cat(log_derivatives, -1).sum(-1).reshape(x.shape[:-1])
        for mixing in self.mixings:
            total = total + mixing.log_abs_det()  # type: ignore[operator]  # a ModuleList is not typed
        return total

    def _split(self, flat: Tensor) -> list[Tensor]:
        """Split (B, N, D) into the two parts, (B, N, sizes[0]) and (B, N, sizes[1])."""
        if not self.interleaved:
            return list(flat.split(self.sizes, -1))
        each = [size // self.horizon for size in self.sizes]
        return [part.flatten(-2) for part in flat.unflatten(-1, self.latent_shape).split(each, -1)]

    def _join(self, parts: list[Tensor], like: Tensor) -> Tensor:
        """Invert `_split` for parts with or without a sample axis; the result has the shape of `like`, (B, N, D)."""
        if not self.interleaved:
            return torch.cat(parts, -1).reshape(like.shape)
        return torch.cat([part.unflatten(-1, (self.horizon, -1)) for part in parts], -1).reshape(like.shape)


@register_flow("coupling")
class CouplingFlow(Coupling):
    """RealNVP: each layer transforms one part of the chunk with an affine map,

        moved <- moved * exp(s(fixed, context)) + t(fixed, context).

    The log-determinant is the sum of the log-scales s.

    Dinh et al., Density estimation using Real NVP, ICLR 2017, arXiv 1605.08803 (eq. 7 and 8).

    Args:
        log_scale_bound: The log-scales of each layer stay within +- this. Higher values allow stronger scaling; without
            a bound, training is erratic.

    The other arguments are those of `Coupling`.
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
        components: int = 4,
        dropout: float = 0.0,
        log_scale_bound: float = 2.0,
        split: str = "time",
        mixing: str = "none",
    ) -> None:
        if not log_scale_bound > 0:
            raise ValueError(f"log_scale_bound: expected a number > 0, got {log_scale_bound!r}")
        super().__init__(
            horizon=horizon,
            action_dim=action_dim,
            context_dim=context_dim,
            parameters=2,
            layers=layers,
            width=width,
            base=base,
            components=components,
            dropout=dropout,
            split=split,
            mixing=mixing,
        )
        self.log_scale_bound = log_scale_bound

    def move(self, part: Tensor, parameters: Tensor, inverse: bool = False) -> tuple[Tensor, Tensor]:
        log_scale, shift = parameters.chunk(2, -1)
        log_scale = bounded(log_scale, self.log_scale_bound)
        scale = log_scale.exp()
        return (part - shift) / scale if inverse else torch.addcmul(shift, part, scale), log_scale


@register_flow("spline_coupling")
class SplineCouplingFlow(Coupling):
    """Neural spline flow: `CouplingFlow` with monotone rational-quadratic splines instead of affine maps.

    A spline changes the numbers in [-bound, bound] and is the identity outside. The chunks and most of the latent's
    density should thus lie within the bounds; a standard normal does at the default.

    In float32, a trained flow's log-determinant of some 200 nats has an error of about 2e-4 (80 numbers, latents out to
    6). That of an affine flow is 5e-5.

    Durkan et al., Neural Spline Flows, NeurIPS 2019, arXiv 1906.04032.

    Args:
        bins: Number of bins of each spline, 2 to 16. More bins are more flexible and slower.
        bound: The splines act on [-bound, bound] and are the identity outside.
        parameter_bound: The outputs of the conditioners stay within +- this. Higher values allow stronger bends;
            without a bound, a spline can become too flat to invert in float32.

    The other arguments are those of `Coupling`.
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
        components: int = 4,
        dropout: float = 0.0,
        bins: int = 8,
        bound: float = 5.0,
        parameter_bound: float = 1.5,
        split: str = "time",
        mixing: str = "none",
    ) -> None:
        require_positive(bins=bins)
        if not 2 <= bins <= MAX_BINS:
            raise ValueError(f"bins: expected 2 to {MAX_BINS}, got {bins!r}")
        if not 0 < bound < math.inf:
            raise ValueError(f"bound: expected a finite number > 0, got {bound!r}")
        if not parameter_bound > 0:
            raise ValueError(f"parameter_bound: expected a number > 0, got {parameter_bound!r}")
        super().__init__(
            horizon=horizon,
            action_dim=action_dim,
            context_dim=context_dim,
            parameters=3 * bins - 1,
            layers=layers,
            width=width,
            base=base,
            components=components,
            dropout=dropout,
            split=split,
            mixing=mixing,
        )
        self.bins = bins
        self.bound = bound
        self.parameter_bound = parameter_bound

    def move(self, part: Tensor, parameters: Tensor, inverse: bool = False) -> tuple[Tensor, Tensor]:
        raw = self.parameter_bound * torch.tanh(parameters / self.parameter_bound)
        raw = raw.unflatten(-1, (3 * self.bins - 1, part.shape[-1]))
        moved, log_derivative = spline(part, spline_knots(raw, self.bound), inverse)
        return moved, -log_derivative if inverse else log_derivative
