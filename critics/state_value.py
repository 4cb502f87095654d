"""Value of a state, whatever chunk follows."""

from __future__ import annotations

from itertools import pairwise

from torch import nn


class StateValue(nn.Sequential):
    """V(context), (B, C) -> (B,): an MLP with layer normalisation and SiLU after each hidden linear layer, as the
    members of `ChunkCritic` are.

    Args:
        context_dim: dimensions of the context, C.
        width: of the hidden layers.
        depth: number of hidden layers.
    """

    def __init__(self, *, context_dim: int, width: int = 256, depth: int = 2) -> None:
        hidden: list[nn.Module] = []
        for inputs, outputs in pairwise([context_dim, *[width] * depth]):
            hidden += nn.Linear(inputs, outputs), nn.LayerNorm(outputs), nn.SiLU()
        super().__init__(*hidden, nn.Linear(width, 1), nn.Flatten(0))
