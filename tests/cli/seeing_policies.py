"""Policies of another project that see the camera of `tests.pictures.Lamp`."""

from __future__ import annotations

import torch
from torch import Tensor, nn

HORIZON = 4


class Seeing(nn.Module):
    """A convolution that knows where the lamp is, and noise that is added to what it does."""

    noise_shape = (HORIZON, 1)
    feature_count = 2

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 1, 4, stride=4, bias=False)
        nn.init.ones_(self.convolution.weight)

    def features(self, observation: dict[str, Tensor]) -> Tensor:
        """The brightness of the left and of the right half, (B, 2)."""
        camera = observation["camera"]
        assert camera.dtype == torch.uint8 and camera.shape[1:] == (16, 16, 3)
        halves = self.convolution(camera.permute(0, 3, 1, 2) / 255).unflatten(3, (2, 2))
        return halves.mean((1, 2, 4)) / 10

    def forward(self, observation: dict[str, Tensor], noise: Tensor) -> Tensor:
        left, right = self.features(observation).unbind(1)
        return 0.4 * (right - left).sign()[:, None, None] + 0.1 * noise


class Blind(nn.Module):
    """A policy that is given images and shows no features."""

    def forward(self, observation: dict[str, Tensor]) -> Tensor:
        assert observation["joint"].dtype == torch.float64
        return torch.zeros(len(observation["camera"]), HORIZON, 1)


class HalfStated(Seeing):
    feature_count = None


class WrongCount(Seeing):
    feature_count = 3
