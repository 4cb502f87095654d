"""Base densities, and what temperature does."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import distributions as td

from flows import CouplingFlow, GaussianBase, MixtureBase
from flows.bases import MixtureParams, bounded


def random_params(rows: int = 3, components: int = 4, dim: int = 5) -> MixtureParams:
    torch.manual_seed(0)
    mean, log_scale = torch.randn(2, rows, components, dim, dtype=torch.float64)
    return MixtureParams(torch.randn(rows, components, dtype=torch.float64).log_softmax(-1), mean, log_scale)


def test_bounded_by_hand() -> None:
    x = torch.tensor([-6.0, -2.0, 0.0, 2.0, 1e30], dtype=torch.float64, requires_grad=True)
    y = bounded(x, 2.0)
    torch.testing.assert_close(y.detach(), torch.tensor([-1.5, -1.0, 0.0, 1.0, 2.0], dtype=torch.float64))
    y[:4].sum().backward()
    torch.testing.assert_close(x.grad, torch.tensor([1 / 16, 1 / 4, 1.0, 1 / 4, 0.0], dtype=torch.float64))


@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6), st.floats(0.1, 10.0))
def test_bounded_stays_within_its_bound_and_keeps_order_and_sign(x: float, y: float, bound: float) -> None:
    low, high, mirrored = bounded(torch.tensor([min(x, y), max(x, y), -max(x, y)], dtype=torch.float64), bound).tolist()
    assert -bound < low <= high + 1e-12 and high < bound
    assert mirrored == -high


def test_mixture_log_prob_is_that_of_torch_distributions() -> None:
    params = random_params()
    latent = torch.randn(3, 6, 5, dtype=torch.float64)
    components = td.Independent(td.Normal(params.mean, params.log_scale.exp()), 1)
    oracle = td.MixtureSameFamily(td.Categorical(logits=params.log_weight), components)
    expected = oracle.log_prob(latent.transpose(0, 1)).T
    torch.testing.assert_close(MixtureBase(5, 2, 4).log_prob(latent, params), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("temperature", [1.0, 0.35])
def test_log_prob_at_a_temperature_is_of_what_is_drawn_at_it(temperature: float) -> None:
    """A normal of that standard deviation; a mixture whose components are as much narrower, its weights the same."""
    latent, params = torch.randn(3, 6, 5, dtype=torch.float64), random_params()
    normal, mixture = GaussianBase(5), MixtureBase(5, 2, 4)
    expected = td.Normal(0.0, torch.tensor(temperature, dtype=torch.float64)).log_prob(latent).sum(-1)
    torch.testing.assert_close(normal.log_prob(latent, latent[:, 0, :0], temperature), expected, rtol=0, atol=1e-11)
    components = td.Independent(td.Normal(params.mean, temperature * params.log_scale.exp()), 1)
    oracle = td.MixtureSameFamily(td.Categorical(logits=params.log_weight), components)
    expected = oracle.log_prob(latent.transpose(0, 1)).T
    torch.testing.assert_close(mixture.log_prob(latent, params, temperature), expected, rtol=1e-12, atol=0)


def test_a_far_component_gets_no_gradient_and_no_subnormal_one() -> None:
    mean = torch.tensor([[[0.0], [10.5], [13.5]]], requires_grad=True)  # the others 49.9 and 84.4 nats below
    params = MixtureParams(torch.full((1, 3), 1 / 3).log(), mean, torch.zeros(1, 3, 1))
    latent = torch.tensor([[[0.5]]])
    (gradient,) = torch.autograd.grad(MixtureBase(1, 2, 3).log_prob(latent, params).sum(), mean)
    assert gradient[0, 0].item() == pytest.approx(0.5)
    assert 0 > gradient[0, 1].item() > -1e-16 and gradient[0, 2].item() == 0.0


def test_gaussian_log_prob_is_that_of_torch_distributions() -> None:
    latent = torch.randn(3, 6, 5, dtype=torch.float64)
    expected = td.Normal(0.0, 1.0).log_prob(latent).sum(-1)
    base = GaussianBase(5)
    torch.testing.assert_close(base.log_prob(latent, base(latent[:, 0])), expected, rtol=0, atol=1e-12)


def test_modes() -> None:
    params = random_params(rows=4)
    likeliest = params.log_weight.argmax(-1)
    assert len(likeliest.unique()) > 1
    mode = MixtureBase(5, 2, 4).mode(params)
    assert torch.equal(mode, torch.stack([params.mean[row, k] for row, k in enumerate(likeliest)]))
    gaussian = GaussianBase(5)
    mode = gaussian.mode(gaussian(params.log_weight))
    assert torch.equal(mode, torch.zeros(4, 5, dtype=torch.float64))


def test_mixture_parameters_depend_on_the_context_and_stay_bounded() -> None:
    base = MixtureBase(5, 2, components=4)
    torch.nn.init.normal_(base.log_scale.weight, std=1e5)
    with torch.no_grad():
        params = base(torch.randn(3, 2))
    assert params.mean.shape == params.log_scale.shape == (3, 4, 5)
    torch.testing.assert_close(params.log_weight.exp().sum(-1), torch.ones(3))
    assert not torch.equal(params.mean[0], params.mean[1])
    assert params.log_scale.abs().max().item() == pytest.approx(3.0, abs=1e-3)


def test_mixture_components_are_drawn_by_their_weights_at_every_temperature(measured: Any) -> None:
    params = random_params(rows=1)
    for temperature in (0.0, 0.01):
        latent = MixtureBase(5, 2, 4).sample(params, 20_000, temperature)
        nearest = (latent.unsqueeze(2) - params.mean.unsqueeze(1)).norm(dim=-1).argmin(-1)
        share = torch.bincount(nearest[0], minlength=4) / 20_000
        assert measured((share - params.log_weight[0].exp()).abs().max()) < 0.02


def test_mixture_at_temperature_zero_gives_component_means() -> None:
    params = random_params()
    latent = MixtureBase(5, 2, 4).sample(params, 50, temperature=0.0)
    distance = (latent.unsqueeze(2) - params.mean.unsqueeze(1)).norm(dim=-1).amin(-1)
    assert distance.max() == 0.0
    assert all(len(latent[row].unique(dim=0)) > 1 for row in range(3))


@settings(max_examples=20)
@given(st.floats(0.01, 4.0))
def test_temperature_scales_the_noise(temperature: float) -> None:
    params = random_params()
    for base, given_params in ((MixtureBase(5, 2, 4), params), (GaussianBase(5), params.log_weight[:, :0])):
        draws = []
        for scale in (0.0, 1.0, temperature):
            torch.manual_seed(4)
            draws.append(base.sample(given_params, 8, scale))
        centre, unit, scaled = draws
        torch.testing.assert_close(scaled - centre, temperature * (unit - centre), rtol=1e-9, atol=1e-12)


def test_flow_at_temperature_zero_gives_the_chunks_of_the_means() -> None:
    torch.manual_seed(0)
    context = torch.randn(2, 3, dtype=torch.float64)
    gaussian = CouplingFlow(horizon=2, action_dim=2, context_dim=3, layers=2, width=8, base="gaussian")
    mixture = CouplingFlow(horizon=2, action_dim=2, context_dim=3, layers=2, width=8, components=2)
    for flow in (gaussian.double(), mixture.double()):
        for conditioner in flow.conditioners:
            torch.nn.init.normal_(conditioner.output.weight, std=0.5)
            torch.nn.init.normal_(conditioner.output.bias, std=0.5)
    only, _ = gaussian.to_chunk(context.new_zeros(2, 2, 2), context)
    drawn = gaussian.sample(context, 4, temperature=0.0)
    torch.testing.assert_close(drawn, only.unsqueeze(1).expand(-1, 4, -1, -1), rtol=0, atol=1e-12)
    means, _ = mixture.to_chunk(mixture.base(context).mean.unflatten(-1, (2, 2)), context)
    drawn = mixture.sample(context, 30, temperature=0.0)
    distance = (drawn.unsqueeze(2) - means.unsqueeze(1)).flatten(3).norm(dim=-1)
    assert distance.amin(-1).max() < 1e-12
    assert distance.argmin(-1).unique().tolist() == [0, 1]


def test_pathwise_gradients_reach_means_and_scales_and_pass_weights_by() -> None:
    params = MixtureParams(*(x.requires_grad_() for x in random_params()))
    MixtureBase(5, 2, 4).sample(params, 50).sum().backward()
    assert params.mean.grad is not None and params.log_scale.grad is not None and params.log_weight.grad is None
    # Each of the 50 draws adds its whole gradient to the mean of one component.
    assert params.mean.grad.sum() == pytest.approx(3 * 50 * 5)
