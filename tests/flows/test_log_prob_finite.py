"""Log-probabilities of many random actions, in, on and outside the bounds: never an infinity, never a NaN."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.flows.flow_cases import OPEN_BOX, few_steps
from tests.flows.test_flow_contract import ACTION_DIM, CONTEXT_DIM, HORIZON, every_flow, random_flow

BATCH = 10_000


def actions(rows: int, generator: torch.Generator) -> Tensor:
    """(rows, H, A): each number is inside the bounds, at one, next to one in float32, or up to 100 times outside."""
    shape = (rows, HORIZON, ACTION_DIM)
    inside = torch.rand(shape, generator=generator) * 2 - 1
    bound = inside.sign()
    within, beyond = (torch.nextafter(bound, bound * scale) for scale in (0.0, 2.0))
    outside = bound * 100 ** torch.rand(shape, generator=generator)
    kinds = torch.stack([inside, bound, within, beyond, outside, torch.zeros(shape)])
    return kinds.gather(0, torch.randint(len(kinds), (1, *shape), generator=generator))[0]


def check(name: str, options: dict, count: int, dtype: torch.dtype) -> None:
    """A random flow and a random context for each batch."""
    generator = torch.Generator().manual_seed(0)
    for seed in range(count // BATCH):
        flow = random_flow(name, few_steps(options), dtype, seed)
        chunk = actions(BATCH, generator).to(dtype)
        if name in OPEN_BOX:  # what it refuses otherwise
            chunk = chunk.clamp(-1, 1) * (1 - torch.finfo(torch.float32).eps)
        context = torch.randn(BATCH, CONTEXT_DIM, generator=generator).to(dtype)
        with torch.no_grad():
            log_prob = flow.log_prob(chunk, context)
        bad = ~log_prob.isfinite()
        assert not bad.any(), f"seed {seed}: {log_prob[bad][0]} at {chunk[bad][0].tolist()}"


@every_flow
def test_ten_thousand_actions(name: str, options: dict) -> None:
    check(name, options, 10_000, torch.float32)


@pytest.mark.slow
@every_flow
def test_a_million_actions(name: str, options: dict) -> None:
    check(name, options, 1_000_000, torch.float32)
