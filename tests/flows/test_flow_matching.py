"""Flow matching against closed forms: a Gaussian's velocity is known, and with it the loss, the map and the density."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch import distributions as td

from flows import FlowMatchingFlow, make_flow

MEAN, STD = 0.7, 0.5


def matching(dtype: torch.dtype = torch.float64, **options: object) -> FlowMatchingFlow:
    torch.manual_seed(0)
    defaults = dict(horizon=3, action_dim=2, context_dim=4, width=16, depth=2)
    return FlowMatchingFlow(**defaults | options).to(dtype)


def randomise(flow: FlowMatchingFlow) -> FlowMatchingFlow:
    torch.manual_seed(2)
    for parameter in flow.parameters():
        nn.init.normal_(parameter, std=0.3)
    return flow


class GaussianVelocity(nn.Module):
    """E[a - z | x_t] for a ~ N(MEAN, STD^2): what the regression's minimum is for Gaussian chunks."""

    def forward(self, point: Tensor, time: Tensor, context: Tensor) -> Tensor:
        variance = (1 - time).square() + (time * STD).square()
        return MEAN + (time * STD**2 - (1 - time)) / variance * (point - time * MEAN)


def gaussian_matching(**options: object) -> FlowMatchingFlow:
    flow = matching(**options)
    flow.velocity = GaussianVelocity()
    return flow


def test_loss_at_the_minimum_is_what_noise_and_chunk_leave_undecided(measured: Any) -> None:
    # Var(a - z | x_t) = STD^2 / ((1 - t)^2 + (t STD)^2), whose integral over t is pi STD / 2.
    flow = gaussian_matching()
    torch.manual_seed(1)
    chunk = MEAN + STD * torch.randn(100_000, 3, 2, dtype=torch.float64)
    context = torch.zeros(100_000, 4, dtype=torch.float64)
    assert measured((flow.loss(chunk, context) / (math.pi * STD / 2) - 1).abs()) < 0.01


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("midpoint", 3)])  # of two, were it not for symmetry
def test_the_ode_of_a_gaussian_gives_its_map_and_density_at_the_order_of_the_solver(solver: str, order: int) -> None:
    torch.manual_seed(1)
    latent, context = torch.randn(5, 3, 2, dtype=torch.float64), torch.zeros(5, 4, dtype=torch.float64)
    chunk = MEAN + STD * latent
    expected = td.Normal(MEAN, STD).log_prob(chunk).sum((-2, -1))
    errors = []
    for steps in (20, 40, 80):
        flow = gaussian_matching(steps=steps, solver=solver)
        forward, log_abs_det = flow.to_chunk(latent, context)
        backward, _ = flow.to_latent(chunk, context)
        errors.append(torch.stack([
            (forward - chunk).abs().max(),
            (backward - latent).abs().max(),
            (log_abs_det - 6 * math.log(STD)).abs().max(),
            (flow.log_prob(chunk, context) - expected).abs().max(),
            flow.round_trip_error(chunk, context).max(),
        ]))  # fmt: skip
    falls = torch.stack(errors[:-1]) / torch.stack(errors[1:])
    assert (errors[-1] < (0.2 if order == 1 else 2e-4)).all()
    assert ((falls > 0.8 * 2**order) & (falls < 1.3 * 2**order)).all()


@pytest.mark.parametrize(("solver", "order", "round_trip_order"), [("euler", 1, 1), ("midpoint", 2, 3)])
def test_errors_of_a_network_fall_at_the_order_of_the_solver(solver: str, order: int, round_trip_order: int) -> None:
    context = torch.randn(4, 4, dtype=torch.float64)
    with torch.no_grad():
        reference = randomise(matching(steps=1280, solver="midpoint")).mode(context)
        errors = []
        for steps in (20, 40):
            flow = randomise(matching(steps=steps, solver=solver))
            torch.manual_seed(3)
            chunk, log_prob = flow.rsample_and_log_prob(context, n=3)
            back, _ = flow.to_chunk(flow.to_latent(chunk, context)[0], context)
            round_trip = flow.round_trip_error(chunk, context)
            torch.testing.assert_close(round_trip, (back - chunk).abs().amax((-2, -1)), rtol=0, atol=1e-13)
            density = log_prob - flow.log_prob(chunk, context)
            errors.append([x.abs().max().item() for x in (flow.mode(context) - reference, round_trip, density)])
    falls = [coarse / fine for coarse, fine in zip(*errors, strict=True)]
    for fall, expected in zip(falls, (order, round_trip_order, round_trip_order), strict=True):
        assert 0.75 * 2**expected < fall < 1.35 * 2**expected


