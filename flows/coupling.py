"""Coupling flows over the two parts of a chunk, by affine maps or by splines."""

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
    """Residual network from the part that stays to the parameters of the map that moves the other."""

    def __init__(self, fixed: int, outputs: int, width: int, dropout: float) -> None:
        super().__init__()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Initializing zero-element tensors")  # a chunk of one number: empty part
            self.input = nn.Linear(fixed, width, bias=False)  # the projected context brings the bias
            self.output = nn.Linear(width, outputs)
        self.hidden = nn.Linear(width, width)
        self.dropout = dropout
        # A flow that starts at the identity starts at the base density.
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(self, fixed: Tensor, context: Tensor) -> Tensor:
        """(B, fixed) or (B, N, fixed), with the projected context (B, width) -> (B, outputs) or (B, N, outputs)."""
        spent = not torch.is_grad_enabled()  # no backward pass needs what goes into the SiLU: its memory is used again
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
    """`layer(x)`; calling the modules would take a tenth of the time of a single chunk."""
    return F.linear(x, layer.weight, layer.bias)


class Coupling(ChunkFlow):
    """What coupling flows share: each layer moves one part of the chunk, number by number, by an invertible map whose
    parameters the other part and the context decide; the parts take turns. One pass in either direction.

    A subclass writes `move` and says how many parameters the map of one number has; all of them zero should be the
    identity, at which a new flow then starts.

    Args:
        parameters: of the map of one number.
        others: see `CouplingFlow`.
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
        self.interleaved = by_channel and horizon > 1  # else the first part is the first numbers
        self.layers, self.width = layers, width
        self.context = nn.Linear(context_dim, layers * width)  # one matrix product for all layers
        self.conditioners = nn.ModuleList(
            Conditioner(self.sizes[i % 2], parameters * self.sizes[1 - i % 2], width, dropout) for i in range(layers)
        )
        self.base = make_base(base, dim, context_dim, components, dropout)
        self.mixings = nn.ModuleList(MIXINGS[mixing](dim) for _ in range(layers - 1) if mixing != "none")

    @abstractmethod
    def move(self, part: Tensor, parameters: Tensor, inverse: bool = False) -> tuple[Tensor, Tensor]:
        """The map, or its inverse, of M numbers, and the map's log-derivative there (of the map, not of its inverse, in
        either case): (..., M), (..., P * M) -> (..., M), (..., M).

        The parameters' axis holds the first one of each number, then the second, and so on.
        """

    def embed(self, context: Tensor) -> tuple[Tensor, ...]:
        """For each layer, what the context adds to its first hidden layer: (B, width)."""
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
        # The layer that acts last moves the second part alone: it is not asked.
        first = self._run(latent, embedding, inverse=True, spare=True)[0][0]
        return self._first(first.reshape(*latent.shape[:-1], first.shape[-1]), length)

    def _run(
        self, x: Tensor, embedding: tuple[Tensor, ...], inverse: bool = False, spare: bool = False
    ) -> tuple[list[Tensor], list[Tensor]]:
        """The parts of the map or its inverse, (B, N, size) or (B, size) if N is 1, and every layer's log-derivatives,
        those of the map in either case. To `spare` the first layer leaves the second part as it was."""
        one = x.shape[1] == 1  # then without the axis of samples, which costs a good part of a chunk's time
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
        """log|det| of the map, (B, N), where it took or gave x (B, N, D)."""
        total = torch.cat(log_derivatives, -1).sum(-1).reshape(x.shape[:-1])
        for mixing in self.mixings:
            total = total + mixing.log_abs_det()  # type: ignore[operator]  # a module list knows no types
        return total

    def _split(self, flat: Tensor) -> list[Tensor]:
        """(B, N, D) -> the two parts (B, N, sizes[0]) and (B, N, sizes[1])."""
        if not self.interleaved:
            return list(flat.split(self.sizes, -1))
        each = [size // self.horizon for size in self.sizes]
        return [part.flatten(-2) for part in flat.unflatten(-1, self.latent_shape).split(each, -1)]

    def _join(self, parts: list[Tensor], like: Tensor) -> Tensor:
        """The inverse of `_split`, of parts with or without the axis of samples, in the shape of `like` (B, N, D)."""
        if not self.interleaved:
            return torch.cat(parts, -1).reshape(like.shape)
        return torch.cat([part.unflatten(-1, (self.horizon, -1)) for part in parts], -1).reshape(like.shape)


@register_flow("coupling")
class CouplingFlow(Coupling):
    """RealNVP: each layer moves one part of the chunk by an affine map that the other part and the context decide,

        moved <- moved * exp(s(fixed, context)) + t(fixed, context),

    the parts taking turns. One pass in either direction; the log-determinant is the sum of the log-scales.

    Dinh et al., Density estimation using Real NVP, ICLR 2017, arXiv 1605.08803 (eq. 7 and 8).

    Args:
        horizon, action_dim, context_dim: see `ChunkFlow`.
        layers: coupling layers.
        width: of the conditioners.
        base: density of the latent, "mixture" (`MixtureBase`) or "gaussian" (`GaussianBase`).
        components: of the mixture base.
        dropout: probability in the hidden layers of conditioners and mixture base.
        log_scale_bound: a layer's log-scales stay within +- this; unbounded ones make training erratic.
        split: the parts. "time": the first H // 2 steps and the rest; "channel": the first A // 2 dimensions of the
            action at every step and the rest. Where there is nothing to split, "time" at H = 1 means "channel" and
            "channel" at A = 1 means "time".
        mixing: linear map between two layers, over the whole chunk: "none", "rotation" (`RotationMixing`) or "lu"
            (`LUMixing`). Each sums over all numbers, and rounding errors with them: in float32 the inverse of a latent
            six standard deviations out is about ten times less exact than without.
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
    """Neural spline flow: as `CouplingFlow`, with a monotone rational-quadratic spline in place of each affine map.

    A spline bends the numbers in [-bound, bound] and leaves those beyond as they are. The latent's bulk should thus
    lie in the box as well as the chunks; a standard normal's does, at the default bound.

    In float32 a log-determinant of some 200 nats is good to about 2e-4 once trained (80 numbers, the largest of a
    latent at 6), an affine flow's to 5e-5.

    Durkan et al., Neural Spline Flows, NeurIPS 2019, arXiv 1906.04032.

    Args:
        bins: of a spline, 2 to 16.
        bound: half the width of the box.
        parameter_bound: the conditioners' outputs stay within +- this; unbounded ones flatten a stretch of a spline
            beyond what float32 can invert.
        others: see `CouplingFlow`.
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
