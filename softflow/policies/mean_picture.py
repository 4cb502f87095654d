"""Subtraction of what all images of the training data have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from softflow.task.layout import Part


class MeanPicture(nn.Module):
    """Subtracts the mean of the training data from images.

    In a network that has learnt nothing yet, a bright static scene gives large features that every image shares, and
    what moves changes them little. Such a network learns late where things are (docs/notebook/diagnostics.md).

    Nothing is subtracted until `fit` is called, or in networks of earlier versions.

    Args:
        images: The images.
    """

    def __init__(self, images: Sequence[Part]) -> None:
        super().__init__()
        for number, image in enumerate(images):
            self.register_buffer(f"mean_{number}", torch.zeros(image.shape))

    def fit(self, number: int, pixels: Tensor) -> None:
        """Take the mean of examples of an image, (N, H, W, channels) in [0, 1]."""
        self.get_buffer(f"mean_{number}").copy_(pixels.mean(0))

    def forward(self, number: int, pixels: Tensor) -> Tensor:
        """Subtract the mean of an image, (B, H, W, channels)."""
        return pixels - self.get_buffer(f"mean_{number}")

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        for name, mean in self.named_buffers():
            state_dict.setdefault(prefix + name, torch.zeros_like(mean))  # earlier versions have none
        super()._load_from_state_dict(state_dict, prefix, *rest)
