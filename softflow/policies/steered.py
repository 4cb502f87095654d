"""A frozen policy, steered by a small network that shifts its latent and adds a residual to its chunk."""

from __future__ import annotations

import copy
import math
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from flows import ChunkFlow
from flows.bases import GaussianBase, bounded
from softflow.errors import did_you_mean
from softflow.policies.base import ChunkPolicy
from softflow.policies.base_policy import BasePolicy
from softflow.policies.flow_policy import FlowPolicy
from softflow.policies.foreign_policy import ForeignPolicy
from softflow.policies.head import zero_mlp
from softflow.policies.normalizer import ObservationNormalizer
from softflow.policies.pixel_encoder import PixelEncoder
from softflow.task import TaskSpec

Shape = Literal["step", "chunk"]
"""Whether each step of a chunk has its own values, (H, A), or all steps share the same values, (A,)."""

BASES: dict[str, type[BasePolicy]] = {base.kind: base for base in (FlowPolicy, ForeignPolicy)}
"""The policies that can be steered, by kind."""


class HeadOutput(NamedTuple):
    """Output of the head, expanded over the steps of the chunk if they share it."""

    mean: Tensor
    """Shift of the latent, (B, *Z), where Z is the `latent_shape` of the base."""
    log_std: Tensor
    """Logarithm of the factor on the base noise, (B, *Z)."""
    residual: Tensor
    """Residual that is added to the decoded chunk, in multiples of the base's `action_scale`, (B, H, A)."""

    @property
    def squared_residual(self) -> Tensor:
        """Squared norm of the residual over the whole chunk, (B,)."""
        return self.residual.square().sum((-2, -1))


class SteeredDraw(NamedTuple):
    """A latent, a residual, and the resulting chunk."""

    latent: Tensor
    """The latent that the base decodes, (B, n, *Z)."""
    residual: Tensor
    """The residual that is added to the decoded chunk, in multiples of the base's `action_scale`, (B, n, H, A)."""
    chunk: Tensor
    """The chunk to execute, (B, n, H, A)."""


