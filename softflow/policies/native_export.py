"""Export of greedy policies to files that run without this package."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from flows.export import export
from softflow import __version__
from softflow.errors import UserError
from softflow.files import written_whole
from softflow.policies.base import ChunkPolicy
from softflow.policies.best_of_n import BestOfN
from softflow.policies.foreign_policy import ForeignPolicy
from softflow.policies.policy import Policy
from softflow.policies.steered import SteeredPolicy
from softflow.task import ObservationPart, TaskSpec

EXAMPLES = 64  # number of observations on which a file is compared with the policy
METADATA = "softflow"
"""Name of the JSON document in an exported file."""


class GreedyPolicy(nn.Module):
    """The `greedy` of a policy, with normaliser and clipping: raw observation (B, O) -> chunk (B, H, A)."""

    def __init__(self, policy: ChunkPolicy) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, observation: Tensor) -> Tensor:
        return self.policy.greedy(observation)


class NativePolicy(nn.Module):
    """`softflow.policies.Policy.greedy` in pure torch: an observation by name -> chunk (B, H, N) in native units.

    Where `Policy` raises an error because a number is not finite or a category does not exist, the whole chunk is NaN,
    because an exported file cannot raise errors.
    """

    low: Tensor
    high: Tensor
    columns: Tensor

    def __init__(self, policy: ChunkPolicy, task: TaskSpec) -> None:
        super().__init__()
        self.policy, self.parts = policy, task.observation
        free = task.low < task.high
        for name, values in (("low", task.low), ("high", task.high)):
            self.register_buffer(name, torch.from_numpy(values))
        # The index of each native number among the learned ones. A number whose bounds are equal may take any index,
        # because the result is multiplied by the distance of its bounds, zero.
        self.register_buffer("columns", torch.from_numpy((np.cumsum(free) - 1).clip(0)))

    def forward(self, observation: dict[str, Tensor]) -> Tensor:
        values, valid = [], []
        for part in self.parts:
            value = observation[part.name]
            values.append(_pixels(part, value) if part.is_image else _numbers(part, value))
            checked = value.flatten(1) if part.is_image else values[-1]
            if checked.is_floating_point():
                valid.append(checked.isfinite().all(1))
        chunk = self.policy.greedy(torch.cat(values, 1))
        native = self.low + (chunk[..., self.columns].double() + 1) / 2 * (self.high - self.low)
        native = torch.minimum(torch.maximum(native, self.low), self.high).float()
        if not valid:
            return native
        is_valid = torch.stack(valid).all(0)[:, None, None].float()
        return native * (is_valid / is_valid)  # NaN where it is not; as a literal torch 2.8 cannot save it


def _pixels(part: ObservationPart, value: Tensor) -> Tensor:
    """Convert images (B, *shape) to their byte values as float32, (B, height * width * channels)."""
    assert part.axes is not None
    image = value.movedim([1 + part.axes.index(axis) for axis in "HW"], (1, 2))
    if part.value_range is not None:
        low, high = part.value_range
        image = (255 * ((image.double() - low) / (high - low)).clamp(0, 1)).round()
    return image.float().flatten(1)


def _numbers(part: ObservationPart, value: Tensor) -> Tensor:
    """Convert numbers (B, *shape) to float32 (B, n). The one-hot encoding of an invalid category is NaN."""
    rows = value.reshape(value.shape[0], -1)
    if part.categories is None:
        return rows.float()
    choices = [torch.arange(values.start, values.stop) for values in part.choices]
    hot = [(rows[:, i, None] == values).float() for i, values in enumerate(choices)]
    return torch.cat([column / column.sum(1, keepdim=True) for column in hot], 1)


def export_greedy(deployed: BestOfN, path: str | Path, format: str) -> float:
    """Export the greedy policy to a file.

    The file is compared with the policy on observations drawn from its statistics.

    The file takes a mapping from the names of the task's parts to arrays (B, *shape) of the task's dtypes; an ONNX file
    has one input per name. It returns whole chunks, "chunk" (B, H, N), in native units. If the policy has no task, the
    file takes rows, "observation" (B, O), and returns actions in [-1, 1], (B, H, A).

    The file contains a JSON document named `METADATA`, with the keys `task` (the result of `TaskSpec.describe`, or
    null), `n_action_steps` (the number of actions of a chunk to execute), `horizon` (H) and `version` (of softflow).

    Args:
        deployed: A policy with observation statistics. Its critic and temperature are not exported.
        path: Path of the file. An existing file is replaced once the new one is complete.
        format: One of `flows.export.FORMATS`.

    Returns:
        The largest difference in any number of a chunk, in units of half the distance of its bounds.

    Raises:
        UserError: The policy steers that of another project, or reads images and has no task, or the file cannot be
            written.
        RuntimeError: The policy has no observation statistics.
        ValueError, ImportError, ExportError: See `flows.export.export`.
    """
    deployed.policy.require_statistics()
    if isinstance(deployed.policy, SteeredPolicy) and isinstance(deployed.policy.root, ForeignPolicy):
        raise UserError(
            f"base {deployed.policy.root.reference} is the policy of another project, which cannot be exported: load "
            "the run with softflow.load where that project is installed"
        )
    deployed = copy.deepcopy(deployed).cpu().eval()
    policy, task = deployed.policy, deployed.task
    rng = np.random.default_rng(0)
    mean, std = (statistic.numpy() for statistic in (policy.normalizer.mean, policy.normalizer.std))
    numbers = (mean + std * rng.standard_normal((EXAMPLES, len(mean)))).astype(np.float32)
    document = {
        "task": task.describe() if task is not None else None,
        "n_action_steps": deployed.n_action_steps,
        "horizon": policy.horizon,
        "version": __version__,
    }
    metadata = {METADATA: json.dumps(document)}
    with written_whole(Path(path)) as file:
        if task is None:
            if policy.encoder is not None:
                raise UserError(
                    "a policy that sees images is exported with the names and axes of what it sees, and this one was "
                    "saved without a description of its task: set its `task`, or train it again"
                )
            example = {"observation": torch.from_numpy(numbers)}
            return export(GreedyPolicy(policy), example, file, format, metadata=metadata)
        observation = {name: torch.from_numpy(value) for name, value in _examples(task, numbers, rng).items()}
        return export(
            NativePolicy(policy, task),
            {"observation": observation},
            file,
            format,
            metadata=metadata,
            reference=lambda given: torch.as_tensor(Policy(deployed).greedy(given)),
            scale=torch.from_numpy(np.where(task.low < task.high, task.high - task.low, 2) / 2).float(),
        )


def _examples(task: TaskSpec, numbers: NDArray[np.float32], rng: np.random.Generator) -> dict[str, NDArray[Any]]:
    """Return observations with the given numbers (B, K), and with random images and categories."""
    found, column, rows = {}, 0, len(numbers)
    for part in task.observation:
        dtype, size = np.dtype(part.dtype), part.packed.size
        value: NDArray[Any]
        if part.is_image:
            low, high = part.value_range or (0, 255)
            value = rng.uniform(low, high, (rows, *part.shape))
        else:
            value = numbers[:, column : column + size]
            if part.categories is not None:
                lowest, highest = ([values[end] for values in part.choices] for end in (0, -1))
                value = rng.integers(lowest, highest, size=(rows, len(lowest)), endpoint=True)
            value, column = value.reshape(rows, *part.shape), column + size
        if dtype.kind in "iu":
            value = value.round().clip(np.iinfo(dtype).min, np.iinfo(dtype).max)
        found[part.name] = value > 0.5 if dtype.kind == "b" else value.astype(dtype)
    return found
