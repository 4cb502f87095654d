"""Add your own density: register a flow, and train it by its name.

    python examples/custom_flow.py

An installed package can make its flow available to all commands with an entry point in the group `softflow.flows`.
"""

from __future__ import annotations

import torch
import tyro
from torch import Tensor, nn

import softflow
from flows import ChunkFlow, MixtureBase, register_flow


@register_flow("nice")
class NiceFlow(ChunkFlow):
    """Volume-preserving additive coupling (NICE, Dinh et al., arXiv 1410.8516) on a conditional mixture base."""

    def __init__(self, *, layers: int = 4, width: int = 128, **sizes: int) -> None:
        super().__init__(**sizes)
        dim, inputs = self.horizon * self.action_dim, self.horizon * self.action_dim + self.context_dim
        nets = [nn.Sequential(nn.Linear(inputs, width), nn.SiLU(), nn.Linear(width, dim)) for _ in range(layers)]
        self.layers = nn.ModuleList(nets)
        self.base = MixtureBase(dim, self.context_dim)

    def embed(self, context: Tensor) -> Tensor:
        return context.unsqueeze(1)

    def encode(self, chunk: Tensor, embedding: Tensor) -> tuple[Tensor, Tensor]:
        for i in range(len(self.layers)):
            chunk = chunk + self._shift(i, chunk, embedding)
        return chunk, chunk.new_zeros(chunk.shape[:-1])  # the log-determinant

    def decode(self, latent: Tensor, embedding: Tensor) -> tuple[Tensor, Tensor]:
        for i in reversed(range(len(self.layers))):
            latent = latent - self._shift(i, latent, embedding)
        return latent, latent.new_zeros(latent.shape[:-1])

    def _shift(self, i: int, x: Tensor, context: Tensor) -> Tensor:
        """Return the shift of layer i for every second number, computed from the other numbers and the context."""
        stays = torch.arange(x.shape[-1], device=x.device) % 2 == i % 2
        return ~stays * self.layers[i](torch.cat((stays * x, context.expand(*x.shape[:-1], -1)), -1))


def main(demonstrations: int = 20, updates: int = 300, steps: int = 4_000, episodes: int = 20) -> None:
    """Imitate demonstrations of tape_cut, learn online, and evaluate on held-out episodes.

    Args:
        demonstrations: Number of demonstrations.
        updates: Number of imitation updates.
        steps: Number of environment steps to learn online.
        episodes: Number of held-out episodes.
    """
    run = softflow.train(
        flow="nice",
        preset="quick",
        num_demos=demonstrations,
        imitation={"updates": updates},
        online={"steps": steps},
        eval_episodes=episodes,
    )
    print(f"success {run.evaluate(episodes).success_rate:.2f}; the same policy: softflow.load({str(run.path)!r})")


if __name__ == "__main__":
    tyro.cli(main)
