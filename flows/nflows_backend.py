"""nflows as a backend: any of its transforms becomes a `ChunkFlow`, and presets.

>>> flow = NflowsFlow(transform, horizon=8, action_dim=15, context_dim=97)

Only the transform is nflows'; base density and sampling are those of `ChunkFlow`. What this mends of nflows 0.14:

* its affine coupling scales by sigmoid(u + 2) + 0.001, at most 1.001, so it cannot expand: use `AffineCoupling`;
* its sampling is float32 whatever the dtype, and fails with a float64 context;
* it wants one context row for each sample, and some of its transforms fail for an empty batch;
* its autoregressive transforms invert in one pass per dimension: with more than 32, building the flow warns.

What it cannot mend: `NaiveLinear` inverts by `torch.solve`, which torch has removed; `LULinear` serves.

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
    """Density whose map is an nflows transform, from chunk to latent, over flat chunks of D = H * A numbers.

    The transform sees each context row once for every sample of the row.

    Args:
        transform: of D features, conditional on `context_dim` numbers (or on none). Its forward direction is the
            flow's `to_latent`, as in nflows.
        horizon, action_dim, context_dim: see `ChunkFlow`.
        base: density of the latent; None is the standard normal.

    Raises:
        TypeError: not an nflows transform (of an `nflows.flows.Flow`, give the transform that it was built from).
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
        """The context itself, (B, C): only the transform knows what to make of it."""
        return context

    def encode(self, chunk: Tensor, embedding: Tensor) -> tuple[Tensor, Tensor]:
        return _apply(self.transform, chunk, embedding)

    def decode(self, latent: Tensor, embedding: Tensor) -> tuple[Tensor, Tensor]:
        return _apply(self.transform.inverse, latent, embedding)


def _apply(map_: Callable[..., tuple[Tensor, Tensor]], x: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
    """A map of rows, (R, D) and (R, C), on x (B, N, D) and context (B, C)."""
    if x.numel() == 0:
        return x, x.sum(-1)
    rows = context.unsqueeze(1).expand(-1, x.shape[1], -1).flatten(0, 1)
    y, log_abs_det = map_(x.flatten(0, 1), rows)
    return y.unflatten(0, x.shape[:2]), log_abs_det.unflatten(0, x.shape[:2])


class AffineCoupling(AffineCouplingTransform):
    """nflows' affine coupling with a scale that can expand as well as contract: exp(s), |s| < `log_scale_bound`.

    Args:
        mask: (D,), positive where a dimension moves.
        transform_net_create_fn: from how many dimensions stay, and how many parameters they decide, to the network.
        log_scale_bound: log-scales stay within +- this.
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
    """RealNVP of nflows' parts, of the size and over the halves of `CouplingFlow`: `AffineCoupling` layers whose
    conditioners are nflows' residual networks.

    Args:
        horizon, action_dim, context_dim: see `ChunkFlow`.
        layers: coupling layers.
        width: of the conditioners.
        blocks: residual blocks of a conditioner.
        base: density of the latent, "gaussian" (nflows' own choice) or "mixture".
        components: of the mixture base.
        dropout: probability in the conditioners and the mixture base.
        log_scale_bound: a layer's log-scales stay within +- this.
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
            # Start at the identity: from nflows' own start, eight layers grow enough to lose 1e-2 in float32.
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
    """Neural spline flow of nflows' parts: rational-quadratic coupling over the halves of `CouplingFlow`.

    In float32 a log-determinant of some 250 nats is good to about 1e-3 (80 numbers, the largest of a latent at 6):
    nothing bounds the splines' parameters, as `SplineCouplingFlow` does.

    Durkan et al., Neural Spline Flows, NeurIPS 2019, arXiv 1906.04032.

    Args:
        horizon, action_dim, context_dim: see `ChunkFlow`.
        layers: coupling layers.
        width: of the conditioners.
        blocks: residual blocks of a conditioner.
        bins: of each spline.
        tail_bound: the splines act on [-tail_bound, tail_bound]; numbers beyond stay as they are.
        base: density of the latent, "gaussian" (nflows' own choice) or "mixture".
        components: of the mixture base.
        dropout: probability in the conditioners and the mixture base.
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
    """For each layer, the mask of the half that moves. A chunk of one number has no halves and moves every time."""
    dim = horizon * action_dim
    first = horizon // 2 * action_dim if horizon > 1 else action_dim // 2
    for layer in range(layers):
        late = torch.arange(dim) >= first
        yield late if layer % 2 == 0 or dim == 1 else ~late
