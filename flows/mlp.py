"""The hidden part of multilayer perceptrons."""

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
    """Make linear layers, each followed by its activation and its dropout: (..., inputs) -> (..., widths[-1]).

    Args:
        inputs: size of what the first layer is given.
        widths: sizes of what the layers return.
        dropout: probability. None leaves the module out, and the weights of later layers get other names.
        activation: makes an activation.
    """
    layers = nn.Sequential()
    for size, width in pairwise((inputs, *widths)):
        layers.extend((nn.Linear(size, width), activation()))
        if dropout is not None:
            layers.append(nn.Dropout(dropout))
    return layers
