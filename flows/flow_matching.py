"""Conditional flow matching: an ODE whose velocity is learned by regression instead of maximum likelihood."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flows.base import ChunkFlow, require_positive
from flows.bases import GaussianBase
from flows.registry import register_flow

FREQUENCIES = 5  # of the time embedding: 1/4, 1/2, 1, 2 and 4 periods in the unit interval


class Block(nn.Module):
    """Residual block with FiLM conditioning, which starts at scale 1 and shift 0 (Perez et al., arXiv 1709.07871)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.modulation = nn.Linear(width, 2 * width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)
        self.hidden = nn.Linear(width, width)
        self.output = nn.Linear(width, width)

    def forward(self, h: Tensor, condition: Tensor) -> Tensor:
        scale, shift = self.modulation(condition).chunk(2, -1)
        return h + self.output(F.silu(self.hidden(torch.addcmul(shift, h, 1 + scale))))


class Velocity(nn.Module):
    """Residual network from a point, its time and the projected context to the velocity at that point.

    Time and context modulate every block, by scale and shift. Adding them to the first layer alone is not enough for a
    policy: trained on 100 demonstrations of `tape_cut`, such a network of the same width succeeded in 4 of 100
    episodes, this one in 72 (one seed, 8,000 updates).
    """

    angular: Tensor

    def __init__(self, dim: int, width: int, depth: int) -> None:
        super().__init__()
        self.time = nn.Linear(2 * FREQUENCIES, width, bias=False)  # the projected context contains the bias
        self.condition = nn.Sequential(nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.input = nn.Linear(dim, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(depth))
        self.output = nn.Linear(width, dim)
        self.register_buffer("angular", math.pi / 2 * 2.0 ** torch.arange(FREQUENCIES), persistent=False)

    def forward(self, point: Tensor, time: Tensor, context: Tensor) -> Tensor:
        """Points (B, N, D) at times (..., 1) in [0, 1], contexts (B, 1, width) -> velocities (B, N, D)."""
        angle = time * self.angular
        condition = self.condition(context + self.time(torch.cat((angle.cos(), angle.sin()), -1)))
        h = self.input(point)
        for block in self.blocks:
            h = block(h, condition)
        return self.output(h)


@register_flow("flow_matching")
class FlowMatchingFlow(ChunkFlow):
    """Conditional flow matching along straight paths. An ODE transports a latent z ~ N(0, I) to a chunk a,

        dx/dt = v(x, t, context),  x(0) = z,  x(1) = a.

    It is solved in `steps` equal steps, so the chunk is a deterministic function of its latent. The velocity is learned
    by regression on a - z at x_t = (1 - t) z + t a. Hence `loss` is **not a likelihood** (see `row_loss`).

    `to_latent` integrates the same ODE backwards. It inverts `to_chunk` up to an error of order 1 / steps (euler) or
    1 / steps^3 (midpoint, whose second-order errors cancel on the way back); `round_trip_error` measures it. Inverting
    the steps themselves does not work: those of a well-trained sampler are nearly singular, so the exact inverse is a
    latent far from the origin, or does not exist.

    `log_prob` and the log-determinants cost several times as much as a sample.

    * For chunks of up to `exact_dims` numbers, they are exact for the discretised maps and use the Jacobian of each
      step (D backward passes). `log_prob` follows from the map of `to_latent`, `rsample_and_log_prob` from the map of
      `to_chunk`, and the two differ by the round-trip error.
    * For larger chunks they **estimate** the log-determinant of the ODE, the integral of the velocity's divergence.
      Hutchinson's trace estimator draws one Rademacher probe per call and takes one backward pass per step. The
      estimate is unbiased for the discretised integral and differs from call to call. Its exponential is biased.

    `sample` and `mode` do not compute a determinant.

    Lipman et al., Flow Matching for Generative Modeling, ICLR 2023, arXiv 2210.02747 (eq. 22 and 23 at sigma_min = 0;
    eq. 4 and appendix C for the density).

    Args:
        horizon, action_dim, context_dim: See `ChunkFlow`.
        width: Hidden width of the velocity network.
        depth: Number of residual blocks, of two layers each.
        steps: Number of solver steps in either direction. More steps are more exact and slower.
        solver: "midpoint" evaluates the velocity twice per step, "euler" once. Euler is far less exact at equal cost;
            ten of its steps visibly narrow a density.
        exact_dims: Chunks of up to this many numbers have exact log-determinants. Their cost grows with the size of the
            chunk.
    """

    loss_is_nll = False
    exact_density = False
    guidable = True

    def __init__(
        self,
        *,
        horizon: int,
        action_dim: int,
        context_dim: int,
        width: int = 256,
        depth: int = 3,
        steps: int = 10,
        solver: str = "midpoint",
        exact_dims: int = 16,
    ) -> None:
        super().__init__(horizon=horizon, action_dim=action_dim, context_dim=context_dim)
        require_positive(width=width, depth=depth, steps=steps)
        if solver not in ("euler", "midpoint"):
            raise ValueError(f"solver: expected 'euler' or 'midpoint', got {solver!r}")
        if not isinstance(exact_dims, int) or exact_dims < 0:
            raise ValueError(f"exact_dims: expected an integer >= 0, got {exact_dims!r}")
        self.dim = horizon * action_dim
        self.steps = steps
        self.solver = solver
        self.exact_dims = exact_dims
        self.context = nn.Linear(context_dim, width)
        self.velocity = Velocity(self.dim, width, depth)
        self.base = GaussianBase(self.dim)

    def embed(self, context: Tensor) -> Tensor:
        """Project the context, which modulates the blocks of the velocity: (B, C) -> (B, 1, width)."""
        return self.context(context).unsqueeze(1)

    def encode(self, chunk: Tensor, embedding: Tensor) -> tuple[Tensor, Tensor]:
        return self._integrate(chunk, embedding, start=1.0, end=0.0)

    def decode(self, latent: Tensor, embedding: Tensor) -> tuple[Tensor, Tensor]:
        return self._integrate(latent, embedding, start=0.0, end=1.0)

    def generate(self, latent: Tensor, embedding: Tensor, length: int | None = None) -> Tensor:
        for i in range(self.steps):
            latent = self._step(latent, i / self.steps, 1 / self.steps, embedding)
        return self._first(latent, length)

    def guide(self, latent: Tensor, embedding: Tensor, known: Tensor, weight: Tensor, strength: float) -> Tensor:
        """Decode latents with pseudoinverse guidance, as real-time chunking does (arXiv 2506.07339, eq. 2 to 4).

        From a point x_t, the ODE is expected to end in e = x_t + (1 - t) v. The velocity becomes

            v + g_t * (de/dx_t)^T (weight * (known - e)),  g_t = min(strength, (t^2 + (1 - t)^2) / (t (1 - t))).
        """
        size = 1 / self.steps
        for i in range(self.steps):
            where, when = self._evaluation(latent, i * size, size, embedding)
            latent = latent + size * self._guided_velocity(where, when, embedding, known, weight, strength)
        return latent

    def row_loss(self, chunk: Tensor, context: Tensor) -> Tensor:
        """Return |v(x_t, t, context) - (a - z)|^2 at a random z ~ N(0, I), t ~ U(0, 1): (B, H, A), (B, C) -> (B,).

        This is the regression loss of flow matching. Each call draws one z and one t per row, in `eval()` as well. The
        loss is **not a likelihood**, nor a bound on one. Its minimum is the variance of a - z given x_t, not zero, and
        it cannot be compared with the loss of another flow.
        """
        target = self._flat(chunk, context)
        noise, time = torch.randn_like(target), target.new_empty(len(target), 1, 1).uniform_()
        velocity = self.velocity(torch.lerp(noise, target, time), time, self.embed(context))
        return (velocity - (target - noise)).square().sum((-2, -1))

    def round_trip_error(self, chunk: Tensor, context: Tensor) -> Tensor:
        """Return the largest error of chunk -> latent -> chunk in any number: (B, *n, H, A), (B, C) -> (B, *n)."""
        flat, embedding = self._flat(chunk, context), self.embed(context)
        latent = flat
        for i in range(self.steps):
            latent = self._step(latent, 1 - i / self.steps, -1 / self.steps, embedding)
        return (self.generate(latent, embedding) - flat).abs().amax(-1).reshape(chunk.shape[:-2])

    def _integrate(self, point: Tensor, embedding: Tensor, start: float, end: float) -> tuple[Tensor, Tensor]:
        size = (end - start) / self.steps
        # Vector-Jacobian products with the rows of the identity give a Jacobian; one random row estimates its trace.
        exact = self.dim <= self.exact_dims
        probe = torch.eye(self.dim).to(point) if exact else 2.0 * torch.randint_like(point, 2) - 1.0
        log_abs_det = point.new_zeros(point.shape[:-1])
        for i in range(self.steps):
            step = self._step_with_log_det if exact else self._step_with_divergence
            point, change = step(point, start + i * size, size, embedding, probe)
            log_abs_det = log_abs_det + change
        return point, log_abs_det

    def _step_with_log_det(
        self, point: Tensor, time: float, size: float, embedding: Tensor, identity: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Take a step; return the new point and the log-determinant of the step's Jacobian."""
        after, pullback = torch.func.vjp(lambda x: self._step(x, time, size, embedding), point)[:2]
        rows = identity[:, None, None].expand(-1, *point.shape)  # (D, B, N, D)
        (jacobian,) = torch.func.vmap(pullback)(rows)
        return after, torch.linalg.slogdet(jacobian.movedim(0, -2)).logabsdet

    def _step_with_divergence(
        self, point: Tensor, time: float, size: float, embedding: Tensor, probe: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Take a step; return the new point and an estimate of the divergence's integral by the solver's rule."""
        where, when = self._evaluation(point, time, size, embedding)
        velocity, pullback = torch.func.vjp(lambda x: self._velocity(x, when, embedding), where)[:2]
        return point + size * velocity, size * torch.linalg.vecdot(pullback(probe)[0], probe)

    def _step(self, point: Tensor, time: float, size: float, embedding: Tensor) -> Tensor:
        return point + size * self._velocity(*self._evaluation(point, time, size, embedding), embedding)

    def _evaluation(self, point: Tensor, time: float, size: float, embedding: Tensor) -> tuple[Tensor, float]:
        """Return the point and the time at which a step from `point` evaluates the velocity."""
        if self.solver == "euler":
            return point, time
        return point + size / 2 * self._velocity(point, time, embedding), time + size / 2

    def _guided_velocity(
        self, point: Tensor, time: float, embedding: Tensor, known: Tensor, weight: Tensor, strength: float
    ) -> Tensor:
        velocity, pullback = torch.func.vjp(lambda x: self._velocity(x, time, embedding), point)[:2]
        missing = weight * (known - (point + (1 - time) * velocity))
        gain = (time**2 + (1 - time) ** 2) / (time * (1 - time)) if time > 0 else math.inf
        return velocity + min(strength, gain) * (missing + (1 - time) * pullback(missing)[0])

    def _velocity(self, point: Tensor, time: float, embedding: Tensor) -> Tensor:
        return self.velocity(point, point.new_full((1,), time), embedding)
