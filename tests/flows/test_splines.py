"""Rational-quadratic splines: by hand, against autograd and nflows, at knots and bounds and beyond."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from flows.spline import IDENTITY_RAW, MIN_BIN, MIN_DERIVATIVE, spline, spline_knots

F64 = torch.float64


def random_splines(
    seed: int, points: int = 30, bins: int = 6, bound: float = 3.0, scale: float = 1.0, dtype: torch.dtype = F64
) -> tuple[Tensor, Tensor]:
    """Four splines: numbers (points, 4) in the box and knots (points, 3, bins + 1, 4), the same for each point."""
    generator = torch.Generator().manual_seed(seed)
    raw = scale * torch.randn(3 * bins - 1, 4, generator=generator, dtype=dtype)
    x = bound * (2 * torch.rand(points, 4, generator=generator, dtype=dtype) - 1)
    return x, spline_knots(raw, bound).expand(points, -1, -1, -1)


def test_a_spline_by_hand() -> None:
    # Knots (0, 0), (2, 1), (3, 4) with derivatives 1, 2, 1. The middle of the first bin, of slope 1/2, is at
    # (1/8 + 1/4) / (1/2 + 2/4) = 3/8, with derivative 1/4 (2/4 + 1/4 + 1/4) / 1; that of the second, of slope 3, at
    # 1 + 3 (3/4 + 2/4) / (3 - 3/4) = 8/3, with derivative 9 (1/4 + 6/4 + 2/4) / (9/4)^2 = 4.
    knots = torch.tensor([[0.0, 2.0, 3.0], [0.0, 1.0, 4.0], [1.0, 2.0, 1.0]], dtype=F64).unsqueeze(-1)
    x, y = torch.tensor([[1.0], [2.5]], dtype=F64), torch.tensor([[3 / 8], [8 / 3]], dtype=F64)
    log_derivative = torch.tensor([[1 / 4], [4.0]], dtype=F64).log()
    value, reported = spline(x, knots.expand(2, 3, 3, 1))
    torch.testing.assert_close(value, y, rtol=0, atol=1e-14)
    torch.testing.assert_close(reported, log_derivative, rtol=0, atol=1e-14)
    back, reported = spline(y, knots.expand(2, 3, 3, 1), inverse=True)
    torch.testing.assert_close(back, x, rtol=0, atol=1e-14)
    torch.testing.assert_close(reported, -log_derivative, rtol=0, atol=1e-14)


def test_knots_by_hand() -> None:
    raw = torch.tensor([math.log(3), 0.0, 0.0, math.log(3), 0.7], dtype=F64).unsqueeze(-1)
    x, y, derivative = spline_knots(raw, 2.0).squeeze(-1)
    larger = MIN_BIN + (1 - 2 * MIN_BIN) * 0.75
    assert x.tolist() == pytest.approx([-2.0, -2.0 + 4.0 * larger, 2.0])
    assert y.tolist() == pytest.approx([-2.0, 2.0 - 4.0 * larger, 2.0])
    inner = MIN_DERIVATIVE + math.log1p(math.exp(0.7) * math.expm1(1 - MIN_DERIVATIVE))
    assert derivative.tolist() == pytest.approx([1.0, inner, 1.0])


def test_zeros_are_the_identity() -> None:
    x, knots = random_splines(0, scale=0.0)
    value, log_derivative = spline(x, knots)
    torch.testing.assert_close(value, x, rtol=0, atol=1e-14)
    torch.testing.assert_close(log_derivative, torch.zeros_like(x), rtol=0, atol=1e-13)


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("bins", [2, 5, 8])
def test_values_are_those_of_nflows(bins: int, inverse: bool) -> None:
    rqs = pytest.importorskip("nflows.transforms.splines.rational_quadratic")
    torch.manual_seed(bins)
    bound = 2.5
    raw = 2 * torch.randn(50, 3 * bins - 1, 4, dtype=F64)
    x = 2 * torch.randn(50, 4, dtype=F64)
    assert (x.abs() > bound).any()
    # Zero derivatives are the identity's in ours alone; the outer ones, 1, are given in nflows' second function.
    widths, heights, inner = raw.mT.split((bins, bins, bins - 1), -1)
    minima = dict(min_bin_width=MIN_BIN, min_bin_height=MIN_BIN, min_derivative=MIN_DERIVATIVE)
    expected = rqs.unconstrained_rational_quadratic_spline(
        x, widths, heights, inner + IDENTITY_RAW, inverse=inverse, tail_bound=bound, **minima
    )
    for ours, theirs in zip(spline(x, spline_knots(raw, bound), inverse), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)
    x = x.clamp(-bound, bound)
    derivatives = torch.nn.functional.pad(inner, (1, 1)) + IDENTITY_RAW
    box = dict(left=-bound, right=bound, bottom=-bound, top=bound)
    expected = rqs.rational_quadratic_spline(x, widths, heights, derivatives, inverse=inverse, **box, **minima)
    for ours, theirs in zip(spline(x, spline_knots(raw, bound), inverse), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)


@pytest.mark.parametrize("inverse", [False, True])
def test_log_derivative_is_autograds(inverse: bool) -> None:
    x, knots = random_splines(1, bound=1.0)
    ends = x.new_tensor([-1.0, 1.0, -1.5, 1.5]).unsqueeze(-1).expand(4, 4)  # where the derivative is 1 from both sides
    x = torch.cat((x, ends, knots[0, 1 if inverse else 0, 1:-1])).requires_grad_()
    value, log_derivative = spline(x, knots[:1].expand(len(x), -1, -1, -1), inverse)
    (gradient,) = torch.autograd.grad(value.sum(), x)
    torch.testing.assert_close(log_derivative.exp(), gradient, rtol=1e-10, atol=0)
    assert (log_derivative[-9:-5].abs() < 1e-14).all()


@pytest.mark.parametrize("inverse", [False, True])
def test_gradients(inverse: bool) -> None:
    torch.manual_seed(0)
    raw = torch.randn(3, 11, 2, dtype=F64, requires_grad=True)
    x = torch.tensor([[0.3, -0.7], [1.4, 0.9], [-1.9, -0.1]], dtype=F64, requires_grad=True)

    def both(x: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
        return spline(x, spline_knots(raw, 1.5), inverse)

    assert torch.autograd.gradcheck(both, (x, raw))


every_dtype = st.sampled_from([torch.float32, F64])


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**31),
    bins=st.integers(2, 16),
    bound=st.sampled_from([0.5, 1.0, 3.7, 5.0]),
    scale=st.floats(0.0, 4.0),
    dtype=every_dtype,
)
def test_increasing_and_inverted_inside_at_the_knots_at_the_bounds_and_beyond(
    seed: int, bins: int, bound: float, scale: float, dtype: torch.dtype
) -> None:
    x, knots = random_splines(seed, bins=bins, bound=bound, scale=scale, dtype=dtype)
    edge = torch.tensor(bound, dtype=dtype)
    near = torch.nextafter(edge, torch.tensor([0.0, math.inf], dtype=dtype))
    ends = torch.cat((edge.expand(1), near, bound * torch.tensor([1.001, 2.0, 1e6], dtype=dtype))).unsqueeze(-1)
    x = torch.cat((x, knots[0, 0], ends.expand(-1, 4), -ends.expand(-1, 4))).sort(0).values
    knots = knots[:1].expand(len(x), -1, -1, -1)

    y, log_derivative = spline(x, knots)
    back, inverse_log_derivative = spline(y, knots, inverse=True)
    eps = torch.finfo(dtype).eps
    assert (y[1:] - y[:-1] >= -4 * eps * bound).all()
    # What y is rounded by is divided by the slope: the least of the neighbourhood, which the error may cross.
    nearby = x + 0.02 * bound * torch.linspace(-1, 1, 9, dtype=dtype).view(9, 1, 1)
    slope = spline(nearby, knots.expand(9, *knots.shape))[1].exp().amin(0).clamp(max=1)
    inside = x.abs() <= bound
    assert ((back - x).abs() <= 200 * eps * bound / slope)[inside].all()
    # Beyond, nothing changes; at the knots nothing is lost.
    assert torch.equal(y[~inside], x[~inside]) and torch.equal(back[~inside], x[~inside])
    assert (log_derivative[~inside] == 0).all() and (inverse_log_derivative[~inside] == 0).all()
    at_knots = knots[: bins + 1]
    for source, target, inverse in ((0, 1, False), (1, 0, True)):
        value, log_derivative = spline(at_knots[0, source], at_knots, inverse)
        assert torch.equal(value, at_knots[0, target])
        expected = at_knots[0, 2].log() * (-1 if inverse else 1)
        torch.testing.assert_close(log_derivative, expected, rtol=0, atol=20 * eps)


@settings(max_examples=40)
@given(seed=st.integers(0, 2**31), scale=st.floats(0.0, 30.0), inverse=st.booleans(), dtype=every_dtype)
def test_gradients_are_finite_everywhere(seed: int, scale: float, inverse: bool, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(seed)
    raw = (scale * torch.randn(23, 4, generator=generator, dtype=dtype)).requires_grad_()
    knots = spline_knots(raw, 1.0)
    at_knots = knots[1 if inverse else 0].detach()
    x = torch.cat((at_knots, 3 * torch.randn(20, 4, generator=generator, dtype=dtype))).requires_grad_()
    value, log_derivative = spline(x, knots.expand(len(x), -1, -1, -1), inverse)
    (value.sum() + log_derivative.sum()).backward()
    for tensor in (value, log_derivative, x.grad, raw.grad):
        assert tensor.isfinite().all()


def test_nan_stays_nan() -> None:
    _, knots = random_splines(0, points=1)
    assert spline(torch.full((1, 4), math.nan, dtype=F64), knots)[0].isnan().all()


@pytest.mark.parametrize("inverse", [False, True])
def test_no_graph_breaks(inverse: bool) -> None:
    x, knots = random_splines(2)
    compiled = torch.compile(spline, fullgraph=True, backend="aot_eager")
    for ours, eager in zip(compiled(2 * x, knots, inverse), spline(2 * x, knots, inverse), strict=True):
        torch.testing.assert_close(ours, eager)
