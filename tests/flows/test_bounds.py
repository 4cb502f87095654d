"""Bounded actions: the atanh of the shrunk action, its tangents, and noise in training."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch import distributions as td

from flows import BoundedFlow, CouplingFlow, available_flows, make_flow
from flows.bounds import log_tanh_slope
from tests.flows.flow_cases import OPEN_BOX, SMALL

DIMS = dict(horizon=3, action_dim=2, context_dim=4)
U_JOIN = math.atanh(0.99)


def bounded_gaussian(dtype: torch.dtype = torch.float64, **options: object) -> BoundedFlow:
    torch.manual_seed(0)
    flow = make_flow("gaussian", width=16, **DIMS, **dict(bounds="atanh") | options).to(dtype)
    assert isinstance(flow, BoundedFlow)
    return flow


def column(values: list[float] | Tensor) -> Tensor:
    """(d,) -> (d, 1): one number is mapped at a time."""
    return torch.as_tensor(values, dtype=torch.float64).unsqueeze(-1)


def test_log_tanh_slope_by_hand() -> None:
    u = torch.tensor([-20.0, -1.0, 0.0, 1.0, 20.0, 400.0], dtype=torch.float64)
    one = math.log(1 - math.tanh(1) ** 2)
    far = [math.log(4) - 2 * x for x in (20, 400)]  # 1 - tanh^2 = 4 exp(-2u) / (1 + exp(-2u))^2
    expected = torch.tensor([far[0], one, 0.0, one, *far], dtype=torch.float64)
    torch.testing.assert_close(log_tanh_slope(u), expected, rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(log_tanh_slope(u.float()), expected.float())


def test_within_the_box_the_density_lives_on_the_atanh_of_the_shrunk_action() -> None:
    flow = bounded_gaussian()
    torch.manual_seed(1)
    chunk, context = torch.rand(5, 3, 2, dtype=torch.float64) * 2 - 1, torch.randn(5, 4, dtype=torch.float64)
    chunk[0] = 1.0
    chunk[1, 0] = -1.0
    mean, log_std = flow.embed(context)
    slope = 0.9 / (1 - (0.9 * chunk).square())
    expected = td.Normal(mean[:, 0], log_std[:, 0].exp()).log_prob((0.9 * chunk).atanh().flatten(1)).sum(-1)
    expected = expected + slope.log().sum((-2, -1))
    torch.testing.assert_close(flow.log_prob(chunk, context), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(flow.loss(chunk, context), -expected.mean() / 6, rtol=0, atol=1e-12)


def test_beyond_the_join_the_map_is_its_tangent() -> None:
    flow = bounded_gaussian()
    slope = 0.9 / (1 - 0.99**2)
    u, log_abs_det = flow._unbound(column([1.1, 1.2, 11.1, -11.1]))
    expected = [U_JOIN, U_JOIN + 0.1 * slope, U_JOIN + 10 * slope, -U_JOIN - 10 * slope]
    torch.testing.assert_close(u, column(expected), rtol=1e-12, atol=0)
    torch.testing.assert_close(log_abs_det, torch.full((4,), math.log(slope), dtype=torch.float64))
    # No step and no kink where the two meet.
    near = column([1.1 - 1e-9, 1.1 + 1e-9])
    (low, high), logs = flow._unbound(near)
    assert (high - low).item() == pytest.approx(2e-9 * slope, rel=1e-5)
    assert logs[0].item() == pytest.approx(logs[1].item(), abs=1e-6)


@given(st.floats(-50, 50), st.floats(0.1, 0.99))
def test_the_map_is_inverted_anywhere(value: float, shrink: float) -> None:
    flow = BoundedFlow(make_flow("gaussian", width=4, **DIMS), shrink=shrink)
    u, forward = flow._unbound(column([value]))
    back, backward = flow._bound(u)
    assert back.item() == pytest.approx(value, abs=1e-12, rel=1e-12)
    assert (forward + backward).item() == pytest.approx(0.0, abs=1e-12)
    assert u.item() * value >= 0


def test_float32_inverts_what_tanh_would_round_away(measured: Any) -> None:
    flow = bounded_gaussian()
    u = torch.linspace(-15, 15, 3001).unsqueeze(-1)
    chunk, _ = flow._bound(u)
    assert measured((flow._unbound(chunk)[0] - u).abs().max()) < 1e-4
    assert chunk.abs().max() < 1.4
    assert u[-1].tanh() == 1.0


def test_the_density_of_one_number_integrates_to_one() -> None:
    torch.manual_seed(0)
    flow = make_flow("gaussian", horizon=1, action_dim=1, context_dim=4, width=16, bounds="atanh").double()
    for bias in (0.0, 2.5):  # in the middle; and half of it on the tangent
        nn.init.constant_(flow.flow.net[-1].bias, bias)
        axis = torch.linspace(-3, 3, 300_001, dtype=torch.float64)
        density = flow.log_prob(axis.view(1, -1, 1, 1), torch.zeros(1, 4, dtype=torch.float64)).exp()
        assert torch.trapezoid(density[0], axis).item() == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("name", sorted(set(available_flows()) & set(SMALL) - OPEN_BOX))
def test_any_flow_can_be_bounded(name: str) -> None:
    torch.manual_seed(0)
    flow = make_flow(name, **DIMS, **SMALL[name][0] | dict(bounds="atanh", noise=0.03))
    chunk, context = torch.ones(4, 3, 2), torch.randn(4, 4)
    chunk[::2] = -1
    loss = flow.loss(chunk, context)
    loss.backward()
    assert loss.isfinite() and flow.log_prob(chunk, context).isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in flow.parameters())
    assert flow.sample(context).shape == (4, 1, 3, 2)
    assert all(key.startswith("flow.") for key in flow.state_dict())  # nothing is stored twice
    assert flow.loss_is_nll == flow.flow.loss_is_nll


def test_a_regression_loss_is_that_of_the_atanh() -> None:
    flow = make_flow("flow_matching", width=16, bounds="atanh", **DIMS).double()
    chunk, context = torch.ones(4, 3, 2, dtype=torch.float64), torch.randn(4, 4, dtype=torch.float64)
    torch.manual_seed(3)
    loss = flow.loss(chunk, context)
    torch.manual_seed(3)
    torch.testing.assert_close(loss, flow.flow.loss((0.9 * chunk).atanh(), context))


@pytest.mark.parametrize(("law", "spread"), [("gaussian", 1.0), ("uniform", 1 / math.sqrt(3))])
@pytest.mark.parametrize("bounds", ["raw", "atanh"])
def test_noise_is_added_in_the_training_loss_alone(bounds: str, law: str, spread: float, measured: Any) -> None:
    flow = bounded_gaussian(bounds=bounds, noise=0.05, noise_law=law)
    seen: list[Tensor] = []
    row_loss = flow.flow.row_loss
    flow.flow.row_loss = lambda u, context: (seen.append(flow._bound(u)[0]), row_loss(u, context))[1]
    chunk, context = torch.ones(5000, 3, 2, dtype=torch.float64), torch.zeros(5000, 4, dtype=torch.float64)
    before = flow.log_prob(chunk, context)
    assert flow.training
    flow.loss(chunk, context)
    noise = (seen[-1] - chunk).flatten()
    assert measured((noise.std() / (0.05 * spread) - 1).abs()) < 0.03
    assert measured(noise.mean().abs()) < 0.002
    assert law == "gaussian" or noise.abs().max() <= 0.05
    assert torch.equal(flow.log_prob(chunk, context), before)
    flow.eval()
    torch.testing.assert_close(flow.loss(chunk, context), -before.mean() / 6)
    torch.testing.assert_close(seen[-1], chunk)


@settings(max_examples=20)
@given(st.floats(0.001, 0.3))
def test_noisy_loss_is_the_likelihood_of_the_noisy_chunk(noise: float) -> None:
    flow = bounded_gaussian(noise=noise)
    chunk, context = torch.ones(4, 3, 2, dtype=torch.float64), torch.randn(4, 4, dtype=torch.float64)
    torch.manual_seed(5)
    loss = flow.loss(chunk, context)
    torch.manual_seed(5)
    torch.testing.assert_close(loss, -flow.log_prob(chunk + noise * torch.randn_like(chunk), context).mean() / 6)


def test_without_bounds_or_noise_nothing_is_wrapped() -> None:
    assert type(make_flow("coupling", width=16, **DIMS)) is CouplingFlow
    assert type(make_flow("coupling", width=16, bounds="raw", noise=0.0, **DIMS)) is CouplingFlow
    flow = make_flow("coupling", width=16, bounds="atanh", noise=0.1, noise_law="uniform", **DIMS)
    assert isinstance(flow, BoundedFlow) and type(flow.flow) is CouplingFlow
    assert (flow.bounds, flow.shrink, flow.noise_size, flow.noise_law) == ("atanh", 0.9, 0.1, "uniform")


@pytest.mark.parametrize("bad", [dict(bounds="tanh"), dict(noise=-0.1), dict(noise=math.inf), dict(noise_law="normal")])
def test_bad_options_are_refused(bad: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        make_flow("gaussian", **DIMS, **bad)
    with pytest.raises(ValueError, match="shrink"):
        BoundedFlow(make_flow("gaussian", **DIMS), shrink=1.0)
    with pytest.raises(ValueError, match=r"unknown option 'bound' of flow 'gaussian'; did you mean 'bounds'\?"):
        make_flow("gaussian", bound="atanh", **DIMS)