class SteeredPolicy(ChunkPolicy):
    """Residual flow steering (RFS, arXiv 2602.01789) of any frozen policy, such as a normalizing flow or flow matching:

        z ~ p_base(z | s),  w = z * exp(log_std(s)) + mean(s),  chunk = clip(base(s, w) + scale * residual(s)),

    where scale is the `action_scale` of the base, or 1 if the base does not normalise actions.

    One head maps the features of the base to mean, log_std and residual. Its last layer starts at zero, so that w = z
    and the residual is 0. The new policy equals its base bit for bit, greedy chunks included. With the latent alone,
    this is latent steering (DSRL, arXiv 2506.15799). With the residual alone, it is residual learning on a frozen
    policy (Policy Decorator, arXiv 2412.13630).

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
        ValueError: `latent` and `residual` are both off, a shape is unknown, a bound is not positive, or the base
            has no latent to steer.
    """

    kind = "steered"

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

    def twin(self) -> SteeredPolicy:
        """Return a policy with a frozen copy of the head on the same base, for `critics.soft_update`."""
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
        latents = self.base.latent_base
        params = latents(self.features(observation))
        if self.deterministic:
            noise = latents.mode(params).unsqueeze(1).expand(-1, n, -1)
        else:
            noise = latents.sample(params, n, temperature)
        latent = _moved(noise, steering)
        residual = steering.residual.unsqueeze(1).expand(-1, n, -1, -1)
        return SteeredDraw(latent, residual, self.compose(observation, latent, residual))

    def compose(self, observation: Tensor, latent: Tensor, residual: Tensor) -> Tensor:
        """Return clip(base(s, latent) + scale * residual): (B, O), (B, n, *Z), (B, n, H, A) -> (B, n, H, A).

        The chunk of the base is clipped first, so the residual is added to the actions that the base would execute.
        """
        return (self.base.decode(observation, latent) + self.action_scale * residual).clamp(-1, 1)

    def propose(self, observation: Tensor, n: int = 1, temperature: float = 1.0, length: int | None = None) -> Tensor:
        return self.draw(observation, n, temperature).chunk[:, :, :length]

    def greedy(self, observation: Tensor) -> Tensor:
        """Return the chunk for the mode of the base density, steered like a sample: (B, O) -> (B, H, A)."""
        steering = self.steer(observation)
        latents = self.base.latent_base
        mode = latents.mode(latents(self.features(observation))).unsqueeze(1)
        return self.compose(observation, _moved(mode, steering), steering.residual.unsqueeze(1))[:, 0]

    def decode(self, observation: Tensor, latent: Tensor) -> Tensor:
        """Return the chunk for a latent w of the base, including the residual: (B, O), (B, *Z) -> (B, H, A)."""
        residual = self.steer(observation).residual.unsqueeze(1)
        return self.compose(observation, latent.unsqueeze(1), residual)[:, 0]

    # ------------------------------------------------------------------------------------------ densities and losses

    def latent_kl(self, observation: Tensor, steering: HeadOutput) -> Tensor:
        """Return the divergence KL(steered latent || base) at temperature 1, in nats: (B,).

        It is summed over the whole chunk. If the base density is the standard normal, the KL is exact: the sum over
        dimensions of (mean^2 + std^2 - 1) / 2 - log std. For another base, such as a mixture, it is an unbiased
        estimate: the log-ratio of the two densities at one steered sample. A deterministic latent has no density; it is
        treated as a sample of the base shifted by the mean.
        """
        mean, log_std, _ = steering
        latents = self.base.latent_base
        if isinstance(latents, GaussianBase):
            return (0.5 * (mean.square() + torch.expm1(2 * log_std)) - log_std).sum(self._latent_axes)
        params = latents(self.features(observation))
        noise = latents.sample(params, 1)
        moved = latents.log_prob(_moved(noise, steering).flatten(2), params)
        return (latents.log_prob(noise, params) - moved)[:, 0] - log_std.sum(self._latent_axes)

    def latent_log_prob(
        self, observation: Tensor, latent: Tensor, steering: HeadOutput, temperature: float = 1.0
    ) -> Tensor:
        """Return the log-density of steered latents in nats, at a temperature above 0: (B, *n, *Z) -> (B, *n).

        It is exact for any flow, because nothing is decoded. A deterministic latent is treated as in `latent_kl`.
        """
        mean, log_std = _between(steering.mean, latent), _between(steering.log_std, latent)
        samples = latent.shape[1 : latent.ndim - len(self.latent_shape)]
        noise = (latent - mean) * (-log_std).exp()
        noise = noise.reshape(len(latent), math.prod(samples), math.prod(self.latent_shape))
        params = self.base.latent_base(self.features(observation))
        log_prob = self.base.latent_base.log_prob(noise, params, temperature).reshape(len(latent), *samples)
        return log_prob - log_std.sum(self._latent_axes)

    def log_prob(self, observation: Tensor, chunk: Tensor) -> Tensor:
        """Return the log-density of chunks before any clipping: (B, O), (B, *n, H, A) -> (B, *n).

        It is that of base(s, w) + scale * residual(s), in nats and as exact as that of the base flow. A deterministic
        latent is treated as in `latent_kl`.
        """
        steering = self.steer(observation)
        residual = self.action_scale * _between(steering.residual, chunk)
        latent, log_abs_det = self.flow.to_latent(chunk - residual, self.features(observation))
        return self.latent_log_prob(observation, latent, steering) + log_abs_det

    def bc_loss(self, observation: Tensor, chunk: Tensor, weight: Tensor | None = None) -> Tensor:
        """Return the weighted mean of -`log_prob` of data chunks (B, H, A), per dimension, in nats.

        If the base normalises actions, it is in normalised units.
        """
        log_prob = self.log_prob(observation, chunk) + self.horizon * self.action_scale.log().sum()
        loss = -log_prob / chunk[0].numel()
        return loss.mean() if weight is None else (weight * loss).sum() / weight.sum()


def _between(part: Tensor, samples: Tensor) -> Tensor:
    """Insert an axis of length 1 into (B, *shape) for each sample axis of (B, *n, *shape)."""
    return part.reshape(len(part), *(1 for _ in range(samples.ndim - part.ndim)), *part.shape[1:])


def _moved(noise: Tensor, steering: HeadOutput) -> Tensor:
    """Steer noise of the base density: (B, n, D) -> latents to decode, (B, n, *Z)."""
    mean, log_std = steering.mean.unsqueeze(1), steering.log_std.unsqueeze(1)
    return noise.unflatten(-1, mean.shape[2:]) * log_std.exp() + mean
