"""A policy's greedy choice as a file that runs without this package."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from flows.export import export
from softflow.errors import UserError
from softflow.files import written_whole
from softflow.policies.base import ChunkPolicy

EXAMPLES = 64  # observations that a file is compared on


class GreedyPolicy(nn.Module):
    """A policy's `greedy`, normaliser and clipping included: raw observation (B, O) -> chunk (B, H, A)."""

    def __init__(self, policy: ChunkPolicy) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, observation: Tensor) -> Tensor:
        return self.policy.greedy(observation)


def export_greedy(policy: ChunkPolicy, path: str | Path, format: str) -> float:
    """Write the greedy choice to a file, compared with the policy's own on normal observations of its statistics.

    Args:
        policy: with its observation statistics.
        path: of the file; an existing one is replaced once the new one is whole.
        format: one of `flows.export.FORMATS`. An ONNX file's input is "observation", its output "chunk".

    Returns:
        The largest difference in any number of a chunk.

    Raises:
        UserError: the policy reads packed observations, or the file cannot be written.
        RuntimeError: it has no observation statistics.
        ValueError, ImportError, ExportError: see `flows.export.export`.
    """
    if policy.encoder is not None:
        raise UserError("a policy that sees images cannot be exported: it reads packed bytes, which no format holds")
    policy.normalizer.require_statistics()
    mean, std = policy.normalizer.mean, policy.normalizer.std
    noise = torch.randn(EXAMPLES, len(mean), generator=torch.Generator().manual_seed(0)).to(mean)
    with written_whole(Path(path)) as file:
        return export(GreedyPolicy(policy), {"observation": mean + std * noise}, file, format)
