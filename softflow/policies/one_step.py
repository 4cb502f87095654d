"""A flow policy distilled into a network that maps a latent to a chunk in one step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from flows import ChunkFlow
from flows.mlp import hidden_layers
from softflow.policies.base import ChunkPolicy
from softflow.policies.flow_policy import FlowPolicy
from softflow.policies.normalizer import ObservationNormalizer
from softflow.policies.pixel_encoder import PixelEncoder


class OneStepPolicy(ChunkPolicy):
    """The one-step policy of flow Q-learning (FQL, arXiv 2502.02538) over action chunks:

        chunk = clip(center + scale * mu(s, z)),  z ~ p_base(z | s),

    where p_base is the density of the flow's latents, and center and scale are the policy's `action_center` and
    `action_scale`. Clipped chunks lie in [-1, 1], or strictly within if the flow has no density at the bounds.
    `distillation_loss` trains mu to match the flow's chunk for the same latent. The gradient of a critic reaches the
    policy through mu alone, so no ODE is solved to act and none is differentiated in training.

    mu has no inverse and hence no density, so the behaviour cloning loss is that of the flow. The statistics
    of observations and actions are those of the flow policy.

    Args:
        flow_policy: The policy to distil. It is used in place, not copied.
        width: Width of the hidden layers of mu.
        depth: Number of hidden layers of mu.
    """

    kind = "one_step"

    def __init__(self, flow_policy: FlowPolicy, *, width: int = 256, depth: int = 3) -> None:
        for name, size in (("width", width), ("depth", depth)):
            if size < 1:
                raise ValueError(f"{name}: expected an integer >= 1, got {size!r}")
        super().__init__(flow_policy.observation_dim, flow_policy.action_dim, flow_policy.horizon)
        self.flow_policy = flow_policy
        self.flow_name = flow_policy.flow_name
        self.options = {"width": width, "depth": depth}
        numbers = self.horizon * self.action_dim
        self.mu = hidden_layers(self.context_dim + numbers, [width] * depth)
        self.mu.append(nn.Linear(width, numbers))

    def describe(self) -> dict[str, Any]:
        return {"flow_policy": self.flow_policy.describe(), **self.options}

    @classmethod
    def build(cls, **description: Any) -> OneStepPolicy:
        options = {name: value for name, value in description.items() if name != "flow_policy"}
        if "flow_policy" not in description:
            raise ValueError("the description of a one-step policy names no flow policy")
        return cls(FlowPolicy.build(**description["flow_policy"]), **options)

    @property
    def normalizer(self) -> ObservationNormalizer:  # type: ignore[override]
        """The normaliser of the flow policy."""
        return self.flow_policy.normalizer

    @property
    def encoder(self) -> PixelEncoder | None:  # type: ignore[override]
        """The encoder of the flow policy."""
        return self.flow_policy.encoder

    @property
    def flow(self) -> ChunkFlow:  # type: ignore[override]
        """The flow of the flow policy."""
        return self.flow_policy.flow

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """The shape of a latent of the flow, (H, A)."""
        return self.flow_policy.latent_shape

    def draw(self, observation: Tensor, n: int = 1, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
        """Draw `n` latents and map them to chunks before clipping, both (B, n, H, A); differentiable in mu."""
        features = self.features(observation).detach()  # only the loss of the flow trains an encoder
        with torch.no_grad():
            latent = self.flow.base.sample(self.flow.base(features), n, temperature).unflatten(-1, self.latent_shape)
        return latent, self._mu(features, latent)

    def propose(self, observation: Tensor, n: int = 1, temperature: float = 1.0, length: int | None = None) -> Tensor:
        return self._clip(self.draw(observation, n, temperature)[1][:, :, :length])

    def greedy(self, observation: Tensor) -> Tensor:
        """Return the chunk of mu for the mode of the base density: (B, O) -> (B, H, A)."""
        features = self.features(observation)
        mode = self.flow.base.mode(self.flow.base(features)).unflatten(-1, self.latent_shape)
        return self._clip(self._mu(features, mode.unsqueeze(1))[:, 0])

    def decode(self, observation: Tensor, latent: Tensor) -> Tensor:
        return self._clip(self._mu(self.features(observation), latent.unsqueeze(1))[:, 0])

    def distillation_loss(self, observation: Tensor, latent: Tensor, chunk: Tensor) -> Tensor:
        """Return the mean squared difference between `chunk` and the flow's chunk for the same latent, a scalar.

        Differences are multiples of `action_scale`.

        The flow receives no gradient.

        Args:
            observation: Observations, (B, O).
            latent: Latents, (B, n, H, A).
            chunk: Chunks of mu for these latents before clipping, (B, n, H, A).
        """
        with torch.no_grad():
            followed = self.flow_policy.decode(observation, latent)
        return ((chunk - followed) / self.action_scale).square().mean()

    def bc_loss(self, observation: Tensor, chunk: Tensor, weight: Tensor | None = None) -> Tensor:
        """Return the loss of the flow on data chunks. It does not train mu; `distillation_loss` does."""
        return self.flow_policy.bc_loss(observation, chunk, weight)

    def _mu(self, features: Tensor, latent: Tensor) -> Tensor:
        """Apply mu and its units: features (B, C), latents (B, n, H, A) -> chunks (B, n, H, A)."""
        between = features.unsqueeze(1).expand(-1, latent.shape[1], -1)
        normalized = self.mu(torch.cat((between, latent.flatten(-2)), -1)).unflatten(-1, self.latent_shape)
        return torch.addcmul(self.action_center, self.action_scale, normalized)

    def _clip(self, chunk: Tensor) -> Tensor:
        """Clip chunks so that the flow has a density at them, because it imitates those of own episodes."""
        bound = 1 - torch.finfo(chunk.dtype).eps / 2 if self.flow.open_box else 1.0
        return chunk.clamp(-bound, bound)
