"""A frozen flow policy that a small network steers, by the latent that it decodes and by what is added to its chunk."""

from __future__ import annotations

import copy
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from flows import ChunkFlow
from flows.bases import GaussianBase, bounded
from flows.mlp import hidden_layers
from softflow.policies.base import ChunkPolicy
from softflow.policies.flow_policy import FlowPolicy
from softflow.policies.normalizer import ObservationNormalizer
from softflow.policies.pixel_encoder import PixelEncoder

WIDTHS = (256, 128, 64)
"""Hidden layers of the head, those of RFS (arXiv 2602.01789)."""

Shape = Literal["step", "chunk"]
"""Each step of a chunk has numbers of its own, (H, A), or all share one action's, (A,)."""


def zero_mlp(inputs: int, outputs: int) -> nn.Sequential:
    """Hidden layers of `WIDTHS` with ReLU, and a last one that starts at zero."""
    hidden = hidden_layers(inputs, WIDTHS, dropout=None, activation=nn.ReLU)
    last = nn.Linear(WIDTHS[-1], outputs)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return hidden.append(last)


class HeadOutput(NamedTuple):
    """What the head says, spread over the steps of the chunk where they share it."""

    mean: Tensor
    """Added to the latent, (B, H, A)."""
    log_std: Tensor
    """Logarithm of what the base's noise is multiplied by, (B, H, A)."""
    residual: Tensor
    """Added to the decoded chunk, (B, H, A)."""

    @property
    def squared_residual(self) -> Tensor:
        """Squared norm of the residual of the whole chunk, (B,)."""
        return self.residual.square().sum((-2, -1))


class SteeredDraw(NamedTuple):
    """A latent and a residual drawn together, and what they make."""

    latent: Tensor
    """What the base decodes, (B, n, H, A)."""
    residual: Tensor
    """(B, n, H, A)."""
    chunk: Tensor
    """What is executed, (B, n, H, A)."""