@pytest.mark.parametrize("solver", ["euler", "midpoint"])
def test_the_estimate_is_that_of_the_exact_log_det(solver: str, measured: Any) -> None:
    exact, estimate = (matching(steps=100, solver=solver, exact_dims=dims) for dims in (6, 5))
    for flow in (exact, estimate):
        randomise(flow)
    torch.manual_seed(3)
    chunk, context = torch.randn(3, 3, 2, dtype=torch.float64), torch.randn(3, 4, dtype=torch.float64)
    with torch.no_grad():
        for name in ("to_latent", "to_chunk"):
            value, log_abs_det = getattr(exact, name)(chunk, context)
            probed, guesses = getattr(estimate, name)(chunk.unsqueeze(1).expand(-1, 300, -1, -1), context)
            torch.testing.assert_close(probed[:, 0], value, rtol=0, atol=1e-12)
            assert measured(guesses.std(1).min()) > 0.01  # a probe for every sample
            deviation = (guesses.mean(1) - log_abs_det) / guesses.std(1) * math.sqrt(300)
            assert measured(deviation.abs().max()) < 6


def test_gradients_of_the_estimate() -> None:
    flow = matching(steps=3, solver="midpoint", exact_dims=0)
    chunk, context = torch.randn(2, 3, 2, dtype=torch.float64), torch.randn(2, 4, dtype=torch.float64)

    def log_prob(chunk: Tensor, context: Tensor, *_: Tensor) -> Tensor:
        torch.manual_seed(4)  # the same probe each time
        return flow.log_prob(chunk, context)

    inputs = (chunk.requires_grad_(), context.requires_grad_(), *flow.parameters())
    assert torch.autograd.gradcheck(log_prob, inputs, fast_mode=True)


