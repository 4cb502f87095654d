"""The contract that every conditional density over action chunks meets.

A flow is an invertible map between a chunk and a latent of the same shape, given a context, and a base density
over latents. A subclass implements the map (`embed`, `encode`, `decode`) and sets `base`; `ChunkFlow` does the rest.

Shapes: B batch, *n any number of sample axes, N their product, H horizon, A action dim, D = H * A, C context dim.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor, nn

from flows.bases import LatentBase


class ChunkFlow(nn.Module, ABC):
    """Conditional density p(chunk | context) over chunks of `horizon` actions.

    Args:
        horizon: Number of actions in a chunk, H.
        action_dim: Dimension of an action, A.
        context_dim: Dimension of the context, C.

    Every method raises ValueError for a tensor of the wrong shape; the message gives the expected and the actual shape.
    """

    base: LatentBase
    loss_is_nll: bool = True
    """Whether `loss` is the negative log-likelihood per dimension. A flow with another `row_loss` sets it to False."""
    exact_density: bool = True
    """Whether `log_prob` is exactly the density that `sample` draws from. A flow that estimates it sets it to False."""
    open_box: bool = False
    """Whether only chunks strictly within (-1, 1) have a density. Such a flow cannot be normalised."""
    guidable: bool = False
    """Whether `inpaint` works. A flow that implements `guide` sets it to True."""

    def __init__(self, *, horizon: int, action_dim: int, context_dim: int) -> None:
        super().__init__()
        require_positive(horizon=horizon, action_dim=action_dim, context_dim=context_dim)
        self.horizon = horizon
        self.action_dim = action_dim
        self.context_dim = context_dim

    # Methods that every flow implements.

    @abstractmethod
    def embed(self, context: Tensor) -> Any:
        """Compute what the map needs from a context (B, C). It is reused for every sample of a row."""

    @abstractmethod
    def encode(self, chunk: Tensor, embedding: Any) -> tuple[Tensor, Tensor]:
        """Map flat chunks (B, N, D) to latents (B, N, D) and log|det d latent / d chunk| (B, N)."""

    @abstractmethod
    def decode(self, latent: Tensor, embedding: Any) -> tuple[Tensor, Tensor]:
        """Map flat latents (B, N, D) to chunks (B, N, D) and log|det d chunk / d latent| (B, N)."""

    # Methods that a flow may override.

    def generate(self, latent: Tensor, embedding: Any, length: int | None = None) -> Tensor:
        """Decode latents without a log-determinant: (B, N, D) -> (B, N, D).

        With a `length`, return only the first `length` actions, (B, N, length * A). Some flows then do less work.
        """
        return self._first(self.decode(latent, embedding)[0], length)

    def guide(self, latent: Tensor, embedding: Any, known: Tensor, weight: Tensor, strength: float) -> Tensor:
        """Decode flat latents (B, N, D), guided towards flat chunks (B, N, D) by weights (D,): -> (B, N, D)."""
        raise ValueError(f"a {type(self).__name__} cannot be guided: only a flow that solves an ODE can")

    def row_loss(self, chunk: Tensor, context: Tensor) -> Tensor:
        """Return the loss of each row, summed over the dimensions of a chunk: (B, H, A), (B, C) -> (B,)."""
        return -self.log_prob(chunk, context)

    # The public interface.

    @property
    def latent_shape(self) -> tuple[int, int]:
        """The shape of a latent, (H, A)."""
        return self.horizon, self.action_dim

    def log_prob(self, chunk: Tensor, context: Tensor) -> Tensor:
        """Return log p(chunk | context) of whole chunks, in nats: (B, *n, H, A), (B, C) -> (B, *n)."""
        latent, log_abs_det = self.encode(self._flat(chunk, context), self.embed(context))
        return (self.base.log_prob(latent, self.base(context)) + log_abs_det).reshape(chunk.shape[:-2])

    def sample(self, context: Tensor, n: int = 1, temperature: float = 1.0, length: int | None = None) -> Tensor:
        """Draw `n` chunks for each row of a context: (B, C) -> (B, n, H, A).

        Args:
            context: Contexts, (B, C).
            n: Number of chunks per row.
            temperature: Factor on the noise of the base density; in a mixture, on the noise within each component. At
                0 every chunk is decoded from a mean of the base. `log_prob` does not depend on it.
            length: In 1 ... H. Return only the first `length` actions of the same chunks, (B, n, length, A); a coupling
                flow need not compute the others.
        """
        self._check_context(context)
        _check_draw(n, temperature)
        if length is not None and not 1 <= length <= self.horizon:
            raise ValueError(f"length: expected 1 to {self.horizon}, got {length!r}")
        latent = self.base.sample(self.base(context), n, temperature)
        return self.generate(latent, self.embed(context), length).unflatten(-1, (-1, self.action_dim))

    def mode(self, context: Tensor) -> Tensor:
        """Decode the mode of the base density: (B, C) -> (B, H, A).

        A greedy policy executes this chunk. The mode of a mixture is the mean of its likeliest component. Under a
        nonlinear map, the chunk is not the maximum of the density over chunks.
        """
        self._check_context(context)
        chunk = self.generate(self.base.mode(self.base(context)).unsqueeze(1), self.embed(context))
        return chunk[:, 0].unflatten(-1, self.latent_shape)

    def inpaint(
        self, context: Tensor, known: Tensor, weight: Tensor, temperature: float = 1.0, strength: float = 5.0
    ) -> Tensor:
        """Draw a chunk for each row of a context, guided towards known actions: (B, C), (B, H, A) -> (B, H, A).

        The guidance is soft, so the chunk agrees with the known actions only approximately.

        Args:
            context: Contexts, (B, C).
            known: The chunks to agree with, (B, H, A). Actions of weight 0 have no effect but must be finite.
            weight: How much the chunk should agree with each action, (H,), in [0, 1].
            temperature: See `sample`.
            strength: The largest factor on the guidance. At 0 the chunk is a sample.

        Raises:
            ValueError: The flow is not `guidable`, or an argument is out of range.
        """
        flat = self._flat(known, context, name="known")
        _check_draw(1, temperature)
        if weight.shape != (self.horizon,) or not ((weight >= 0) & (weight <= 1)).all():
            raise ValueError(f"weight: expected ({self.horizon},) numbers in [0, 1], got {weight}")
        if not 0.0 <= strength < math.inf:
            raise ValueError(f"strength: expected a finite number >= 0, got {strength!r}")
        latent = self.base.sample(self.base(context), 1, temperature)
        each = weight.to(flat).repeat_interleave(self.action_dim)
        return self.guide(latent, self.embed(context), flat, each, strength).reshape(known.shape)

    def rsample_and_log_prob(self, context: Tensor, n: int = 1) -> tuple[Tensor, Tensor]:
        """Draw differentiable chunks with their log-densities, in one pass: (B, C) -> (B, n, H, A), (B, n).

        The distribution is that of `sample` at temperature 1. See `MixtureBase` for the gradients of mixture weights.
        """
        self._check_context(context)
        _check_draw(n, 1.0)
        params = self.base(context)
        latent = self.base.sample(params, n)
        chunk, log_abs_det = self.decode(latent, self.embed(context))
        return chunk.unflatten(-1, self.latent_shape), self.base.log_prob(latent, params) - log_abs_det

    def to_latent(self, chunk: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Apply the map: chunk (B, *n, H, A) -> latent (B, *n, H, A) and log|det d latent / d chunk| (B, *n)."""
        latent, log_abs_det = self.encode(self._flat(chunk, context), self.embed(context))
        return latent.reshape(chunk.shape), log_abs_det.reshape(chunk.shape[:-2])

    def to_chunk(self, latent: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Invert `to_latent`: latent (B, *n, H, A) -> chunk (B, *n, H, A) and log|det d chunk / d latent| (B, *n)."""
        chunk, log_abs_det = self.decode(self._flat(latent, context, name="latent"), self.embed(context))
        return chunk.reshape(latent.shape), log_abs_det.reshape(latent.shape[:-2])

    def chunk_from(self, latent: Tensor, context: Tensor) -> Tensor:
        """Return the chunk of `to_chunk` without its log-determinant: (B, *n, H, A), (B, C) -> (B, *n, H, A)."""
        return self.generate(self._flat(latent, context, name="latent"), self.embed(context)).reshape(latent.shape)

    def loss(self, chunk: Tensor, context: Tensor, weight: Tensor | None = None) -> Tensor:
        """Return the mean negative log-likelihood per dimension, in nats, which imitation minimises:

            loss = sum_b weight_b * -log p(chunk_b | context_b) / (H * A * sum_b weight_b)

        In a flow whose `loss_is_nll` is False, `row_loss` takes the place of -log p.

        Args:
            chunk: Data chunks, (B, H, A).
            context: Contexts, (B, C).
            weight: Weights of the rows, (B,), not negative; None weights all rows equally. A row of weight zero is not
                evaluated, so the padding after the end of an episode cannot affect the loss.

        Raises:
            ValueError: The batch is empty, no weight is positive, or a weight is negative or not finite.
        """
        if chunk.ndim != 3:
            raise ValueError(f"chunk: expected (B, {self.horizon}, {self.action_dim}), got {tuple(chunk.shape)}")
        if weight is None:
            weight = chunk.new_ones(len(chunk))
        else:
            if weight.shape != chunk.shape[:1]:
                raise ValueError(f"weight: expected ({len(chunk)},), got {tuple(weight.shape)}")
            if not (weight.isfinite() & (weight >= 0)).all():
                raise ValueError("weight: expected finite values >= 0")
            weight = weight.to(chunk.dtype)
            self._flat(chunk, context)  # check the shapes before rows are dropped
            kept = weight > 0
            if not kept.all():
                chunk, context, weight = chunk[kept], context[kept], weight[kept]
        if len(chunk) == 0:
            raise ValueError("nothing to average over: the batch is empty or every weight is zero")
        return (weight * self.row_loss(chunk, context)).sum() / (weight.sum() * self.horizon * self.action_dim)

    # Shapes.

    def _first(self, flat: Tensor, length: int | None) -> Tensor:
        """Return the first `length` actions of flat chunks, all of them for None: (B, N, D) -> (B, N, length * A)."""
        return flat if length is None else flat[..., : length * self.action_dim]

    def _check_context(self, context: Tensor) -> None:
        if context.ndim != 2 or context.shape[1] != self.context_dim:
            raise ValueError(f"context: expected (B, {self.context_dim}), got {tuple(context.shape)}")

    def _flat(self, chunk: Tensor, context: Tensor, name: str = "chunk") -> Tensor:
        """Check the shapes and flatten: (B, *n, H, A) -> (B, N, D)."""
        self._check_context(context)
        batch = context.shape[0]  # `len` would be a constant of an exported file
        if chunk.ndim < 3 or chunk.shape[0] != batch or chunk.shape[-2:] != self.latent_shape:
            expected = f"({batch}, *n, {self.horizon}, {self.action_dim})"
            raise ValueError(f"{name}: expected {expected} for a context of {batch} rows, got {tuple(chunk.shape)}")
        return chunk.reshape(batch, math.prod(chunk.shape[1:-2]), self.horizon * self.action_dim)


def require_positive(**sizes: int) -> None:
    """Raise ValueError unless every size is an integer of at least 1."""
    for name, size in sizes.items():
        if not isinstance(size, int) or size < 1:
            raise ValueError(f"{name}: expected an integer >= 1, got {size!r}")


def _check_draw(n: int, temperature: float) -> None:
    require_positive(n=n)
    if not 0.0 <= temperature < math.inf:
        raise ValueError(f"temperature: expected a finite number >= 0, got {temperature!r}")
