"""Normalised actions: exact densities, the loss in normalised units, noise, and statistics that are never lost.

`test_flow_contract.py` checks the rest of the contract.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from flows import NormalizedFlow, make_flow
from tests.flows.flow_cases import OPEN_BOX, SMALL

DIMS = dict(horizon=3, action_dim=2, context_dim=4)
CENTER, SCALE, NOISE = ([0.25, -0.5], [0.001, 0.5], [0.0002, 0.05])
both_bounds = pytest.mark.parametrize("bounds", ["raw", "atanh"])


def double(*values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def normalized(name: str = "coupling", fitted: bool = True, **options: Any) -> NormalizedFlow:
    torch.manual_seed(0)
    flow = make_flow(name, **DIMS, normalize=True, **SMALL[name][0] | options).double()
    assert isinstance(flow, NormalizedFlow)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.normal_(std=0.3)
    if fitted:
        flow.fit(double(*CENTER), double(*SCALE), double(*NOISE))
    return flow


def batch(rows: int = 5) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    chunk = double(*CENTER) + double(*SCALE) * torch.randn(rows, 3, 2, dtype=torch.float64)
    return chunk.clamp(-1, 1), torch.randn(rows, 4, dtype=torch.float64)


def test_the_density_is_the_wrapped_flows_in_other_units() -> None:
    flow, (chunk, context) = normalized(), batch()
    x = (chunk - double(*CENTER)) / double(*SCALE)
    expected = flow.flow.log_prob(x, context)
    log_prob = flow.log_prob(chunk, context)
    torch.testing.assert_close(log_prob, expected - 3 * (math.log(0.001) + math.log(0.5)))
    torch.testing.assert_close(flow.in_normalized_units(log_prob), expected)
    torch.testing.assert_close(flow.eval().loss(chunk, context), -expected.mean() / 6)


@both_bounds
def test_log_det_is_that_of_autograds_jacobian_at_unlike_scales(bounds: str) -> None:
    flow, (chunk, context) = normalized(bounds=bounds), batch(2)
    for map_, start in ((flow.to_latent, chunk), (flow.to_chunk, torch.randn_like(chunk))):
        reported = map_(start, context)[1]
        for row in range(2):
            jacobian = torch.autograd.functional.jacobian(
                lambda x, row=row, map_=map_: map_(x.reshape(1, 3, 2), context[row : row + 1])[0].flatten(),
                start[row].flatten(),
            )
            assert (torch.linalg.slogdet(jacobian).logabsdet - reported[row]).abs() < 1e-8


def test_between_atanh_and_flow() -> None:
    """Statistics are those of u = atanh(0.9 a), so a chunk at the bounds and its density are as without them."""
    flow = normalized("gaussian", bounds="atanh")
    chunk, context = torch.ones(2, 3, 2, dtype=torch.float64), torch.zeros(2, 4, dtype=torch.float64)
    chunk[1] = -0.3
    u = (0.9 * chunk).atanh()
    torch.testing.assert_close(flow.unbounded(chunk), u)
    expected = flow.flow.log_prob((u - double(*CENTER)) / double(*SCALE), context) - 3 * math.log(0.001 * 0.5)
    expected = expected + (0.9 / (1 - (0.9 * chunk).square())).log().sum((-2, -1))
    torch.testing.assert_close(flow.log_prob(chunk, context), expected)
    low, high = ((double(*CENTER) + sign * double(*SCALE)).tanh() / 0.9 for sign in (-1, 1))
    torch.testing.assert_close(flow.action_scale, (high - low) / 2)
    torch.testing.assert_close(flow.action_center, double(*CENTER).tanh() / 0.9)
    in_units = -flow.in_normalized_units(flow.log_prob(chunk, context)).mean() / 6
    torch.testing.assert_close(flow.eval().loss(chunk, context), in_units)


@pytest.mark.parametrize("name", ["coupling", "flow_matching"])
@settings(max_examples=20)
@given(unit=st.floats(1e-4, 10), shift=st.floats(-1, 1))
def test_the_loss_does_not_depend_on_the_unit_of_an_action(name: str, unit: float, shift: float) -> None:
    flow, (chunk, context) = normalized(name), batch()
    losses = []
    for scale, offset in ((1.0, 0.0), (unit, shift)):
        flow.fit(scale * double(*CENTER) + offset, scale * double(*SCALE), scale * double(*NOISE))
        torch.manual_seed(3)
        losses.append(flow.loss(scale * chunk + offset, context))
    torch.testing.assert_close(*losses, rtol=1e-6, atol=1e-8)


@both_bounds
@pytest.mark.parametrize(("law", "spread"), [("gaussian", 1.0), ("uniform", 1 / math.sqrt(3))])
@pytest.mark.parametrize(("fraction", "sizes"), [(None, NOISE), (0.1, [0.0001, 0.05])])
def test_noise_is_that_of_each_dimension(
    bounds: str, law: str, spread: float, fraction: float | None, sizes: list[float], measured: Any
) -> None:
    flow = normalized("gaussian", bounds=bounds, noise_law=law, **({} if fraction is None else {"noise": fraction}))
    torch.testing.assert_close(flow.noise, double(*sizes))
    seen: list[Tensor] = []
    row_loss = flow.flow.row_loss
    flow.flow.row_loss = lambda x, context: (seen.append(x), row_loss(x, context))[1]
    chunk, context = double(*CENTER).expand(4000, 3, 2), torch.zeros(4000, 4, dtype=torch.float64)
    x = (flow.unbounded(chunk) - double(*CENTER)) / double(*SCALE)
    flow.loss(chunk, context)
    added = (seen[-1] - x).flatten(0, 1).std(0) * double(*SCALE) / spread
    assert measured((added / double(*sizes) - 1).abs().max()) < 0.04
    flow.eval().loss(chunk, context)
    assert torch.equal(seen[-1], x)


def test_no_noise() -> None:
    flow, (chunk, context) = normalized(noise=0.0), batch()
    assert flow.training and flow.noise.tolist() == [0.0, 0.0]
    state = torch.get_rng_state()
    loss = flow.loss(chunk, context)
    assert torch.equal(torch.get_rng_state(), state) and torch.equal(loss, flow.eval().loss(chunk, context))


def test_samples_of_a_new_flow_have_the_scales_of_the_actions() -> None:
    flow = make_flow("coupling", **DIMS, base="gaussian", normalize=True)
    flow.fit(*(torch.tensor(values) for values in (CENTER, SCALE, NOISE)))  # the map of a new flow is the identity
    drawn = flow.sample(torch.zeros(1, 4), 20_000).flatten(0, 2)
    torch.testing.assert_close(drawn.mean(0), torch.tensor(CENTER), rtol=0.02, atol=0.02)
    torch.testing.assert_close(drawn.std(0), torch.tensor(SCALE), rtol=0.02, atol=0)
    exact = torch.tensor(CENTER).expand(1, 3, 2)
    assert torch.equal(flow.mode(torch.zeros(1, 4)), exact)


def test_without_statistics_it_refuses_to_run() -> None:
    flow, (chunk, context) = normalized(fitted=False), batch()
    uses = [
        lambda: flow.log_prob(chunk, context),
        lambda: flow.loss(chunk, context),
        lambda: flow.sample(context),
        lambda: flow.mode(context),
        lambda: flow.to_chunk(chunk, context),
        lambda: flow.action_scale,
        lambda: flow.action_center,
    ]
    for use in uses:
        with pytest.raises(RuntimeError, match="no action statistics: fit them to demonstrations, or load a whole"):
            use()


def test_statistics_survive_saving_and_copying() -> None:
    flow, (chunk, context) = normalized(), batch()
    loaded = normalized(fitted=False)
    loaded.load_state_dict(flow.state_dict())
    for twin in (loaded, copy.deepcopy(flow)):
        assert torch.equal(twin.log_prob(chunk, context), flow.log_prob(chunk, context))
    nn.Sequential(loaded).load_state_dict(nn.Sequential(normalized(fitted=False)).state_dict())
    with pytest.raises(RuntimeError, match="no action statistics"):
        loaded.log_prob(chunk, context)
    state = {name: value for name, value in flow.state_dict().items() if name != "scale"}
    with pytest.raises(RuntimeError, match=r'Missing key\(s\) in state_dict: "scale"'):
        loaded.load_state_dict(state)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(center=[0.0]), r"center: expected \(2,\) finite numbers"),
        (dict(scale=[1.0, math.inf]), r"scale: expected \(2,\) finite numbers"),
        (dict(noise=[math.nan, 0.0]), r"noise: expected \(2,\) finite numbers"),
        (dict(scale=[1.0, 0.0]), "scale: expected positive"),
        (dict(noise=[0.0, -1.0]), "noise: expected numbers >= 0"),
    ],
)
def test_bad_statistics_are_refused(changes: dict[str, list[float]], message: str) -> None:
    flow = normalized(fitted=False)
    given = dict(center=CENTER, scale=SCALE, noise=NOISE) | changes
    with pytest.raises(ValueError, match=message):
        flow.fit(**{name: double(*values) for name, values in given.items()})
    with pytest.raises(RuntimeError, match="no action statistics"):
        flow.sample(torch.zeros(1, 4, dtype=torch.float64))


@pytest.mark.parametrize("name", sorted(OPEN_BOX))
def test_a_density_within_the_bounds_alone_cannot_be_normalised(name: str) -> None:
    with pytest.raises(ValueError, match=f"flow '{name}' has a density only within"):
        make_flow(name, **DIMS, normalize=True)
