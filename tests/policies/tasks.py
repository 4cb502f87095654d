"""Tasks with every kind of part, and policies of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from critics import ChunkCritic
from softflow.policies import BestOfN, FlowPolicy
from softflow.task import ActionPart, ObservationPart, TaskSpec

HORIZON, N_ACTION_STEPS = 4, 2

ACTION = (
    ActionPart("arm", (-1.0, 0.5), (3.0, 0.7)),  # asymmetric
    ActionPart("lock", (2.0,), (2.0,)),  # one possible value
    ActionPart("gripper", (-1.0,), (1.0,)),
)

NUMBERS = TaskSpec(
    (
        ObservationPart("joint/pos", (3,)),
        ObservationPart("force", (), "float64"),
        ObservationPart("mode", (), "int64", categories=(3,)),
        ObservationPart("touch", (2, 2), "bool"),
    ),
    ACTION,
    rate=20.0,
    name="numbers",
)
"""Rows of 3 + 1 + 3 + 4 numbers; actions of 4 numbers, 3 of them learnt."""

IMAGES = TaskSpec(
    (
        ObservationPart("wrist", (3, 16, 20), "uint8", axes="CHW"),
        ObservationPart("joint", (2,), "float64"),
        ObservationPart("depth", (18, 17), "float32", axes="WH", value_range=(0.5, 3.0)),
        ObservationPart("tool", (2,), "int32", categories=(2, 3), starts=(1, -2)),
    ),
    ACTION,
    name="images",
)


def make_policy(
    task: TaskSpec | None, flow: str = "coupling", *, of: TaskSpec | None = None, **options: Any
) -> BestOfN:
    """A policy of the sizes of `task`, or of those of the task `of`, whose every weight is random."""
    sizes = of or task
    assert sizes is not None
    torch.manual_seed(0)
    encoder = {"features": 4, "width": 4} if sizes.layout is not None else {}
    small: dict[str, Any] = dict(layers=2, width=8) if flow == "coupling" else dict(width=8)
    policy = FlowPolicy(sizes.observation_size, sizes.action_dim, HORIZON, flow, small, encoder_options=encoder)
    with torch.no_grad():
        for parameter in policy.flow.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    numbers = len(policy.normalizer.mean)
    policy.normalizer.fit(torch.linspace(-1, 1, numbers), torch.linspace(0.5, 2, numbers))
    critic = ChunkCritic(context_dim=policy.context_dim, horizon=HORIZON, action_dim=sizes.action_dim, width=8, depth=1)
    settings = {"candidates": 3, "temperature": 0.5} | options
    return BestOfN(policy.eval(), critic, N_ACTION_STEPS, **settings, task=task).eval()


def observe(task: TaskSpec, batch: int = 5, seed: int = 0) -> dict[str, NDArray[Any]]:
    """A batch of observations, in the declared dtypes."""
    rng, found = np.random.default_rng(seed), {}
    for part in task.observation:
        shape = (batch, *part.shape)
        if part.is_image:
            value: NDArray[Any] = rng.uniform(*(part.value_range or (0, 256)), shape)  # type: ignore[misc]
        elif part.categories is not None:
            value = np.stack([rng.choice(values, batch) for values in part.choices], 1).reshape(shape)
        else:
            value = rng.normal(size=shape)
        found[part.name] = value > 0 if part.dtype == "bool" else value.astype(part.dtype)
    return found


def row_of(observation: dict[str, NDArray[Any]], index: int) -> dict[str, Any]:
    """One observation of a batch."""
    return {name: values[index] for name, values in observation.items()}
