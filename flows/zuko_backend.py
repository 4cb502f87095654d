"""The zuko backend: a `ChunkFlow` for any zuko flow or lazy transform, and three presets.

>>> flow = ZukoFlow(zuko.flows.NSF(120, 97, passes=2), horizon=8, action_dim=15, context_dim=97)

Only the transform comes from zuko; the base density and sampling are those of `ChunkFlow`. This avoids or reports
several problems of zuko 1.6:

* Importing it turns off the argument validation of torch.distributions for the whole process. Importing this module
  preserves the setting, unless zuko was imported earlier.
* Its `rsample_and_log_prob` runs the conditioners again for the log-determinant. Here they run once, or once per pass
  in an autoregressive transform.
* Its log-densities fail for an empty batch.
* Its autoregressive transforms, the default of NSF and MAF, invert in one pass per dimension. The presets use two
  passes. With more than 32 passes, building the flow warns.

Rozet et al., Zuko: Normalizing flows in PyTorch, 2022, doi 10.5281/zenodo.7625672.
"""

from __future__ import annotations

import math
import warnings
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.distributions import Distribution, Transform

from flows.base import ChunkFlow, require_positive
from flows.bases import GaussianBase, LatentBase, make_base

_validated = Distribution._validate_args
try:
    import zuko
except ModuleNotFoundError as error:
    raise ImportError(f"flows.zuko_backend needs zuko ({error}): pip install zuko") from error
finally:
    Distribution.set_default_validate_args(_validated)


MAX_DEPTH = 1000
"""Maximum depth of a conditioner, for untrusted descriptions: zuko lists all layers before it makes weights."""


class ZukoFlow(ChunkFlow):
    """Flow whose map from chunk to latent is a zuko transform, over flat chunks of D = H * A numbers.

    At zuko's default tolerances, inverses by bisection are accurate to 1e-6, and the log-determinants of continuous
    flows to about 1e-4.

    Args:
        flow: A zuko flow over a standard normal, or a lazy transform, of D features and `context_dim` context features.
        horizon, action_dim, context_dim: See `ChunkFlow`.
        base: Density of the latent. None is the standard normal.

    Raises:
        TypeError: `flow` is neither a zuko flow nor a lazy transform.
        ValueError: `flow` does not have D features, or its base is not a standard normal. To replace its base, pass
            `flow.transform`.
    """

    def __init__(
        self,
        flow: zuko.flows.Flow | zuko.lazy.LazyTransform,
        *,
        horizon: int,
        action_dim: int,
        context_dim: int,
        base: LatentBase | None = None,
    ) -> None:
        super().__init__(horizon=horizon, action_dim=action_dim, context_dim=context_dim)
        dim = horizon * action_dim
        if isinstance(flow, zuko.flows.Flow):
            _check_base(flow.base, dim)
            flow = flow.transform
        if not isinstance(flow, zuko.lazy.LazyTransform):
            raise TypeError(f"flow: expected a zuko.flows.Flow or a lazy transform, got {type(flow).__name__}")
        autoregressive = zuko.flows.MaskedAutoregressiveTransform
        passes = max((part.passes for part in flow.modules() if isinstance(part, autoregressive)), default=0)
        if passes > 32:
            warnings.warn(
                f"an autoregressive transform inverts in {passes} passes of its conditioner, one per dimension unless "
                "told otherwise; passes=2 makes it a coupling",
                stacklevel=2,
            )
        self.transform = flow
        self.base = GaussianBase(dim) if base is None else base

    def embed(self, context: Tensor) -> Transform | None:
        """Return the transform conditioned on the context, as (B, 1, C); None for an empty batch."""
        return self.transform(context.unsqueeze(1)) if context.shape[0] else None

    def encode(self, chunk: Tensor, embedding: Transform | None) -> tuple[Tensor, Tensor]:
        if embedding is None or chunk.numel() == 0:
            return chunk, chunk.sum(-1)
        return _forward(embedding, chunk)

    def decode(self, latent: Tensor, embedding: Transform | None) -> tuple[Tensor, Tensor]:
        if embedding is None or latent.numel() == 0:
            return latent, latent.sum(-1)
        return _inverse(embedding, latent)


