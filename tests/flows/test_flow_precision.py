"""What float32 and float64 lose in every registered flow: with random weights, and trained at the size of its use."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from flows import make_flow
from tests.flows.flow_cases import FLOAT32_ERROR, FLOAT32_LOG_DET_ERROR, IDENTITY, OPEN_BOX, SMALL
from tests.flows.test_flow_contract import batch, every_flow, random_flow


@every_flow
def test_float32_does_what_float64_does(name: str, options: dict, measured: Any) -> None:
    """Most errors are of the size of rounding; the largest lies where random weights make the map steepest.

    Autograd's own float32 Jacobian would lose the digits that are asked about.
    """
    flow = random_flow(name, options, torch.float32)
    exact = copy.deepcopy(flow).double()
    chunk, context = batch(name, options, 3, 2, dtype=torch.float32)
    latent, log_abs_det = flow.to_latent(chunk, context)
    errors = []
    for method in ("to_latent", "to_chunk"):
        value, reported = getattr(flow, method)(chunk, context)
        expected, expected_log_abs_det = getattr(exact, method)(chunk.double(), context.double())
        assert value.dtype == reported.dtype == torch.float32
        errors += [(value - expected).abs() / (1 + expected.abs()), (reported - expected_log_abs_det).abs()]
    if "solver" not in options:
        back, inverse_log_abs_det = flow.to_chunk(latent, context)
        assert torch.equal(flow.chunk_from(latent, context), back)
        errors += [(back - chunk).abs(), (log_abs_det + inverse_log_abs_det).abs()]
    for error in errors:
        assert measured(error.median()) < 1e-5
        assert measured(error.max()) < 1e-2


def two_routes(rows: int) -> tuple[Tensor, Tensor]:
    """Chunks (rows, 8, 10) within the box, on one of two smooth routes, and contexts (rows, 64)."""
    context, time = torch.randn(rows, 64), torch.linspace(0, 1, 8)
    side = torch.where(torch.rand(rows, 1) < 0.5, 1.0, -1.0)
    path = torch.stack((side * (torch.pi * time).sin(), time.expand(rows, 8), context[:, :1].sin() * time), -1)
    angle = torch.arange(30.0).view(3, 10)
    return (0.4 * path @ angle.cos() + 0.03 * torch.randn(rows, 8, 10)).clamp(-0.98, 0.98), context


@pytest.mark.parametrize("name", SMALL)
def test_full_size_errors_after_training(name: str, measured: Any) -> None:
    """80 numbers, the default size, thirty updates: latents of which one number in each is 6 or -6, there and back."""
    torch.manual_seed(0)
    dims = dict(horizon=8, action_dim=10, context_dim=64)
    solved = name == "flow_matching"
    options = dict(exact_dims=80) if solved else {}  # an estimate's noise is no rounding error
    flow = make_flow(name, **dims, **options)
    optimizer = torch.optim.AdamW(flow.parameters(), 1.5e-3)
    for _ in range(30):
        optimizer.zero_grad()
        flow.loss(*two_routes(64)).backward()
        torch.nn.utils.clip_grad_norm_(flow.parameters(), 10.0)
        optimizer.step()
    exact = copy.deepcopy(flow).double()
    rows = 4 if solved else 32
    latent, context = torch.randn(rows, 2, 80), torch.randn(rows, 64)
    latent.scatter_(-1, torch.randint(80, (rows, 2, 1)), torch.tensor([6.0, -6.0]).view(1, 2, 1).expand(rows, 2, 1))
    latent = latent.unflatten(-1, (8, 10))
    with torch.no_grad():
        chunk, log_abs_det = flow.to_chunk(latent, context)
        back, inverse_log_abs_det = flow.to_latent(chunk, context)
        there, expected = exact.to_chunk(latent.double(), context.double())
        home, inverse_expected = exact.to_latent(there, context.double())
        _, of_rounded = exact.to_latent(chunk.double(), context.double())
    # Where a flow's solver is wrong in float64 already, float32 must agree with that; near a bound chunks are rounded.
    inverse = (back - (home if solved else latent)).abs()[(chunk.abs() < 0.999) | (name not in OPEN_BOX)]
    assert name in IDENTITY or measured((chunk - latent).abs().max()) > 1
    assert solved or measured((home - latent).abs().max()) < 1e-10
    assert solved or measured((expected + inverse_expected).abs().max()) < 1e-10
    for error in ((chunk - there).abs(), inverse):
        assert measured(error.median()) < 3e-6
        assert measured(error.max()) < FLOAT32_ERROR.get(name, 1e-4)
    for error in ((log_abs_det - expected).abs(), (inverse_log_abs_det - of_rounded).abs()):
        assert measured(error.median()) < 1e-4
        assert measured(error.max()) < FLOAT32_LOG_DET_ERROR.get(name, 1e-4)
