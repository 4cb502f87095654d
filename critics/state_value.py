"""State value function."""

from __future__ import annotations

from itertools import pairwise

from torch import nn


class StateValue(nn.Sequential):
    """MLP V(context), (B, C) -> (B,), with layer normalisation and SiLU after each hidden linear layer.

    Args:
        context_dim: Dimension of the context, C.
        width: Width of the hidden layers.
        depth: Number of hidden layers.
    """

    def __init__(self, *, context_dim: int, width: int = 256, depth: int = 2) -> None:
        hidden: list[nn.Module] = []
        for inputs, outputs in pairwise([context_dim, *[width] * depth]):
            hidden += nn.Linear(inputs, outputs), nn.LayerNorm(outputs), nn.SiLU()
        super().__init__(*hidden, nn.Linear(width, 1), nn.Flatten(0))