class SteeredPolicy(ChunkPolicy):
    """Residual flow steering (RFS, arXiv 2602.01789) on any flow, normalizing or flow matching:

        z ~ p_base(z | s),  w = z * exp(log_std(s)) + mean(s),  chunk = clip(base(s, w) + residual(s)).

    One head reads the base's normalised observation and gives all three. Its last layer starts at zero: then w is z and
    the residual is 0, and the policy is its base to the bit, greedy choice included. With the latent alone this is
    latent steering (DSRL, arXiv 2506.15799), with the residual alone residual learning on a frozen policy (Policy
    Decorator, arXiv 2412.13630).

    The base is frozen: its parameters take no gradient, and it stays in `eval()`. Observation statistics are its own.

    Args:
        base: what is steered; taken over, not copied.
        latent: whether the head moves the latent.
        residual: whether the head adds to the chunk.
        deterministic: z is the mode of the base density instead of a draw, and log_std is zero.
        latent_shape: "step" or "chunk", of mean and log_std; z has a number for each step either way.
        residual_shape: "step" or "chunk", of the residual.
        residual_bound: of the residual's every number, in units of the action box [-1, 1].
        log_std_bound: log_std stays within +- this.

    Raises:
        ValueError: nothing to steer with, an unknown shape, or a bound that is not positive.
    """

    kind = "steered"

    def __init__(
        self,
        base: FlowPolicy,
        *,
        latent: bool = True,
        residual: bool = True,
        deterministic: bool = False,
        latent_shape: Shape = "step",
        residual_shape: Shape = "step",
        residual_bound: float = 0.1,
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
        shapes = {"mean": latent_shape, "log_std": latent_shape, "residual": residual_shape}
        self._steps = {name: base.horizon if shapes[name] == "step" else 1 for name, used in parts.items() if used}
        self.head = zero_mlp(base.context_dim, sum(self._steps.values()) * base.action_dim)

    def train(self, mode: bool = True) -> SteeredPolicy:
        """As of any module, but the base stays in `eval()`."""
        super().train(mode)
        self.base.eval()
        return self

    def twin(self) -> SteeredPolicy:
        """The same policy with a frozen head of its own on the same base, to be moved by `critics.soft_update`."""
        twin = copy.deepcopy(self, {id(self.base): self.base})
        twin.head.requires_grad_(False)
        return twin.eval()

    def describe(self) -> dict[str, Any]:
        return {"base": self.base.describe(), **self.options}

    @classmethod
    def build(cls, **description: Any) -> SteeredPolicy:
        options = {name: value for name, value in description.items() if name != "base"}
        if "base" not in description:
            raise ValueError("the description of a steered policy names no base")
        return cls(FlowPolicy.build(**description["base"]), **options)

    @property
    def normalizer(self) -> ObservationNormalizer:  # type: ignore[override]
        """The base's."""
        return self.base.normalizer

    @property
    def encoder(self) -> PixelEncoder | None:  # type: ignore[override]
        """The base's."""
        return self.base.encoder

    @property
    def flow(self) -> ChunkFlow:  # type: ignore[override]
        """The base's."""
        return self.base.flow

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Shape of a latent of the base, (H, A)."""
        return self.base.latent_shape

    # ---------------------------------------------------------------------------------------------- what is proposed

    def steer(self, observation: Tensor) -> HeadOutput:
        """What the head says of each observation (B, O); zero for what it does not steer."""
        flat = self.head(self.features(observation))
        parts = dict(zip(self._steps, flat.split([n * self.action_dim for n in self._steps.values()], -1), strict=True))
        unused = flat.new_zeros(flat.shape[0], self.action_dim)

        def spread(name: str) -> Tensor:
            part = parts.get(name, unused).unflatten(-1, (-1, self.action_dim))
            return part.expand(-1, self.horizon, -1)

        return HeadOutput(
            mean=spread("mean"),
            log_std=bounded(spread("log_std"), self.log_std_bound),
            residual=self.residual_bound * spread("residual").tanh(),
        )

    def draw(
        self, observation: Tensor, n: int = 1, temperature: float = 1.0, steering: HeadOutput | None = None
    ) -> SteeredDraw:
        """`n` latents, residuals and chunks for each observation (B, O); differentiable in what the head says.

        `temperature` is that of the base density's noise, as in `ChunkFlow.sample`. `steering` is what `steer` said of
        these observations, if it was asked already.
        """
        steering = self.steer(observation) if steering is None else steering
        params = self.flow.base(self.features(observation))
        if self.deterministic:
            noise = self.flow.base.mode(params).unsqueeze(1).expand(-1, n, -1)
        else:
            noise = self.flow.base.sample(params, n, temperature)
        latent = _moved(noise, steering)
        residual = steering.residual.unsqueeze(1).expand_as(latent)
        return SteeredDraw(latent, residual, self.compose(observation, latent, residual))

    def compose(self, observation: Tensor, latent: Tensor, residual: Tensor) -> Tensor:
        """clip(base(s, latent) + residual): (B, O), two of (B, n, H, A) -> (B, n, H, A).

        The base's chunk is clipped first, so that the residual is added to what the base would have executed.
        """
        chunk = self.flow.generate(latent.flatten(-2), self.flow.embed(self.features(observation)))
        return (chunk.unflatten(-1, self.latent_shape).clamp(-1, 1) + residual).clamp(-1, 1)

    def propose(self, observation: Tensor, n: int = 1, temperature: float = 1.0, length: int | None = None) -> Tensor:
        return self.draw(observation, n, temperature).chunk[:, :, :length]

    def greedy(self, observation: Tensor) -> Tensor:
        """The chunk of the base density's mode, moved as a draw would be."""
        steering = self.steer(observation)
        mode = self.flow.base.mode(self.flow.base(self.features(observation))).unsqueeze(1)
        return self.compose(observation, _moved(mode, steering), steering.residual.unsqueeze(1))[:, 0]

    def decode(self, observation: Tensor, latent: Tensor) -> Tensor:
        """The chunk that is executed for a latent w of the base, residual included."""
        residual = self.steer(observation).residual.unsqueeze(1)
        return self.compose(observation, latent.unsqueeze(1), residual)[:, 0]

    # ----------------------------------------------------------------------------------------- what a learner needs

    def latent_kl(self, observation: Tensor, steering: HeadOutput) -> Tensor:
        """KL of the steered latent's density to the base's own at temperature 1, of the whole chunk, in nats: (B,).

        Exact where the base density is the standard normal: the sum over dimensions of
        (mean^2 + std^2 - 1) / 2 - log std. For another, such as a mixture, the log-ratio of both densities at one
        steered draw, whose expectation it is. A deterministic latent has no density: it counts as a draw of the base
        that is moved by the mean alone.
        """
        mean, log_std, _ = steering
        if isinstance(self.flow.base, GaussianBase):
            return (0.5 * (mean.square() + torch.expm1(2 * log_std)) - log_std).sum((-2, -1))
        params = self.flow.base(self.features(observation))
        noise = self.flow.base.sample(params, 1)
        moved = self.flow.base.log_prob(_moved(noise, steering).flatten(-2), params)
        return (self.flow.base.log_prob(noise, params) - moved)[:, 0] - log_std.sum((-2, -1))

    def latent_log_prob(
        self, observation: Tensor, latent: Tensor, steering: HeadOutput, temperature: float = 1.0
    ) -> Tensor:
        """Log-density in nats of latents as `draw` moves them, at a temperature above 0: (B, *n, H, A) -> (B, *n).

        Exact whatever the flow, for nothing is decoded. A deterministic latent as in `latent_kl`.
        """
        mean, log_std = _between(steering.mean, latent), _between(steering.log_std, latent)
        noise = ((latent - mean) * (-log_std).exp()).reshape(len(latent), -1, self.horizon * self.action_dim)
        params = self.flow.base(self.features(observation))
        log_prob = self.flow.base.log_prob(noise, params, temperature).reshape(latent.shape[:-2])
        return log_prob - log_std.sum((-2, -1))

    def log_prob(self, observation: Tensor, chunk: Tensor) -> Tensor:
        """Log-density in nats of base(s, w) + residual(s) before any clipping: (B, O), (B, *n, H, A) -> (B, *n).

        As exact as the base flow's own; a deterministic latent as in `latent_kl`.
        """
        steering = self.steer(observation)
        residual = _between(steering.residual, chunk)
        latent, log_abs_det = self.flow.to_latent(chunk - residual, self.features(observation))
        return self.latent_log_prob(observation, latent, steering) + log_abs_det

    def bc_loss(self, observation: Tensor, chunk: Tensor, weight: Tensor | None = None) -> Tensor:
        """Mean of -`log_prob` of data chunks (B, H, A), weighted and per dimension, in nats."""
        loss = -self.log_prob(observation, chunk) / chunk[0].numel()
        return loss.mean() if weight is None else (weight * loss).sum() / weight.sum()


def _between(part: Tensor, samples: Tensor) -> Tensor:
    """(B, H, A) with an axis of length 1 for each sample axis of (B, *n, H, A)."""
    return part.reshape(len(part), *(1 for _ in samples.shape[1:-2]), *part.shape[1:])


def _moved(noise: Tensor, steering: HeadOutput) -> Tensor:
    """Noise of the base density (B, n, D) -> the latent that is decoded, (B, n, H, A)."""
    mean, log_std = steering.mean.unsqueeze(1), steering.log_std.unsqueeze(1)
    return noise.unflatten(-1, mean.shape[-2:]) * log_std.exp() + mean
