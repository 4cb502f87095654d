"""Learnt pooling of a grid of features, which keeps where in the image something is."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn


class Pooling(nn.Module, ABC):
    """Looks at a grid of features with several maps, each a softmax over its cells.

    Args:
        height: The number of rows of cells, h.
        width: The number of columns, w.
        channels: The number of features in a cell, C.
        maps: The number of maps, M.

    Attributes:
        outputs: The number of pooled features, F.
    """

    places: Tensor
    """Positions (y, x) of the cells in [-1, 1], (h * w, 2)."""
    outputs: int

    def __init__(self, height: int, width: int, channels: int, maps: int) -> None:
        super().__init__()
        self.logits = nn.Linear(channels, maps)
        rows, columns = (torch.linspace(-1, 1, size) if size > 1 else torch.zeros(1) for size in (height, width))
        self.register_buffer("places", torch.cartesian_prod(rows, columns), persistent=False)

    def maps(self, grid: Tensor) -> Tensor:
        """Return the weight of each cell in each map: (B, h, w, C) -> (B, M, h * w)."""
        return self.logits(grid.flatten(1, 2)).softmax(1).transpose(1, 2)

    @abstractmethod
    def forward(self, grid: Tensor) -> Tensor:
        """Pool grids: (B, h, w, C) -> (B, F)."""


class SpatialSoftmax(Pooling):
    """Where the maps look: the mean position of each one (arXiv 1504.00702, section 5.1), F = 2 M."""

    def __init__(self, height: int, width: int, channels: int, maps: int = 32) -> None:
        super().__init__(height, width, channels, maps)
        self.outputs = 2 * maps

    def forward(self, grid: Tensor) -> Tensor:
        return (self.maps(grid) @ self.places).flatten(1)


class AttentionPooling(Pooling):
    """What the maps look at, and where: mean features and mean position of each one, F = M (C + 2)."""

    def __init__(self, height: int, width: int, channels: int, maps: int = 4) -> None:
        super().__init__(height, width, channels, maps)
        self.outputs = maps * (channels + 2)

    def forward(self, grid: Tensor) -> Tensor:
        maps = self.maps(grid)
        return torch.cat([maps @ grid.flatten(1, 2), maps @ self.places], -1).flatten(1)


POOLINGS: dict[str, type[SpatialSoftmax] | type[AttentionPooling]] = {
    "attention": AttentionPooling,
    "spatial_softmax": SpatialSoftmax,
}
