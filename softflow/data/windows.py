"""Windows of a replay as arrays or tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np

if TYPE_CHECKING:
    import torch

ArrayT = TypeVar("ArrayT")
OF_IMAGES = np.uint8, np.int16, np.int32
"""Dtypes of observations with images: packed, encoded and read. Their numbers are bytes."""


@dataclass(frozen=True, eq=False)
class Windows(Generic[ArrayT]):
    """B windows of up to H steps, as numpy arrays or (see `to_torch`) tensors.

    Attributes:
        observation: (B, O) float32, or uint8 if packed, int16 if encoded, int32 if read: the observation at the start
            of the window.
        chunk: (B, H, A) float32, the actions executed. Beyond `length` the last action is repeated, so that the last
            steps of an episode have whole chunks to learn from as well.
        mask: (B, H) bool, True for the first `length` steps.
        reward: (B, H) float32, the reward of each step, zero beyond `length`.
        length: (B,) int64, the length k = min(H, steps left in the episode), at least 1.
        next_observation: (B, O) of the same dtype, the observation k steps later. At the end of an episode this is the
            true final observation.
        terminated: (B,) bool, whether the window reaches a terminal end of its episode, so that values must not be
            bootstrapped. False at a time limit.
        success: (B,) bool, whether the episode solved the task.
        return_to_go: (B,) float32, the undiscounted sum of rewards from the start of the window to the end of the
            episode.
        row: (B,) int64, the row of the replay at which the window starts.
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
    """Return the windows as tensors of the same dtypes on `device`. On the CPU they share memory with the arrays."""
    import torch  # imported here, so that processes that step environments need not load it

    return Windows(**{f.name: torch.from_numpy(getattr(windows, f.name)).to(device) for f in fields(Windows)})


def observation_tensor(observation: np.ndarray, device: str | torch.device = "cpu") -> torch.Tensor:
    """Return observations (B, O) as the tensor that a policy takes: as they are if they have images, else float32."""
    import torch

    return torch.as_tensor(as_learned(observation), device=device)


def concatenate(windows: Sequence[Windows[np.ndarray]]) -> Windows[np.ndarray]:
    """Concatenate `windows`, which must have the same horizon, into one batch."""
    return Windows(**{f.name: np.concatenate([getattr(w, f.name) for w in windows]) for f in fields(Windows)})


def divide_reward(windows: Windows[np.ndarray], by: float) -> Windows[np.ndarray]:
    """Return `windows` with all rewards divided by a number, such as `Replay.largest_return`."""
    return replace(windows, reward=windows.reward / np.float32(by))


def as_learned(observation: np.ndarray) -> np.ndarray:
    """Return packed, encoded and read observations unchanged, and numbers as float32."""
    return observation if observation.dtype in OF_IMAGES else observation.astype(np.float32, copy=False)
