"""Replacements for modules that a format of `flows.export` cannot express."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from flows.mixing import LUMixing


class _FixedMixing(nn.Module):
    """An `LUMixing` with fixed factors, as two matrices, because ONNX cannot solve triangular systems."""

    matrix: Tensor
    inverse: Tensor

    def __init__(self, mixing: LUMixing) -> None:
        super().__init__()
        exact = copy.deepcopy(mixing).double()
        identity = torch.eye(len(mixing.factors), dtype=torch.float64)
        for name, inverse in (("matrix", False), ("inverse", True)):
            self.register_buffer(name, exact(identity, inverse).to(mixing.factors.dtype))

    def forward(self, x: Tensor, inverse: bool = False) -> Tensor:
        return x @ (self.inverse if inverse else self.matrix)


def traceable(module: nn.Module) -> nn.Module:
    """Return a copy of a module in which all parts that a format cannot express are replaced."""
    module = copy.deepcopy(module)
    for parent in list(module.modules()):
        for name, part in parent.named_children():
            if type(part) is LUMixing:
                setattr(parent, name, _FixedMixing(part))
    return module
