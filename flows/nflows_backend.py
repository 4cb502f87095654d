"""The nflows backend: a `ChunkFlow` for any nflows transform, and two presets.

>>> flow = NflowsFlow(transform, horizon=8, action_dim=15, context_dim=97)

Only the transform comes from nflows; the base density and sampling are those of `ChunkFlow`. This avoids or reports
several problems of nflows 0.14:

* Its affine coupling scales by sigmoid(u + 2) + 0.001, at most 1.001, so it cannot expand. Use `AffineCoupling`.
* It samples in float32 whatever the dtype, and fails with a float64 context.
* It needs one context row per sample, and some of its transforms fail for an empty batch.
* Its autoregressive transforms invert in one pass per dimension. With more than 32 dimensions, building the flow warns.

One problem remains: `NaiveLinear` inverts with `torch.solve`, which torch has removed. Use `LULinear` instead.

Durkan et al., nflows: normalizing flows in PyTorch, 2020, doi 10.5281/zenodo.4296287.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flows.base import ChunkFlow, require_positive
from flows.bases import GaussianBase, LatentBase, bounded, make_base

try:
    from nflows.nn.nets import ResidualNet
    from nflows.transforms import (
        AffineCouplingTransform,
        CompositeTransform,
        PiecewiseRationalQuadraticCouplingTransform,
        Transform,
    )
    from nflows.transforms.autoregressive import AutoregressiveTransform
except ModuleNotFoundError as error:
    raise ImportError(f"flows.nflows_backend needs nflows ({error}): pip install nflows") from error


class NflowsFlow(ChunkFlow):
    """Flow whose map from chunk to latent is an nflows transform, over flat chunks of D = H * A numbers.

    The transform receives each context row once per sample.

    Args:
        transform: A transform of D features, conditional on `context_dim` numbers or unconditional. Its forward
            direction is `to_latent`, as in nflows.
        horizon, action_dim, context_dim: See `ChunkFlow`.
        base: Density of the latent. None is the standard normal.

    Raises:
        TypeError: `transform` is not an nflows transform. For an `nflows.flows.Flow`, pass the transform it was built
            from.
    """

    def __init__(
        self,
        transform: Transform,
        *,
        horizon: int,
        action_dim: int,
        context_dim: int,
        base: LatentBase | None = None,
    ) -> None:
        super().__init__(horizon=horizon, action_dim=action_dim, context_dim=context_dim)
        if not isinstance(transform, Transform):
            raise TypeError(f"transform: expected an nflows.transforms.Transform, got {type(transform).__name__}")
        dim = horizon * action_dim
        if dim > 32 and any(isinstance(module, AutoregressiveTransform) for module in transform.modules()):
            warnings.warn(f"an autoregressive transform inverts in one pass per dimension, {dim} here", stacklevel=2)
        self.transform = transform
        self.base = GaussianBase(dim) if base is None else base

    def embed(self, context: Tensor) -> Tensor:
        """Return the context itself, (B, C), for the transform to process."""
        return context

    def encode(self, chunk: Tensor, embedding: Tensor) -> tuple[Tensor, Tensor]:
        return _apply(self.transform, chunk, embedding)

    def decode(self, latent: Tensor, embedding: Tensor) -> tuple[Tensor, Tensor]:
        return _apply(self.transform.inverse, latent, embedding)


def _apply(map_: Callable[..., tuple[Tensor, Tensor]], x: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
    """Apply a map of rows, (R, D) and (R, C), to x (B, N, D) and context (B, C)."""
    if x.numel() == 0:
        return x, x.sum(-1)
    rows = context.unsqueeze(1).expand(-1, x.shape[1], -1).flatten(0, 1)
    y, log_abs_det = map_(x.flatten(0, 1), rows)
    return y.unflatten(0, x.shape[:2]), log_abs_det.unflatten(0, x.shape[:2])


class AffineCoupling(AffineCouplingTransform):
    """Affine coupling of nflows with a scale that can also expand: exp(s) with |s| < `log_scale_bound`.

    Args:
        mask: (D,), positive for the dimensions that are transformed.
        transform_net_create_fn: Makes the conditioner, given the number of fixed dimensions and the number of
            parameters to compute.
        log_scale_bound: Log-scales stay within +- this.
    """

    def __init__(
        self, mask: Tensor, transform_net_create_fn: Callable[[int, int], nn.Module], log_scale_bound: float = 2.0
    ) -> None:
        super().__init__(mask, transform_net_create_fn)
        if not log_scale_bound > 0:
            raise ValueError(f"log_scale_bound: expected a number > 0, got {log_scale_bound!r}")
        self.log_scale_bound = log_scale_bound

    def _scale_and_shift(self, transform_params: Tensor) -> tuple[Tensor, Tensor]:
        shift, log_scale = transform_params.chunk(2, 1)
        return bounded(log_scale, self.log_scale_bound).exp(), shift


class NflowsRealNVP(NflowsFlow):
    """RealNVP with the residual networks of nflows as conditioners of `AffineCoupling` layers.

    The default size and the two halves of a chunk are those of `CouplingFlow`.

    Args:
        horizon, action_dim, context_dim: See `ChunkFlow`.
        layers: Number of coupling layers.
        width: Hidden width of each layer's conditioner.
        blocks: Number of residual blocks in a conditioner.
        base: Density of the latent: "gaussian", as in nflows, or "mixture".
        components: Number of components of the mixture base. More components can represent more modes.
        dropout: Dropout probability in the conditioners and in the mixture base.
        log_scale_bound: The log-scales of each layer stay within +- this. Higher values allow stronger scaling; without
            a bound, training is erratic.
    """

    def __init__(
        self,
        *,
        horizon: int,
        action_dim: int,
        context_dim: int,
        layers: int = 8,
        width: int = 192,
        blocks: int = 1,
        base: str = "gaussian",
        components: int = 4,
        dropout: float = 0.0,
        log_scale_bound: float = 2.0,
    ) -> None:
        require_positive(horizon=horizon, action_dim=action_dim, context_dim=context_dim, layers=layers)
        require_positive(width=width, blocks=blocks, components=components)
        net = _conditioner(context_dim, width, blocks, dropout)
        couplings = [AffineCoupling(moved, net, log_scale_bound) for moved in _halves(horizon, action_dim, layers)]
        for coupling in couplings:
            # Start as the identity. With the initialisation of nflows, eight layers lose 1e-2 in float32.
            nn.init.zeros_(coupling.transform_net.final_layer.weight)
            nn.init.zeros_(coupling.transform_net.final_layer.bias)
        super().__init__(
            CompositeTransform(couplings),
            horizon=horizon,
            action_dim=action_dim,
            context_dim=context_dim,
            base=make_base(base, horizon * action_dim, context_dim, components, dropout),
        )


class NflowsNSF(NflowsFlow):
    """Neural spline flow of nflows: rational-quadratic coupling over the halves of `CouplingFlow`.

    In float32, a log-determinant of some 250 nats has an error of about 1e-3 (80 numbers, latents out to 6). Unlike in
    `SplineCouplingFlow`, the parameters of the splines are not bounded.

    Durkan et al., Neural Spline Flows, NeurIPS 2019, arXiv 1906.04032.

    Args:
        horizon, action_dim, context_dim: See `ChunkFlow`.
        layers: Number of coupling layers.
        width: Hidden width of each layer's conditioner.
        blocks: Number of residual blocks in a conditioner.
        bins: Number of bins of each spline. More bins are more flexible and slower.
        tail_bound: The splines act on [-tail_bound, tail_bound] and are the identity outside.
        base: Density of the latent: "gaussian", as in nflows, or "mixture".
        components: Number of components of the mixture base. More components can represent more modes.
        dropout: Dropout probability in the conditioners and in the mixture base.
    """

    def __init__(
        self,
        *,
        horizon: int,
        action_dim: int,
        context_dim: int,
        layers: int = 8,
        width: int = 192,
        blocks: int = 1,
        bins: int = 8,
        tail_bound: float = 5.0,
        base: str = "gaussian",
        components: int = 4,
        dropout: float = 0.0,
    ) -> None:
        require_positive(horizon=horizon, action_dim=action_dim, context_dim=context_dim, layers=layers)
        require_positive(width=width, blocks=blocks, bins=bins, components=components)
        if not tail_bound > 0:
            raise ValueError(f"tail_bound: expected a number > 0, got {tail_bound!r}")
        net = _conditioner(context_dim, width, blocks, dropout)
        super().__init__(
            CompositeTransform(
                [
                    PiecewiseRationalQuadraticCouplingTransform(
                        moved, net, num_bins=bins, tails="linear", tail_bound=tail_bound
                    )
                    for moved in _halves(horizon, action_dim, layers)
                ]
            ),
            horizon=horizon,
            action_dim=action_dim,
            context_dim=context_dim,
            base=make_base(base, horizon * action_dim, context_dim, components, dropout),
        )


def _conditioner(context_dim: int, width: int, blocks: int, dropout: float) -> Callable[[int, int], nn.Module]:
    def create(fixed: int, params: int) -> nn.Module:
        return ResidualNet(fixed, params, width, context_dim, blocks, activation=F.silu, dropout_probability=dropout)

    return create


def _halves(horizon: int, action_dim: int, layers: int) -> Iterator[Tensor]:
    """Yield the mask of the transformed half for each layer. A chunk of one number is transformed by every layer."""
    dim = horizon * action_dim
    first = horizon // 2 * action_dim if horizon > 1 else action_dim // 2
    for layer in range(layers):
        late = torch.arange(dim) >= first
        yield late if layer % 2 == 0 or dim == 1 else ~late
