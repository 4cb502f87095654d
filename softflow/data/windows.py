"""Windows of a replay, as arrays and as tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np

if TYPE_CHECKING:
    import torch

ArrayT = TypeVar("ArrayT")


@dataclass(frozen=True, eq=False)
class Windows(Generic[ArrayT]):
    """B windows of up to H steps, as numpy arrays or (see `to_torch`) tensors.

    Attributes:
        observation: (B, O) float32, or uint8 if they are packed, where the window starts.
        chunk: (B, H, A) float32, the actions executed; beyond `length` the last of them is held, so that the steps
            just before an episode's end have whole chunks to learn from.
        mask: (B, H) bool, True for the first `length` steps.
        reward: (B, H) float32, per step; zero beyond `length`.
        length: (B,) int64, k = min(H, steps left in the episode), at least 1.
        next_observation: (B, O) of the same dtype, k steps on; the true final observation where the episode ends.
        terminated: (B,) bool, the window reaches the end of its episode and that end is terminal: do not bootstrap.
            False at a time limit.
        success: (B,) bool, the episode solved the task.
        return_to_go: (B,) float32, undiscounted sum of rewards from here to the end of the episode.
        row: (B,) int64, the row of the replay where the window starts.
    """

    observation: ArrayT
    chunk: ArrayT
    mask: ArrayT
    reward: ArrayT
    length: ArrayT
    next_observation: ArrayT
    terminated: ArrayT
    success: ArrayT
    return_to_go: ArrayT
    row: ArrayT


def to_torch(windows: Windows[np.ndarray], device: str | torch.device = "cpu") -> Windows[torch.Tensor]:
    """The same windows as tensors on `device`, dtypes kept. On the CPU they share memory."""
    import torch  # only here, so that processes that step environments need not load it

    return Windows(**{f.name: torch.from_numpy(getattr(windows, f.name)).to(device) for f in fields(Windows)})


def observation_tensor(observation: np.ndarray, device: str | torch.device = "cpu") -> torch.Tensor:
    """An environment's observations (B, O) as a policy takes them: packed ones as they are, numbers as float32."""
    import torch

    return torch.as_tensor(as_learned(observation), device=device)


def concatenate(windows: Sequence[Windows[np.ndarray]]) -> Windows[np.ndarray]:
    """One batch of all `windows`, in order; they share one horizon."""
    return Windows(**{f.name: np.concatenate([getattr(w, f.name) for w in windows]) for f in fields(Windows)})


def as_learned(observation: np.ndarray) -> np.ndarray:
    """Packed observations as they are, numbers as float32."""
    return observation if observation.dtype == np.uint8 else observation.astype(np.float32, copy=False)
