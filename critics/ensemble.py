"""Ensemble of critics Q(context, chunk), evaluated with batched matrix products.

Shapes: E members, B batch, *n any number of sample axes, N their product, H horizon, A action dim, D = H * A,
C context dim, W width.
"""

from __future__ import annotations

import copy
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class EnsembleLinear(nn.Module):
    """E independent linear layers, (E, R, in) -> (E, R, out), each initialised like `torch.nn.Linear`.

    A layer that reads only a part of a wider input takes the width of the whole input as its `fan_in`.
    """

    def __init__(self, members: int, inputs: int, outputs: int, fan_in: int | None = None) -> None:
        super().__init__()
        bound = 1 / math.sqrt(fan_in or inputs)
        self.weight = nn.Parameter(torch.empty(members, inputs, outputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(members, 1, outputs).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        return torch.baddbmm(self.bias, x, self.weight)


class EnsembleLayerNorm(nn.Module):
    """Layer normalisation with a separate scale and shift for each member: (E, R, W) -> (E, R, W)."""

    def __init__(self, members: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(members, 1, width))
        self.bias = nn.Parameter(torch.zeros(members, 1, width))

    def forward(self, x: Tensor) -> Tensor:
        x = F.layer_norm(x, x.shape[-1:])
        spent = None if torch.is_grad_enabled() else x  # without a backward pass, its memory is reused
        return torch.addcmul(self.bias, x, self.weight, out=spent)


class ChunkCritic(nn.Module):
    """Ensemble of MLPs Q(context, chunk) with layer normalisation and SiLU after each hidden linear layer.

    The values are those of whole chunks (Q-chunking, arXiv 2507.07969). Layer normalisation keeps values on chunks
    outside the data from growing without bound (RLPD, arXiv 2302.02948).

    Args:
        context_dim: Dimension of the context, C.
        horizon: Number of actions in a chunk, H.
        action_dim: Dimension of an action, A.
        members: Number of independently initialised members, E.
        width: Width of the hidden layers, W.
        depth: Number of hidden layers.
        normalize: Whether chunks are normalised first, with statistics that `fit` sets: (chunk - center) / scale.

    Raises:
        ValueError: A size is not a positive integer.
        RuntimeError: In `forward`, the critic normalises chunks, but has no statistics.
    """

    center: Tensor
    scale: Tensor

    def __init__(
        self,
        *,
        context_dim: int,
        horizon: int,
        action_dim: int,
        members: int = 2,
        width: int = 256,
        depth: int = 2,
        normalize: bool = False,
    ) -> None:
        super().__init__()
        sizes = dict(context_dim=context_dim, horizon=horizon, action_dim=action_dim)
        sizes |= dict(members=members, width=width, depth=depth)
        for name, size in sizes.items():
            if not isinstance(size, int) or size < 1:
                raise ValueError(f"{name}: expected an integer >= 1, got {size!r}")
        self.context_dim = context_dim
        self.horizon = horizon
        self.action_dim = action_dim
        self.members = members
        self.normalize = normalize
        self._sizes = sizes
        if normalize:
            self.register_buffer("center", torch.full((action_dim,), torch.nan))
            self.register_buffer("scale", torch.full((action_dim,), torch.nan))
        self._ready = not normalize
        self.register_load_state_dict_post_hook(_check_anew)
        # The first layer reads (context, chunk). With two weights, a context is multiplied once for all its chunks.
        fan_in = context_dim + horizon * action_dim
        self.from_context = EnsembleLinear(members, context_dim, width, fan_in)
        self.chunk_weight = nn.Parameter(torch.empty(members, horizon * action_dim, width))
        nn.init.uniform_(self.chunk_weight, -1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in))
        self.hidden = nn.ModuleList(EnsembleLinear(members, width, width) for _ in range(depth - 1))
        self.norms = nn.ModuleList(EnsembleLayerNorm(members, width) for _ in range(depth))
        self.output = EnsembleLinear(members, width, 1)

    def forward(self, context: Tensor, chunk: Tensor) -> Tensor:
        """Return the values of every member: context (B, C), chunk (B, *n, H, A) -> (E, B, *n).

        Raises:
            ValueError: A tensor has the wrong shape.
        """
        self._check(context, chunk)
        spent = not torch.is_grad_enabled()  # see `EnsembleLayerNorm`
        h = F.silu(self.norms[0](self._input(context, chunk)), inplace=spent)
        for linear, norm in zip(self.hidden, self.norms[1:], strict=True):
            h = F.silu(norm(linear(h)), inplace=spent)
        return self.output(h).reshape(self.members, *chunk.shape[:-2])

    def fit(self, center: Tensor, scale: Tensor) -> None:
        """Set the statistics of actions, (A,) each.

        Raises:
            ValueError: The critic does not normalise, or a number is not finite, or a scale is not positive.
        """
        if not self.normalize:
            raise ValueError("the critic does not normalise actions")
        if not (center.isfinite().all() and scale.isfinite().all() and (scale > 0).all()):
            raise ValueError(f"expected finite centers and positive scales, got {center} and {scale}")
        self.center.copy_(center)
        self.scale.copy_(scale)
        self._ready = True

    def describe(self) -> dict[str, int]:
        """Return the arguments that rebuild this critic."""
        return {**self._sizes, "normalize": True} if self.normalize else dict(self._sizes)

    def make_target(self) -> ChunkCritic:
        """Return a frozen copy, which `soft_update` moves."""
        return copy.deepcopy(self).requires_grad_(False)

    def _input(self, context: Tensor, chunk: Tensor) -> Tensor:
        """Apply the first linear layer to the concatenation (context, chunk): (E, B * N, W)."""
        if not self._ready:
            self._require_statistics()
        if self.normalize:
            chunk = (chunk - self.center) / self.scale
        batch, samples = len(context), math.prod(chunk.shape[1:-2])
        from_context = self.from_context(context.expand(self.members, -1, -1))
        flat = chunk.reshape(batch * samples, self.horizon * self.action_dim).expand(self.members, -1, -1)
        if samples == 1:
            return torch.baddbmm(from_context, flat, self.chunk_weight)
        from_chunk = torch.bmm(flat, self.chunk_weight).unflatten(1, (batch, samples))
        return from_chunk.add_(from_context.unsqueeze(2)).flatten(1, 2)

    def _require_statistics(self) -> None:
        if self.normalize and not (self.center.isfinite().all() and self.scale.isfinite().all()):
            raise RuntimeError("the critic has no action statistics: fit them, or load a whole checkpoint")
        self._ready = True

    def _check(self, context: Tensor, chunk: Tensor) -> None:
        if context.ndim != 2 or context.shape[1] != self.context_dim:
            raise ValueError(f"context: expected (B, {self.context_dim}), got {tuple(context.shape)}")
        if chunk.ndim < 3 or len(chunk) != len(context) or chunk.shape[-2:] != (self.horizon, self.action_dim):
            expected = f"({len(context)}, *n, {self.horizon}, {self.action_dim})"
            raise ValueError(f"chunk: expected {expected}, got {tuple(chunk.shape)}")


def _check_anew(critic: ChunkCritic, _: object) -> None:
    critic._ready = False  # the loaded state may have no statistics


@torch.no_grad()
def soft_update(target: nn.Module, online: nn.Module, rate: float) -> None:
    """Move the target parameters towards the online parameters: target <- (1 - rate) * target + rate * online.

    The update is in place. Weights that both share stay as they are.

    Raises:
        ValueError: `rate` is outside [0, 1].
    """
    if not 0.0 <= rate <= 1.0:
        raise ValueError(f"rate: expected a number in [0, 1], got {rate!r}")
    pairs = zip(target.parameters(), online.parameters(), strict=True)
    moving = [(weight, towards) for weight, towards in pairs if weight is not towards]
    torch._foreach_lerp_([weight for weight, _ in moving], [towards for _, towards in moving], rate)
