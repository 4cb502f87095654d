"""The ensemble against a loop over its members, and the target network."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from critics import ChunkCritic, soft_update


def critic(**options: int) -> ChunkCritic:
    torch.manual_seed(0)
    sizes = dict(context_dim=5, horizon=3, action_dim=2, members=3, width=8, depth=2) | options
    made = ChunkCritic(**sizes).double()
    with torch.no_grad():  # not ones and zeros, so that a forgotten scale or shift shows
        for norm in made.norms:
            norm.weight.normal_()
            norm.bias.normal_()
    return made


def batch(*n: int, rows: int = 4) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(rows, 5, dtype=torch.float64), torch.randn(rows, *n, 3, 2, dtype=torch.float64)


@pytest.mark.parametrize("members", [1, 3])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_ensemble_equals_a_loop_over_members(members: int, depth: int) -> None:
    q = critic(members=members, depth=depth)
    context, chunk = batch()
    values = q(context, chunk)
    assert values.shape == (members, 4)
    for m in range(members):
        first = torch.cat((q.from_context.weight[m], q.chunk_weight[m]))
        h = F.linear(torch.cat((context, chunk.flatten(1)), 1), first.T, q.from_context.bias[m, 0])
        for i, norm in enumerate(q.norms):
            if i:
                h = F.linear(h, q.hidden[i - 1].weight[m].T, q.hidden[i - 1].bias[m, 0])
            h = F.silu(F.layer_norm(h, (8,), norm.weight[m, 0], norm.bias[m, 0]))
        expected = F.linear(h, q.output.weight[m].T, q.output.bias[m, 0]).squeeze(-1)
        torch.testing.assert_close(values[m], expected, rtol=0, atol=1e-12)


@settings(max_examples=40)
@given(
    sizes=st.fixed_dictionaries({name: st.integers(1, 5) for name in ("context_dim", "horizon", "action_dim")}),
    members=st.integers(1, 4),
    rows=st.integers(0, 4),
    n=st.lists(st.integers(1, 3), max_size=2),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_any_dimensions(sizes: dict[str, int], members: int, rows: int, n: list[int], dtype: torch.dtype) -> None:
    """One step, one member and no row included."""
    q = critic(**sizes, members=members).to(dtype)
    context = torch.randn(rows, sizes["context_dim"], dtype=dtype)
    chunk = torch.rand(rows, *n, sizes["horizon"], sizes["action_dim"], dtype=dtype)
    values = q(context, chunk)
    assert values.shape == (members, rows, *n) and values.dtype == dtype and values.isfinite().all()


def test_extra_sample_axes_equal_a_loop() -> None:
    q = critic()
    context, chunk = batch(4, 2)
    values = q(context, chunk)
    assert values.shape == (3, 4, 4, 2)
    for i in range(4):
        for j in range(2):
            torch.testing.assert_close(values[:, :, i, j], q(context, chunk[:, i, j]), rtol=0, atol=1e-12)


@pytest.mark.parametrize("rows", [0, 1, 9])
def test_any_batch_size(rows: int) -> None:
    context, chunk = batch(rows=rows)
    assert critic()(context, chunk).shape == (3, rows)
    assert critic()(context, chunk.unsqueeze(1).expand(-1, 4, -1, -1)).shape == (3, rows, 4)


def test_members_start_independent_and_within_the_bounds_of_a_linear_layer(measured: Any) -> None:
    q = ChunkCritic(context_dim=97, horizon=8, action_dim=15, members=3)
    reference = torch.nn.Linear(97 + 120, 256).weight.std()
    for weight in (q.from_context.weight, q.chunk_weight):
        assert measured((weight.std() / reference - 1).abs()) < 0.03
        correlation = torch.corrcoef(weight.flatten(1))
        assert measured((correlation - torch.eye(3)).abs().max()) < 0.05


@pytest.mark.parametrize("n", [(), (3,)])
def test_gradients_flow_to_the_chunk(n: tuple[int, ...]) -> None:
    context, chunk = batch(*n, rows=2)
    assert torch.autograd.gradcheck(critic(), (context.requires_grad_(), chunk.requires_grad_()))


def test_gradients_reach_every_parameter() -> None:
    q = critic()
    q(*batch()).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().amax() > 0 for p in q.parameters())


def test_target_is_a_frozen_copy() -> None:
    q = critic()
    target = q.make_target()
    assert torch.equal(target(*batch()), q(*batch()))
    assert not any(p.requires_grad for p in target.parameters())
    assert all(p.requires_grad for p in q.parameters())
    with torch.no_grad():
        q.output.bias.add_(1.0)
    assert not torch.equal(target(*batch()), q(*batch()))


@pytest.mark.parametrize("rate", [0.0, 0.005, 0.3, 1.0])
def test_soft_update_is_exact(rate: float) -> None:
    online, target = critic(), critic(members=3).make_target()
    with torch.no_grad():
        for p in online.parameters():
            p.normal_()
    before = [p.clone() for p in target.parameters()]
    kept = [p.clone() for p in online.parameters()]
    soft_update(target, online, rate)
    for new, old, p, same in zip(target.parameters(), before, online.parameters(), kept, strict=True):
        torch.testing.assert_close(new, (1 - rate) * old + rate * p, rtol=0, atol=1e-14)
        assert torch.equal(p, same) and not new.requires_grad
        if rate in (0.0, 1.0):
            assert torch.equal(new, p if rate else old)


@pytest.mark.parametrize("rate", [-0.1, 1.1, float("nan")])
def test_soft_update_refuses_a_bad_rate(rate: float) -> None:
    with pytest.raises(ValueError, match="rate"):
        soft_update(critic(), critic(), rate)


def test_bad_shapes_are_named() -> None:
    q = critic()
    context, chunk = batch()
    with pytest.raises(ValueError, match=r"context: expected \(B, 5\), got \(4, 4\)"):
        q(context[:, :4], chunk)
    with pytest.raises(ValueError, match=r"chunk: expected \(4, \*n, 3, 2\), got \(4, 2, 3\)"):
        q(context, chunk.transpose(1, 2))
    with pytest.raises(ValueError, match=r"chunk: expected \(4, \*n, 3, 2\), got \(3, 3, 2\)"):
        q(context, chunk[:3])
    with pytest.raises(ValueError, match="members: expected"):
        critic(members=0)