def _check_base(base: nn.Module, dim: int) -> None:
    density: Any = base() if isinstance(base, zuko.lazy.UnconditionalDistribution) else base
    normal = isinstance(density, zuko.distributions.DiagNormal)
    if not (normal and (density.mean == 0).all() and (density.stddev == 1).all()):
        raise ValueError(f"flow: its base {density} is no standard normal; give flow.transform to replace it")
    if density.event_shape != (dim,):
        raise ValueError(f"flow: expected {dim} features (horizon * action_dim), got {density.event_shape[0]}")


def _forward(transform: Transform, x: Tensor) -> tuple[Tensor, Tensor]:
    """Apply a transform of vectors; return its value and log|det|: (B, N, D) -> (B, N, D), (B, N)."""
    y, log_abs_det = transform.call_and_ladj(x)  # type: ignore[attr-defined]  # zuko adds it to torch's class
    if transform.domain.event_dim == 0:  # elementwise: one log-derivative per dimension
        log_abs_det = log_abs_det.sum(-1)
    return y, log_abs_det.expand(x.shape[:-1])


def _inverse(transform: Transform, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return the value and log|det| of the inverse, running the conditioners once. zuko would run them twice."""
    if isinstance(transform, zuko.transforms.ComposedTransform):
        log_abs_det = y.new_zeros(y.shape[:-1])
        for part in reversed(transform.transforms):
            y, more = _inverse(part, y)
            log_abs_det = log_abs_det + more
        return y, log_abs_det
    if isinstance(transform, zuko.transforms.CouplingTransform):
        fixed, moved = transform.split(y)
        moved, log_abs_det = _inverse(transform.meta(fixed), moved)
        return transform.merge(fixed, moved, y.shape), log_abs_det
    if isinstance(transform, zuko.transforms.AutoregressiveTransform):
        # Each pass completes one more group of dimensions, so all parameters are correct in the last one.
        x = y.new_zeros(y.shape)
        for _ in range(transform.passes - 1):
            x = transform.meta(x).inv(y)
        return _inverse(transform.meta(x), y)
    return _forward(transform.inv, y)


class ZukoNSF(ZukoFlow):
    """`zuko.flows.NSF`: monotonic rational-quadratic splines on [-5, 5], the identity outside.

    In float32, a log-determinant of some 250 nats has an error of about 2e-4 (80 numbers, latents out to 6).

    Durkan et al., Neural Spline Flows, NeurIPS 2019, arXiv 1906.04032.

    Args:
        horizon, action_dim, context_dim: See `ChunkFlow`.
        layers: Number of transforms.
        width: Hidden width of each transform's conditioner.
        depth: Number of hidden layers of a conditioner, at most 1000.
        bins: Number of bins of each spline. More bins are more flexible and slower.
        passes: Number of groups of dimensions; the map of each is conditioned on the groups before it. 2 is a coupling
            over the halves of the chunk, H * A is fully autoregressive. Sampling runs a conditioner `passes` times,
            `log_prob` once. The default is 2 because reinforcement learning samples at every step.
        base: Density of the latent: "gaussian", as in zuko, or "mixture".
        components: Number of components of the mixture base. More components can represent more modes.
    """

    def __init__(
        self,
        *,
        horizon: int,
        action_dim: int,
        context_dim: int,
        layers: int = 8,
        width: int = 192,
        depth: int = 2,
        bins: int = 8,
        passes: int = 2,
        base: str = "gaussian",
        components: int = 4,
    ) -> None:
        require_positive(horizon=horizon, action_dim=action_dim, context_dim=context_dim, layers=layers)
        require_positive(width=width, bins=bins, passes=passes, components=components)
        _require_depth(depth)
        dim = horizon * action_dim
        super().__init__(
            zuko.flows.NSF(
                dim,
                context_dim,
                bins=bins,
                transforms=layers,
                passes=passes,
                hidden_features=[width] * depth,
                activation=nn.SiLU,
            ),
            horizon=horizon,
            action_dim=action_dim,
            context_dim=context_dim,
            base=make_base(base, dim, context_dim, components),
        )


class ZukoMAF(ZukoFlow):
    """`zuko.flows.MAF`: affine maps, conditioned on the dimensions in the preceding groups.

    Papamakarios et al., Masked Autoregressive Flow for Density Estimation, NeurIPS 2017, arXiv 1705.07057.

    Args:
        horizon, action_dim, context_dim: See `ChunkFlow`.
        layers: Number of transforms.
        width: Hidden width of each transform's conditioner.
        depth: Number of hidden layers of a conditioner, at most 1000.
        passes: Number of groups of dimensions; the map of each is conditioned on the groups before it. 2 is a coupling,
            H * A is fully autoregressive. Sampling runs a conditioner `passes` times, `log_prob` once.
        base: Density of the latent: "gaussian", as in zuko, or "mixture".
        components: Number of components of the mixture base. More components can represent more modes.
        log_scale_bound: The log-scales of each transform stay within +- this. Higher values allow stronger scaling;
            without a bound, training is erratic.
    """

    def __init__(
        self,
        *,
        horizon: int,
        action_dim: int,
        context_dim: int,
        layers: int = 8,
        width: int = 192,
        depth: int = 2,
        passes: int = 2,
        base: str = "gaussian",
        components: int = 4,
        log_scale_bound: float = 2.0,
    ) -> None:
        require_positive(horizon=horizon, action_dim=action_dim, context_dim=context_dim, layers=layers)
        require_positive(width=width, passes=passes, components=components)
        _require_depth(depth)
        dim = horizon * action_dim
        super().__init__(
            zuko.flows.MAF(
                dim,
                context_dim,
                transforms=layers,
                passes=passes,
                univariate=_affine(log_scale_bound),
                hidden_features=[width] * depth,
                activation=nn.SiLU,
            ),
            horizon=horizon,
            action_dim=action_dim,
            context_dim=context_dim,
            base=make_base(base, dim, context_dim, components),
        )


class ZukoNICE(ZukoFlow):
    """`zuko.flows.NICE`: coupling over alternating dimensions of the flat chunk.

    Despite the name, its maps are the affine ones of RealNVP. `zuko.flows.RealNVP` is the same flow.

    Dinh et al., Density estimation using Real NVP, ICLR 2017, arXiv 1605.08803.

    Args:
        horizon, action_dim, context_dim: See `ChunkFlow`.
        layers: Number of coupling layers.
        width: Hidden width of each transform's conditioner.
        depth: Number of hidden layers of a conditioner, at most 1000.
        base: Density of the latent: "gaussian", as in zuko, or "mixture".
        components: Number of components of the mixture base. More components can represent more modes.
        log_scale_bound: The log-scales of each transform stay within +- this. Higher values allow stronger scaling;
            without a bound, training is erratic.
    """

    def __init__(
        self,
        *,
        horizon: int,
        action_dim: int,
        context_dim: int,
        layers: int = 8,
        width: int = 192,
        depth: int = 2,
        base: str = "gaussian",
        components: int = 4,
        log_scale_bound: float = 2.0,
    ) -> None:
        require_positive(horizon=horizon, action_dim=action_dim, context_dim=context_dim, layers=layers)
        require_positive(width=width, components=components)
        _require_depth(depth)
        dim = horizon * action_dim
        super().__init__(
            zuko.flows.NICE(
                dim,
                context_dim,
                transforms=layers,
                univariate=_affine(log_scale_bound),
                hidden_features=[width] * depth,
                activation=nn.SiLU,
            ),
            horizon=horizon,
            action_dim=action_dim,
            context_dim=context_dim,
            base=make_base(base, dim, context_dim, components),
        )


def _require_depth(depth: int) -> None:
    require_positive(depth=depth)
    if depth > MAX_DEPTH:
        raise ValueError(f"depth: expected at most {MAX_DEPTH} layers, got {depth}")


def _affine(log_scale_bound: float) -> partial[zuko.transforms.MonotonicAffineTransform]:
    """Return zuko's affine map with log-scales within +- the bound, which is a `slope` of exp(-bound) in zuko."""
    if not log_scale_bound > 0:
        raise ValueError(f"log_scale_bound: expected a number > 0, got {log_scale_bound!r}")
    return partial(zuko.transforms.MonotonicAffineTransform, slope=math.exp(-log_scale_bound))
