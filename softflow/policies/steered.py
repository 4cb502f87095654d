"""A frozen policy, steered by a small network that shifts its latent and adds a residual to its chunk."""

from __future__ import annotations

import copy
import math
from typing import Any, Literal, NamedTuple, Self, get_args

import torch
from torch import Tensor, nn

from flows import ChunkFlow
from flows.bases import GaussianBase, LatentBase, bounded
from softflow.errors import did_you_mean
from softflow.policies.base_policy import BasePolicy
from softflow.policies.flow_policy import FlowPolicy
from softflow.policies.foreign_policy import ForeignPolicy
from softflow.policies.head import HeadOutput, with_axes, zero_mlp
from softflow.policies.normalizer import ObservationNormalizer
from softflow.policies.pixel_encoder import PixelEncoder
from softflow.task import TaskSpec

Shape = Literal["step", "chunk"]
"""Whether each step of a chunk has its own values, (H, A), or all steps share the same values, (A,)."""


class SteeredDraw(NamedTuple):
    """A latent, a residual, and the resulting chunk."""

    latent: Tensor
    """The latent that the base decodes, (B, n, *Z)."""
    residual: Tensor
    """The residual that is added to the decoded chunk, in multiples of the base's `action_scale`, (B, n, H, A)."""
    chunk: Tensor
    """The chunk to execute, (B, n, H, A)."""


