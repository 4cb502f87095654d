"""The interface between the training loop and policies over action chunks."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from flows import ChunkFlow, NormalizedFlow
from softflow.policies.normalizer import ObservationNormalizer
from softflow.policies.pixel_encoder import PixelEncoder
from softflow.task import TaskSpec
from softflow.task.layout import ObservationSize


class ChunkPolicy(nn.Module, ABC):
    """A distribution over action chunks in [-1, 1], given an observation.

    Shapes: B batch, n samples, O observation dim, H horizon, A action dim.

    Attributes:
        kind: The name of this class in descriptions.
        normalizer: Normalises the numbers of an observation with their statistics.
        encoder: Encodes the images in packed observations. None if observations have no images.
        flow: Maps latents to chunks, given the features of an observation.
        flow_name: The name of the flow in `flows.make_flow`.
        horizon: Number of actions in a proposed chunk, H.
        action_dim: Dimension of an action, A.
    """

    kind: ClassVar[str]
    normalizer: ObservationNormalizer
    encoder: PixelEncoder | None
    flow: ChunkFlow
    flow_name: str

    def __init__(self, observation_dim: int, action_dim: int, horizon: int) -> None:
        super().__init__()
        self.observation_dim = observation_dim
        self.action_dim = action_dim
        self.horizon = horizon

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Return plain values from which `build` rebuilds this policy, without its weights."""

    @classmethod
    @abstractmethod
    def build(cls, **description: Any) -> ChunkPolicy:
        """Build a policy from the result of `describe`."""

    @property
    def learnt(self) -> nn.Module:
        """The part whose weights online training changes. It is the policy itself unless a part of it is frozen."""
        return self

    def twin(self) -> Self:
        """Return a frozen copy, which shares what is not `learnt`."""
        return copy.deepcopy(self).requires_grad_(False).eval()

    @property
    def context_dim(self) -> int:
        """The number of features, C."""
        return len(self.normalizer.mean) + (self.encoder.feature_count if self.encoder is not None else 0)

    def features(self, observation: Tensor) -> Tensor:
        """Return the features, which are the context of the flow and of a critic: (B, O) -> (B, C).

        The results of `encoded` and `read` are taken as well.
        """
        if self.encoder is None:
            return self.normalizer(observation)
        return torch.cat((self.encoder(observation), self.normalizer(self.encoder.numbers(observation))), -1)

    def encoded(self, observation: Tensor) -> Tensor:
        """Return what every method takes in place of packed observations, so that it is computed once: (B, E).

        These are features of a frozen image encoder, rounded to float16. Other observations are returned as they are.
        """
        if self.encoder is None or not self.encoder.is_frozen or observation.dtype != torch.uint8:
            return observation
        return self.encoder.encode(observation)

    def read(self, observation: Tensor) -> Tensor:
        """Return what every method takes in place of observations while the image encoder does not change: (B, R).

        Policies with the same weights in their encoders may share it. No gradient reaches the encoder. Observations
        without images, and those that were read, are returned as they are.
        """
        if self.encoder is None or observation.dtype == torch.int32:
            return observation
        return self.encoder.read(observation)

    @property
    def normalizes_actions(self) -> bool:
        """Whether the flow models normalised actions."""
        return isinstance(self.flow, NormalizedFlow)

    @property
    def action_center(self) -> Tensor:
        """The centre of each action dimension in [-1, 1], (A,); zeros if the flow does not normalise actions."""
        if isinstance(self.flow, NormalizedFlow):
            return self.flow.action_center
        return self.normalizer.mean.new_zeros(self.action_dim)

    @property
    def action_scale(self) -> Tensor:
        """The scale of each action dimension in [-1, 1], (A,); ones if the flow does not normalise actions."""
        if isinstance(self.flow, NormalizedFlow):
            return self.flow.action_scale
        return self.normalizer.mean.new_ones(self.action_dim)

    def require_statistics(self) -> None:
        """Raise RuntimeError if statistics of observations or actions are missing or invalid."""
        for module in self.modules():
            if isinstance(module, ObservationNormalizer | NormalizedFlow):
                module.require_statistics()

    def take_statistics(self, policy: ChunkPolicy) -> None:
        """Copy the statistics of observations and actions from a policy with the same description."""
        self.normalizer.load_state_dict(policy.normalizer.state_dict())
        if isinstance(self.flow, NormalizedFlow) and isinstance(policy.flow, NormalizedFlow):
            self.flow.fit(policy.flow.center, policy.flow.scale, policy.flow.noise)

    def require_task(self, task: TaskSpec) -> None:
        """Check that the observations and actions of a task have the policy's sizes.

        Raises:
            ValueError: A size differs.
        """
        own, given = (_sizes(size) for size in (self.observation_size, task.observation_size))
        if own != given:
            raise ValueError(f"the task has observations of {given}, the policy of {own}: it is another task's policy")
        if task.action_dim != self.action_dim:
            raise ValueError(
                f"the task has actions of {task.action_dim} numbers, the policy of {self.action_dim}: it is another "
                "task's policy"
            )

    @property
    def observation_size(self) -> ObservationSize:
        """O, or the layout of packed observations."""
        return self.encoder.layout if self.encoder is not None else self.observation_dim

    @property
    @abstractmethod
    def latent_shape(self) -> tuple[int, ...]:
        """The shape of a latent that `decode` takes."""

    @abstractmethod
    def propose(self, observation: Tensor, n: int = 1, temperature: float = 1.0, length: int | None = None) -> Tensor:
        """Draw `n` differentiable candidate chunks, clipped to the box: (B, O) -> (B, n, H, A).

        With a `length`, return only the first `length` actions of the same chunks, (B, n, length, A), which may be
        faster.
        """

    def sample(self, observation: Tensor, n: int = 1, temperature: float = 1.0, length: int | None = None) -> Tensor:
        """Draw the same chunks as `propose`, as `bc_loss` may learn from them: (B, O) -> (B, n, H, A).

        A density returns them before they are clipped, because a clipped chunk is not a sample of it and may be very
        unlikely. A policy whose chunks are composed and clipped by construction returns those of `propose`.
        """
        return self.propose(observation, n, temperature, length)

    @abstractmethod
    def decode(self, observation: Tensor, latent: Tensor) -> Tensor:
        """Decode a latent to a chunk, clipped to the box: (B, O), (B, *latent_shape) -> (B, H, A)."""

    @abstractmethod
    def bc_loss(self, observation: Tensor, chunk: Tensor, weight: Tensor | None = None) -> Tensor:
        """Return the behaviour cloning loss on data chunks (B, H, A), a scalar to minimise along with -Q."""

    @abstractmethod
    def greedy(self, observation: Tensor) -> Tensor:
        """Return the greedy chunk, decoded from the most likely latent and clipped to the box: (B, O) -> (B, H, A)."""


def _sizes(observation: ObservationSize) -> str:
    """Return the names and sizes of the parts of an observation, for messages."""
    if isinstance(observation, int):
        return f"{observation} numbers"
    return ", ".join(
        f"{part.name} {part.shape}" if part.is_image else f"{part.name} ({part.size} numbers)"
        for part in observation.parts
    )
