"""What a format of `flows.export` cannot express, and what stands for it in a file."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from flows.mixing import LUMixing


class _FixedMixing(nn.Module):
    """An `LUMixing` whose factors no longer change, as two matrices: ONNX cannot solve a triangular system."""

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
    """Return a copy of a module in which everything that a format cannot express is replaced."""
    module = copy.deepcopy(module)
    for parent in list(module.modules()):
        for name, part in parent.named_children():
            if type(part) is LUMixing:
                setattr(parent, name, _FixedMixing(part))
    return module
