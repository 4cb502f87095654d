"""A policy that is a conditional density over action chunks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from flows import make_flow
from flows.bases import LatentBase
from softflow.policies.base_policy import BasePolicy
from softflow.policies.normalizer import ObservationNormalizer
from softflow.policies.pixel_encoder import PixelEncoder
from softflow.task.layout import ObservationLayout, ObservationSize


class FlowPolicy(BasePolicy):
    """Policy pi(chunk | observation): a `flows.ChunkFlow` conditioned on the normalised observation.

    A `PixelEncoder` reads packed observations. The context of the flow is then the features of the images, followed by
    the normalised numbers.

    Data chunks lie in [-1, 1]. Samples are clipped to this box when they are executed or evaluated. Log-probabilities
    are always those of the chunk before clipping.

    Args:
        observation_dim: Dimension of the observation, O, or the layout of packed observations.
        action_dim: Dimension of an action, A.
        horizon: Number of actions in a chunk, H.
        flow: Name of a flow in `flows.make_flow`.
        flow_options: Options of the flow.
        encoder: Name of an image encoder in `pixel_encoder.ENCODERS`, or of a network of timm. None uses `conv` if
            there are images.
        encoder_options: Options of the encoder.
        normalize_actions: Whether the flow is a density over normalised actions, see `flows.NormalizedFlow`. Their
            statistics are saved with the policy. Policies of earlier versions did not normalise actions.

    Raises:
        ValueError: An encoder or its options are given, but there are no images; see also `flows.make_flow` and
            `PixelEncoder`.
        ImportError: The package of the flow or of the encoder is missing.
    """

    kind = "flow"

    def __init__(
        self,
        observation_dim: ObservationSize,
        action_dim: int,
        horizon: int,
        flow: str = "coupling",
        flow_options: Mapping[str, Any] | None = None,
        encoder: str | None = None,
        encoder_options: Mapping[str, Any] | None = None,
        normalize_actions: bool = False,
    ) -> None:
        if isinstance(observation_dim, ObservationLayout):
            super().__init__(observation_dim.size, action_dim, horizon)
            self.normalizer = ObservationNormalizer(observation_dim.number_count)
            self.encoder = PixelEncoder(observation_dim, encoder or "conv", **(encoder_options or {}))
        else:
            if encoder is not None or encoder_options:
                raise ValueError(f"encoder {encoder!r} {dict(encoder_options or {})}: the observation has no images")
            super().__init__(observation_dim, action_dim, horizon)
            self.normalizer, self.encoder = ObservationNormalizer(observation_dim), None
        self.flow_name, self.flow_options = flow, dict(flow_options or {})
        self.normalize_actions = normalize_actions
        self.flow = make_flow(
            flow,
            horizon=horizon,
            action_dim=action_dim,
            context_dim=self.context_dim,
            normalize=normalize_actions,
            **self.flow_options,
        )

    def describe(self) -> dict[str, Any]:
        """Return the arguments that rebuild this policy."""
        description: dict[str, Any] = {
            "observation_dim": self.observation_dim,
            "action_dim": self.action_dim,
            "horizon": self.horizon,
            "flow": self.flow_name,
            "flow_options": self.flow_options,
            "normalize_actions": self.normalize_actions,
        }
        return description if self.encoder is None else {**description, **self.encoder.describe()}

    @classmethod
    def build(cls, **description: Any) -> FlowPolicy:
        """Build a policy from the result of `describe`. Nothing is downloaded, and no file is read.

        Raises:
            ValueError: The encoder is the ResNet-18 of earlier versions, which was pooled otherwise.
        """
        parts, options = description.get("observation_dim"), description.get("encoder_options") or {}
        if description.get("encoder") == "resnet18" and "pool" not in options:
            raise ValueError("its encoder is 'resnet18' of an earlier softflow: use that one, or train it again")
        if "weights" in options or "download" in options:
            description["encoder_options"] = {**options, "weights": "", "download": False}
        if isinstance(parts, list):
            description["observation_dim"] = ObservationLayout.build(parts)
        return cls(**description)

    @property
    def latent_shape(self) -> tuple[int, ...]:
        return self.flow.latent_shape

    @property
    def latent_base(self) -> LatentBase:
        return self.flow.base

    def propose(self, observation: Tensor, n: int = 1, temperature: float = 1.0, length: int | None = None) -> Tensor:
        return self.sample(observation, n, temperature, length).clamp(-1, 1)

    def sample(self, observation: Tensor, n: int = 1, temperature: float = 1.0, length: int | None = None) -> Tensor:
        return self.flow.sample(self.features(observation), n, temperature, length)

    def greedy(self, observation: Tensor) -> Tensor:
        return self.flow.mode(self.features(observation)).clamp(-1, 1)

    def propose_with_log_prob(self, observation: Tensor, n: int = 1) -> tuple[Tensor, Tensor]:
        """Draw differentiable chunks before clipping, (B, n, H, A), with log-densities, (B, n), in one pass."""
        return self.flow.rsample_and_log_prob(self.features(observation), n)

    def log_prob(self, observation: Tensor, chunk: Tensor) -> Tensor:
        """Return log pi(chunk | observation) in nats, as exact as the flow's: (B, O), (B, *n, H, A) -> (B, *n).

        It is the density per unit of the action in [-1, 1], whether or not the policy normalises actions.
        """
        return self.flow.log_prob(chunk, self.features(observation))

    def decode(self, observation: Tensor, latent: Tensor) -> Tensor:
        return self.flow.chunk_from(latent, self.features(observation)).clamp(-1, 1)

    def bc_loss(self, observation: Tensor, chunk: Tensor, weight: Tensor | None = None) -> Tensor:
        """Return the `loss` of the flow.

        It is the negative log-likelihood per dimension, L_IL of SOFT-FLOW (arXiv 2602.09580), unless the flow's
        `loss_is_nll` is False. If the policy normalises actions, it is in normalised units.
        """
        return self.flow.loss(chunk, self.features(observation), weight)
