"""Hidden layers of multilayer perceptrons."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import nn


def hidden_layers(
    inputs: int,
    widths: Sequence[int],
    dropout: float | None = 0.0,
    activation: Callable[[], nn.Module] = nn.SiLU,
) -> nn.Sequential:
    """Make linear layers, each followed by an activation and dropout: (..., inputs) -> (..., widths[-1]).

    Args:
        inputs: Input size of the first layer.
        widths: Output size of each layer.
        dropout: Dropout probability. None adds no dropout modules, which changes the state-dict keys of later layers.
        activation: Factory of the activation modules.
    """
    layers = nn.Sequential()
    for size, width in pairwise((inputs, *widths)):
        layers.extend((nn.Linear(size, width), activation()))
        if dropout is not None:
            layers.append(nn.Dropout(dropout))
    return layers
