"""Bring your own density: register a flow, and train it by its name.

    python examples/custom_flow.py

An installed package can offer its flow to all commands instead, with an entry point of the group `softflow.flows`.
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor, nn

from flows import ChunkFlow, MixtureBase, register_flow
from softflow.cli.train import main


@register_flow("nice")
class NiceFlow(ChunkFlow):
    """Additive coupling, which keeps volumes (Dinh et al., NICE, arXiv 1410.8516), on a conditional mixture base."""

    def __init__(
        self, *, horizon: int, action_dim: int, context_dim: int, layers: int = 4, width: int = 128, components: int = 4
    ) -> None:
        super().__init__(horizon=horizon, action_dim=action_dim, context_dim=context_dim)
        dim = horizon * action_dim
        self.sizes = (dim // 2, dim - dim // 2)
        self.shifts = nn.ModuleList()
        for i in range(layers):
            fixed, moved = self.sizes[i % 2], self.sizes[1 - i % 2]
            hidden = nn.Linear(fixed + context_dim, width)
            self.shifts.append(nn.Sequential(hidden, nn.SiLU(), nn.Linear(width, moved)))
        self.base = MixtureBase(dim, context_dim, components)

    def embed(self, context: Tensor) -> Tensor:
        return context.unsqueeze(1)

    def encode(self, chunk: Tensor, embedding: Tensor) -> tuple[Tensor, Tensor]:
        return self._move(chunk, embedding, range(len(self.shifts)), 1.0)

    def decode(self, latent: Tensor, embedding: Tensor) -> tuple[Tensor, Tensor]:
        return self._move(latent, embedding, reversed(range(len(self.shifts))), -1.0)

    def _move(self, x: Tensor, context: Tensor, layers: range | reversed, sign: float) -> tuple[Tensor, Tensor]:
        halves = list(x.split(self.sizes, -1))
        for i in layers:
            fixed = halves[i % 2]
            inputs = torch.cat((fixed, context.expand(*fixed.shape[:-1], -1)), -1)
            halves[1 - i % 2] = halves[1 - i % 2] + sign * self.shifts[i](inputs)
        return torch.cat(halves, -1), x.new_zeros(x.shape[:-1])


if __name__ == "__main__":
    sys.exit(main(["--flow", "nice", "--preset", "quick", *sys.argv[1:]]))