class SteeredPolicy(BasePolicy):
    """Residual flow steering (RFS, arXiv 2602.01789) of any frozen policy, such as a normalizing flow or flow matching:

        z ~ p_base(z | s),  w = z * exp(log_std(s)) + mean(s),  chunk = clip(base(s, w) + scale * residual(s)),

    where scale is the `action_scale` of the base, or 1 if the base does not normalise actions.

    One head maps the features of the base to mean, log_std and residual. Its last layer starts at zero, so that w = z
    and the residual is 0. The new policy equals its base bit for bit, greedy chunks included. With the latent alone,
    this is latent steering (DSRL, arXiv 2506.15799). With the residual alone, it is residual learning on a frozen
    policy (Policy Decorator, arXiv 2412.13630).

    A steered policy can be steered again. As a base, its latent is z, and w and the residual are parts of its `decode`.

    The base is frozen: its parameters receive no gradient, and it stays in `eval()`. The statistics of observations and
    actions are those of the base.

    Args:
        base: The policy to steer. It is used in place, not copied.
        latent: Whether the head shifts and scales the latent.
        residual: Whether the head adds a residual to the chunk.
        deterministic: Whether z is the mode of the base density instead of a sample; log_std is then zero.
        latent_shape: Shape of mean and log_std, "step" or "chunk". z has its own values for each step in either case.
        residual_shape: Shape of the residual, "step" or "chunk".
        residual_bound: Bound on every number of the residual, in multiples of the scale of its action dimension. Higher
            values allow larger corrections.
        log_std_bound: log_std stays within +- this. Higher values allow stronger changes of the noise.

    Raises:
        ValueError: `latent` and `residual` are both off, a shape is unknown, a bound is not positive, the base has no
            latent to steer, or the base is deterministic and this policy is not.
    """

    kind = "steered"
    deterministic: bool

    def __init__(
        self,
        base: BasePolicy,
        *,
        latent: bool = True,
        residual: bool = True,
        deterministic: bool = False,
        latent_shape: Shape = "step",
        residual_shape: Shape = "step",
        residual_bound: float = 0.3,
        log_std_bound: float = 2.0,
    ) -> None:
        if not (latent or residual):
            raise ValueError("latent and residual are both off: there is nothing to steer with")
        for name, shape in (("latent_shape", latent_shape), ("residual_shape", residual_shape)):
            if shape not in get_args(Shape):
                raise ValueError(f"{name}: expected 'step' or 'chunk', got {shape!r}")
        for name, bound in (("residual_bound", residual_bound), ("log_std_bound", log_std_bound)):
            if not bound > 0:
                raise ValueError(f"{name}: expected a number > 0, got {bound!r}")
        if latent and not math.prod(base.latent_shape):
            raise ValueError(
                "the base has no latent, so that only a residual can steer it: give --algo residual, or set "
                "steering.latent to false"
            )
        if latent and latent_shape == "chunk" and len(base.latent_shape) < 2:
            raise ValueError(
                f"latent_shape: the base's latent, {base.latent_shape}, has no steps to share: give 'step'"
            )
        if isinstance(base, SteeredPolicy) and base.deterministic and not deterministic:
            raise ValueError("the base starts from the mode of its latent density: set steering.deterministic as well")
        super().__init__(base.observation_dim, base.action_dim, base.horizon)
        self.base = base.requires_grad_(False).eval()
        self.flow_name = base.flow_name
        self.options = dict(
            latent=latent,
            residual=residual,
            deterministic=deterministic,
            latent_shape=latent_shape,
            residual_shape=residual_shape,
            residual_bound=residual_bound,
            log_std_bound=log_std_bound,
        )
        self.deterministic = deterministic
        self.residual_bound, self.log_std_bound = residual_bound, log_std_bound
        parts = {"mean": latent, "log_std": latent and not deterministic, "residual": residual}
        shared = {"mean": latent_shape, "log_std": latent_shape, "residual": residual_shape}
        chunk = base.horizon, base.action_dim
        self._whole = {"mean": base.latent_shape, "log_std": base.latent_shape, "residual": chunk}
        self._shapes = {
            name: self._whole[name] if shared[name] == "step" else (1, *self._whole[name][1:])
            for name, used in parts.items()
            if used
        }
        self.head = zero_mlp(base.context_dim, sum(map(math.prod, self._shapes.values())))

    def train(self, mode: bool = True) -> SteeredPolicy:
        """Set the training mode of the head; the base stays in `eval()`."""
        super().train(mode)
        self.base.eval()
        return self

    @property
    def learnt(self) -> nn.Module:
        """The head."""
        return self.head

    def twin(self) -> Self:
        """Return a policy with a frozen copy of the head on the same base."""
        twin = copy.deepcopy(self, {id(self.base): self.base})
        twin.head.requires_grad_(False)
        return twin.eval()

    def describe(self) -> dict[str, Any]:
        return {"base": {"kind": self.base.kind, **self.base.describe()}, **self.options}

    @classmethod
    def build(cls, **description: Any) -> SteeredPolicy:
        options = {name: value for name, value in description.items() if name != "base"}
        if "base" not in description:
            raise ValueError("the description of a steered policy names no base")
        base = dict(description["base"])
        kind = base.pop("kind", FlowPolicy.kind)  # files of earlier versions have none
        if kind not in BASES:
            raise ValueError(f"a policy of kind {kind!r} cannot be steered: {did_you_mean(str(kind), BASES)}")
        return cls(BASES[kind].build(**base), **options)

    @property
    def root(self) -> BasePolicy:
        """The innermost base, which is not a steered policy."""
        return self.base.root if isinstance(self.base, SteeredPolicy) else self.base

    @property
    def heads(self) -> list[dict[str, Any]]:
        """The options of all heads on the `root`, from the innermost to this one."""
        return [*(self.base.heads if isinstance(self.base, SteeredPolicy) else []), self.options]

    def require_task(self, task: TaskSpec) -> None:
        self.base.require_task(task)

    @property
    def context_dim(self) -> int:
        """The number of features of the base."""
        return self.base.context_dim

    def features(self, observation: Tensor) -> Tensor:
        """Return the features of the base: (B, O) -> (B, C)."""
        return self.base.features(observation)

    @property
    def normalizer(self) -> ObservationNormalizer:  # type: ignore[override]
        """The normaliser of the base."""
        return self.base.normalizer

    @property
    def encoder(self) -> PixelEncoder | None:  # type: ignore[override]
        """The encoder of the base."""
        return self.base.encoder

    @property
    def flow(self) -> ChunkFlow:  # type: ignore[override]
        """The flow of the base."""
        return self.base.flow

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """The shape of a latent of the base."""
        return self.base.latent_shape

    @property
    def latent_base(self) -> LatentBase:
        """The density of latents of the base."""
        return self.base.latent_base

    @property
    def normalizes_actions(self) -> bool:
        """Whether the base normalises actions."""
        return self.base.normalizes_actions

    @property
    def action_center(self) -> Tensor:
        """The `action_center` of the base, (A,)."""
        return self.base.action_center

    @property
    def action_scale(self) -> Tensor:
        """The `action_scale` of the base, (A,)."""
        return self.base.action_scale

    @property
    def _latent_axes(self) -> tuple[int, ...]:
        return tuple(range(-len(self.latent_shape), 0))

    # ----------------------------------------------------------------------------------------------------- proposals

    def steer(self, observation: Tensor) -> HeadOutput:
        """Evaluate the head on observations (B, O). Outputs that are switched off are zero."""
        flat = self.head(self.features(observation))
        sizes = [math.prod(shape) for shape in self._shapes.values()]
        parts = dict(zip(self._shapes, flat.split(sizes, -1), strict=True))

        def spread(name: str) -> Tensor:
            if name not in parts:
                return flat.new_zeros(flat.shape[0], *self._whole[name])
            return parts[name].unflatten(-1, self._shapes[name]).expand(-1, *self._whole[name])

        return HeadOutput(
            mean=spread("mean"),
            log_std=bounded(spread("log_std"), self.log_std_bound),
            residual=self.residual_bound * spread("residual").tanh(),
        )

    def draw(
        self, observation: Tensor, n: int = 1, temperature: float = 1.0, steering: HeadOutput | None = None
    ) -> SteeredDraw:
        """Draw `n` latents, residuals and chunks for each observation (B, O), differentiable in the head's output.

        `temperature` scales the noise of the base density, as in `ChunkFlow.sample`. `steering` is the result of
        `steer` for these observations, if it has been computed already.
        """
        steering = self.steer(observation) if steering is None else steering
        params = self.latent_base(self.features(observation))
        if self.deterministic:
            noise = self.latent_base.mode(params).unsqueeze(1).expand(-1, n, -1)
        else:
            noise = self.latent_base.sample(params, n, temperature)
        latent = steering.latent_of(noise.unflatten(-1, self.latent_shape))
        residual = steering.residual.unsqueeze(1).expand(-1, n, -1, -1)
        return SteeredDraw(latent, residual, self.compose(observation, latent, residual))

    def compose(self, observation: Tensor, latent: Tensor, residual: Tensor) -> Tensor:
        """Return clip(base(s, latent) + scale * residual): (B, O), (B, *n, *Z), (B, *n, H, A) -> (B, *n, H, A).

        The chunk of the base is clipped first, so the residual is added to the actions that the base would execute.
        """
        return (self.base.decode(observation, latent) + self.action_scale * residual).clamp(-1, 1)

    def propose(self, observation: Tensor, n: int = 1, temperature: float = 1.0, length: int | None = None) -> Tensor:
        return self.draw(observation, n, temperature).chunk[:, :, :length]

    def greedy(self, observation: Tensor) -> Tensor:
        """Return the chunk for the mode of the base density, steered like a sample: (B, O) -> (B, H, A)."""
        mode = self.latent_base.mode(self.latent_base(self.features(observation)))
        return self.decode(observation, mode.unflatten(-1, self.latent_shape).unsqueeze(1))[:, 0]

    def decode(self, observation: Tensor, latent: Tensor) -> Tensor:
        """Steer latents z of the base density and decode them: (B, O), (B, *n, *Z) -> (B, *n, H, A)."""
        steering, axes = self.steer(observation), latent.ndim - 1 - len(self.latent_shape)
        return self.compose(observation, steering.latent_of(latent), with_axes(steering.residual, axes))

    # ------------------------------------------------------------------------------------------ densities and losses

    def latent_kl(self, observation: Tensor, steering: HeadOutput) -> Tensor:
        """Return the divergence KL(steered latent || base) at temperature 1, in nats: (B,).

        It is summed over the whole chunk. If the base density is the standard normal, the KL is exact: the sum over
        dimensions of (mean^2 + std^2 - 1) / 2 - log std. For another base, such as a mixture, it is an unbiased
        estimate: the log-ratio of the two densities at one steered sample. A deterministic latent has no density; it is
        treated as a sample of the base shifted by the mean.
        """
        mean, log_std, _ = steering
        latents = self.latent_base
        if isinstance(latents, GaussianBase):
            return (0.5 * (mean.square() + torch.expm1(2 * log_std)) - log_std).sum(self._latent_axes)
        params = latents(self.features(observation))
        noise = latents.sample(params, 1)
        moved = steering.latent_of(noise.unflatten(-1, self.latent_shape)).flatten(2)
        moved = latents.log_prob(moved, params)
        return (latents.log_prob(noise, params) - moved)[:, 0] - log_std.sum(self._latent_axes)

    def latent_log_prob(
        self, observation: Tensor, latent: Tensor, steering: HeadOutput, temperature: float = 1.0
    ) -> Tensor:
        """Return the log-density of steered latents in nats, at a temperature above 0: (B, *n, *Z) -> (B, *n).

        It is exact for any flow, because nothing is decoded. A deterministic latent is treated as in `latent_kl`.
        """
        samples = latent.shape[1 : latent.ndim - len(self.latent_shape)]
        noise = steering.noise_of(latent).reshape(len(latent), math.prod(samples), math.prod(self.latent_shape))
        params = self.latent_base(self.features(observation))
        log_prob = self.latent_base.log_prob(noise, params, temperature).reshape(len(latent), *samples)
        return log_prob - with_axes(steering.log_std.sum(self._latent_axes), len(samples))

    def log_prob(self, observation: Tensor, chunk: Tensor) -> Tensor:
        """Return the log-density of chunks before any clipping: (B, O), (B, *n, H, A) -> (B, *n).

        It is that of base(s, w) + scale * residual(s), in nats and as exact as that of the base flow. A deterministic
        latent is treated as in `latent_kl`.
        """
        steering = self.steer(observation)
        latent, log_abs_det = self._steered_latent(observation, chunk, steering)
        return self.latent_log_prob(observation, latent, steering) + log_abs_det

    def to_latent(self, observation: Tensor, chunk: Tensor) -> tuple[Tensor, Tensor]:
        steering = self.steer(observation)
        latent, log_abs_det = self._steered_latent(observation, chunk, steering)
        log_std = with_axes(steering.log_std.sum(self._latent_axes), chunk.ndim - 3)
        return steering.noise_of(latent), log_abs_det - log_std

    def _steered_latent(self, observation: Tensor, chunk: Tensor, steering: HeadOutput) -> tuple[Tensor, Tensor]:
        """Return the latents that the base decodes to chunks less the residual, see `to_latent`."""
        residual = self.action_scale * with_axes(steering.residual, chunk.ndim - 3)
        return self.base.to_latent(observation, chunk - residual)

    def bc_loss(self, observation: Tensor, chunk: Tensor, weight: Tensor | None = None) -> Tensor:
        """Return the weighted mean of -`log_prob` of data chunks (B, H, A), per dimension, in nats.

        If the base normalises actions, it is in normalised units.
        """
        log_prob = self.log_prob(observation, chunk) + self.horizon * self.action_scale.log().sum()
        loss = -log_prob / chunk[0].numel()
        return loss.mean() if weight is None else (weight * loss).sum() / weight.sum()


BASES: dict[str, type[BasePolicy]] = {base.kind: base for base in (FlowPolicy, ForeignPolicy, SteeredPolicy)}
"""The policies that can be steered, by kind."""