@pytest.mark.parametrize(("solver", "evaluations"), [("euler", 1), ("midpoint", 2)])
def test_sampling_costs_the_solvers_evaluations_and_no_determinant(
    solver: str, evaluations: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    flow = matching(steps=7, solver=solver)
    context, latent = torch.randn(2, 4, dtype=torch.float64), torch.zeros(2, 3, 2, dtype=torch.float64)
    expected, _ = flow.to_chunk(latent, context)
    calls = []
    flow.velocity.register_forward_hook(lambda *_: calls.append(1))
    monkeypatch.delattr(torch.func, "vjp")
    flow.sample(context, n=3)
    assert len(calls) == 7 * evaluations
    torch.testing.assert_close(flow.mode(context), expected, rtol=0, atol=1e-13)


def test_two_modes_are_learned(measured: Any) -> None:
    flow = matching(torch.float32, horizon=2, action_dim=1, context_dim=1, width=64, solver="midpoint")
    optimizer = torch.optim.Adam(flow.parameters(), lr=3e-3)
    for _ in range(600):
        context = torch.rand(256, 1) + 0.5
        sign = torch.randint(2, (256, 1, 1)) * 2.0 - 1.0
        chunk = sign * context.unsqueeze(-1) + 0.1 * torch.randn(256, 2, 1)
        optimizer.zero_grad()
        flow.loss(chunk, context).backward()
        optimizer.step()
    with torch.no_grad():
        for height in (0.6, 1.4):
            context = torch.tensor([[height]])
            sample = flow.sample(context, 2000)[0, :, :, 0]
            distance = (sample - height * sample.sign()).abs().amax(-1)
            assert measured((distance > 0.4).float().mean()) < 0.1
            assert 0.15 < measured((sample[:, 0] > 0).float().mean()) < 0.85
            on, between = flow.log_prob(torch.tensor([[[[height]] * 2, [[0.0]] * 2]]), context)[0]
            assert measured(on - between) > 1.0


@pytest.mark.parametrize("bad", [dict(steps=0), dict(width=0), dict(depth=0), dict(solver="heun"),
                                 dict(exact_dims=-1), dict(horizon=0)])  # fmt: skip
def test_bad_options_are_refused(bad: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        matching(**bad)


def test_a_guided_step_by_hand() -> None:
    """Two Euler steps. At t = 0 the expected end does not depend on the point, so only the second step is guided."""
    flow = gaussian_matching(solver="euler", steps=2)
    latent, known = torch.full((1, 1, 6), 0.3, dtype=torch.float64), torch.full((1, 1, 6), 0.9, dtype=torch.float64)
    weight = torch.tensor([1.0, 1.0, 0.5, 0.5, 0.0, 0.0], dtype=torch.float64)
    x = 0.3 + (MEAN - 0.3) / 2
    slope = -1.2  # (t STD^2 - (1 - t)) / ((1 - t)^2 + (t STD)^2) at t = 1/2
    velocity = MEAN + slope * (x - MEAN / 2)
    end, change = x + velocity / 2, 1 + slope / 2
    for strength, gain in ((5.0, 2.0), (1.5, 1.5), (0.0, 0.0)):  # (t^2 + (1 - t)^2) / (t (1 - t)) = 2
        guided = flow.guide(latent, flow.embed(torch.zeros(1, 4, dtype=torch.float64)), known, weight, strength)
        assert torch.allclose(guided[0, 0], x + (velocity + gain * change * weight * (0.9 - end)) / 2)


def test_a_normalised_flow_is_guided_in_units_of_the_action() -> None:
    torch.manual_seed(0)
    flow = make_flow("flow_matching", horizon=3, action_dim=2, context_dim=4, width=16, normalize=True, bounds="raw")
    flow.fit(torch.tensor([0.2, -0.1]), torch.tensor([0.5, 2.0]), torch.zeros(2))
    context, known = torch.randn(5, 4), torch.rand(5, 3, 2)
    weight = torch.tensor([1.0, 0.5, 0.0])
    torch.manual_seed(1)
    chunk = flow.inpaint(context, known, weight, temperature=0.5)
    torch.manual_seed(1)
    normalised = flow.flow.inpaint(context, (known - flow.center) / flow.scale, weight, temperature=0.5)
    assert torch.allclose(chunk, flow.center + flow.scale * normalised, atol=1e-6)
    torch.manual_seed(1)
    unguided = flow.inpaint(context, known, weight, temperature=0.5, strength=0.0)
    torch.manual_seed(1)
    assert torch.allclose(unguided, flow.sample(context, temperature=0.5)[:, 0], atol=1e-6)


def test_what_cannot_be_guided_is_refused() -> None:
    flow, context, known = matching(torch.float32), torch.zeros(2, 4), torch.zeros(2, 3, 2)
    with pytest.raises(ValueError, match=r"weight: expected \(3,\) numbers in \[0, 1\]"):
        flow.inpaint(context, known, torch.ones(2))
    with pytest.raises(ValueError, match=r"weight: expected \(3,\) numbers in \[0, 1\]"):
        flow.inpaint(context, known, torch.tensor([1.0, math.nan, 0.0]))
    with pytest.raises(ValueError, match="strength: expected a finite number >= 0, got -1"):
        flow.inpaint(context, known, torch.ones(3), strength=-1)
    with pytest.raises(ValueError, match="known: expected"):
        flow.inpaint(context, known[:, :2], torch.ones(3))
    coupling = make_flow("coupling", horizon=3, action_dim=2, context_dim=4)
    assert flow.guidable and not coupling.guidable
    with pytest.raises(ValueError, match="cannot be guided: only a flow that solves an ODE can"):
        coupling.inpaint(context, known, torch.ones(3))
