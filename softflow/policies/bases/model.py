"""The interface of a policy of another project."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray
from torch import Tensor

from softflow.task import TaskSpec


class BaseModel(ABC):
    """A frozen policy that takes what a robot observes, by name, and returns actions in native units.

    Copies share it, because it never changes.

    Attributes:
        noise_shape: The shape of the noise that it takes beside an observation, which becomes the latent to steer.
            None if it takes none.
        feature_count: How many `features` it makes of an observation, F. 0 if it shows none.
    """

    noise_shape: tuple[int, ...] | None
    feature_count: int = 0

    @abstractmethod
    def __call__(self, observation: Mapping[str, NDArray[Any]], noise: Tensor | None, device: str) -> Any:
        """Return the chunks of B observations.

        Args:
            observation: The arrays (B, *shape) of the parts of the task, in their own dtypes.
            noise: The noise, (B, *noise_shape), float32. None if the policy takes none.
            device: The device to compute on, if it can be chosen.

        Returns:
            The chunks, (B, H, N), in native units. They are checked by the caller.
        """

    def features(self, observation: Mapping[str, NDArray[Any]], device: str) -> Any:
        """Return what the policy itself makes of observations, such as its encoding of images: (B, F).

        They are checked by the caller. It is called only if there are any.
        """
        raise NotImplementedError

    @abstractmethod
    def sha256(self) -> bytes:
        """Return the digest of everything that decides what the policy does, 32 bytes."""

    def require_task(self, task: TaskSpec) -> None:
        """Raise `UserError` if the policy is known to be of another task."""
        return

    def __deepcopy__(self, memo: dict[int, Any]) -> BaseModel:
        return self
