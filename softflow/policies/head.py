"""The head of a steered policy."""

from __future__ import annotations

from torch import nn

from flows.mlp import hidden_layers

WIDTHS = (256, 128, 64)
"""Widths of the hidden layers, as in RFS (arXiv 2602.01789)."""


def zero_mlp(inputs: int, outputs: int) -> nn.Sequential:
    """Make an MLP with hidden layers of `WIDTHS`, ReLU, and a last layer that is initialised to zero."""
    hidden = hidden_layers(inputs, WIDTHS, dropout=None, activation=nn.ReLU)
    last = nn.Linear(WIDTHS[-1], outputs)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return hidden.append(last)
