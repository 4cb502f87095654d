"""What steering needs of the frozen policy that it steers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor

from flows.bases import LatentBase
from softflow.policies.base import ChunkPolicy


class BasePolicy(ChunkPolicy, ABC):
    """A policy that decodes latents of a known density to chunks, so that a `SteeredPolicy` can steer it.

    Besides a latent and its `decode`, steering needs the `features` of an observation, which the head and the critic
    read, and the `action_scale`, in multiples of which a residual is given.

    A `FlowPolicy`, such as that of a run, is one, and so is a `SteeredPolicy`. `ForeignPolicy` makes one of any other
    policy.
    """

    @classmethod
    @abstractmethod
    def build(cls, **description: Any) -> BasePolicy:
        """Build a policy from the result of `describe`."""

    @property
    @abstractmethod
    def latent_shape(self) -> tuple[int, ...]:
        """The shape Z of a latent that `decode` takes. A policy without a latent has a latent of no numbers, (0,)."""

    @property
    @abstractmethod
    def latent_base(self) -> LatentBase:
        """The density of flat latents, given the features of an observation."""

    @abstractmethod
    def decode(self, observation: Tensor, latent: Tensor) -> Tensor:
        """Decode latents to chunks, clipped to the box: (B, O), (B, *n, *Z) -> (B, *n, H, A).

        A method that follows the gradient of a critic needs the result to be differentiable in the latent.
        """

    def to_latent(self, observation: Tensor, chunk: Tensor) -> tuple[Tensor, Tensor]:
        """Return the inverse of `decode` before any clipping: (B, O), (B, *n, H, A) -> (B, *n, *Z), (B, *n).

        It is as exact as that of the flow. The second result is the log-determinant of the inverse.

        Raises:
            UserError: The policy has no flow.
        """
        return self.flow.to_latent(chunk, self.features(observation))
