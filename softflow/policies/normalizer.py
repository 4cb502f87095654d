"""Observation statistics that travel inside the policy."""

from __future__ import annotations

import torch
from torch import Tensor, nn

CLIP = 5.0
"""Standard deviations beyond which an observation is clipped: what was never seen must not dominate."""


class ObservationNormalizer(nn.Module):
    """Standardise observations: (observation - mean) / std, clipped to +-`CLIP`.

    The statistics are buffers, so they are saved and loaded with the policy. Before `fit`, or before a checkpoint
    that holds them is loaded, calling it is an error: unnormalised observations must not pass unnoticed.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, observation_dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.full((observation_dim,), torch.nan))
        self.register_buffer("std", torch.full((observation_dim,), torch.nan))
        self._ready = False
        self.register_load_state_dict_post_hook(_check_anew)

    def fit(self, mean: Tensor, std: Tensor) -> None:
        """Set the statistics, both (O,).

        Raises:
            ValueError: wrong shape, not finite, or a standard deviation that is not positive.
        """
        for name, value in (("mean", mean), ("std", std)):
            if value.shape != self.mean.shape or not value.isfinite().all():
                raise ValueError(f"{name}: expected {tuple(self.mean.shape)} finite numbers, got {value}")
        if not (std > 0).all():
            raise ValueError("std: expected positive numbers")
        self.mean.copy_(mean)
        self.std.copy_(std)
        self._ready = True

    def require_statistics(self) -> None:
        """Raises RuntimeError if there are no statistics, or none that can be divided by."""
        if not (self.mean.isfinite().all() and self.std.isfinite().all() and (self.std > 0).all()):
            raise RuntimeError(
                "the policy has no observation statistics: fit them to demonstrations, or load a whole checkpoint"
            )
        self._ready = True

    def forward(self, observation: Tensor) -> Tensor:
        """(..., O) -> (..., O)."""
        if not self._ready:
            self.require_statistics()
        return ((observation - self.mean) / self.std).clamp(-CLIP, CLIP)


def _check_anew(normalizer: ObservationNormalizer, _: object) -> None:
    normalizer._ready = False  # what was loaded may hold no statistics
