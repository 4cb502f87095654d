"""Observation normalisation, with statistics that are saved with the policy."""

from __future__ import annotations

import torch
from torch import Tensor, nn

CLIP = 5.0
"""Bound of normalised observations, in standard deviations, so that outliers do not dominate."""


class ObservationNormalizer(nn.Module):
    """Standardise observations: (observation - mean) / std, clipped to +-`CLIP`.

    The statistics are buffers, so they are saved and loaded with the policy. Calling the module before the statistics
    are fitted or loaded raises an error, so unnormalised observations do not pass unnoticed.
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
        """Set the mean and the standard deviation, both (O,).

        Raises:
            ValueError: A shape is wrong, a number is not finite, or a standard deviation is not positive.
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
        """Raise RuntimeError if the statistics are missing or a standard deviation is not positive."""
        if not (self.mean.isfinite().all() and self.std.isfinite().all() and (self.std > 0).all()):
            raise RuntimeError(
                "the policy has no observation statistics: fit them to demonstrations, or load a whole checkpoint"
            )
        self._ready = True

    def forward(self, observation: Tensor) -> Tensor:
        """Normalise observations: (..., O) -> (..., O)."""
        return self.standardize(observation).clamp(-CLIP, CLIP)

    def standardize(self, observation: Tensor) -> Tensor:
        """Normalise observations without clipping them: (..., O) -> (..., O)."""
        if not self._ready:
            self.require_statistics()
        return (observation - self.mean) / self.std


def _check_anew(normalizer: ObservationNormalizer, _: object) -> None:
    normalizer._ready = False  # the loaded state may have no statistics
