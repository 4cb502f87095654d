"""The baselines against torch.distributions."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch import distributions as td

from flows import ChunkFlow, FullGaussianFlow, GaussianMixtureFlow, TanhGaussianFlow

DIMS = dict(horizon=3, action_dim=2, context_dim=4)
BASELINES = [FullGaussianFlow, GaussianMixtureFlow, TanhGaussianFlow]


def randomise(flow: ChunkFlow) -> ChunkFlow:
    torch.manual_seed(0)
    for parameter in flow.parameters():
        nn.init.normal_(parameter, std=0.3)
    return flow.double()


def chunk_and_context() -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return 0.9 * torch.randn(5, 3, 2, dtype=torch.float64).tanh(), torch.randn(5, 4, dtype=torch.float64)


def full_covariance(flow: FullGaussianFlow, context: Tensor) -> td.MultivariateNormal:
    mean, log_std, lower = flow.embed(context)
    factor = log_std.exp().mT * (torch.eye(6, dtype=torch.float64) + lower)
    return td.MultivariateNormal(mean[:, 0], scale_tril=factor)


def test_full_gaussian_is_that_of_torch_distributions(measured: Any) -> None:
    flow = randomise(FullGaussianFlow(width=16, **DIMS))
    chunk, context = chunk_and_context()
    oracle = full_covariance(flow, context)
    torch.testing.assert_close(flow.log_prob(chunk, context), oracle.log_prob(chunk.flatten(1)), rtol=0, atol=1e-12)
    with torch.no_grad():
        sample = flow.sample(context[:1], 100_000)[0].flatten(1)
    covariance = oracle.covariance_matrix[0].detach()
    unit = covariance.diagonal().sqrt()
    assert (covariance / unit / unit.unsqueeze(1)).tril(-1).abs().max() > 0.2  # there is something to find
    assert measured(((sample.T.cov() - covariance) / unit / unit.unsqueeze(1)).abs().max()) < 0.03


def test_a_new_full_gaussian_is_diagonal_and_stays_positive_definite() -> None:
    flow = FullGaussianFlow(width=16, log_std_bound=2.0, **DIMS)
    context = torch.randn(3, 4)
    assert torch.equal(flow.embed(context)[2], torch.zeros(3, 6, 6))
    nn.init.normal_(flow.log_std.weight, std=1e4)
    _, log_std, _ = flow.embed(context)
    assert 1.9 < log_std.abs().max() <= 2.0


def test_tanh_gaussian_is_that_of_torch_distributions() -> None:
    flow = randomise(TanhGaussianFlow(width=16, **DIMS))
    chunk, context = chunk_and_context()
    mean, log_std = flow.embed(context)
    oracle = td.TransformedDistribution(td.Normal(mean[:, 0], log_std[:, 0].exp()), td.TanhTransform())
    expected = oracle.log_prob(chunk.flatten(1)).sum(-1)
    torch.testing.assert_close(flow.log_prob(chunk, context), expected, rtol=0, atol=1e-12)
    assert flow.sample(context, 1000).abs().max() < 1


@pytest.mark.parametrize("value", [1.0, -1.0, 1.5, math.nan])
def test_tanh_gaussian_has_no_density_at_the_bounds(value: float) -> None:
    flow = TanhGaussianFlow(width=16, **DIMS)
    chunk, context = torch.zeros(2, 3, 2), torch.zeros(2, 4)
    chunk[1, 2, 0] = value
    for method in (flow.log_prob, flow.to_latent, flow.loss):
        with pytest.raises(ValueError, match=r"bounds='atanh'"):
            method(chunk, context)


def test_a_saturated_tanh_gaussian_draws_with_finite_log_prob_and_gradient() -> None:
    flow = TanhGaussianFlow(width=16, **DIMS)
    nn.init.constant_(flow.net[-1].bias[:6], 15.0)  # tanh(15) is 1 in float32
    chunk, log_prob = flow.rsample_and_log_prob(torch.zeros(2, 4), n=3)
    log_prob.sum().backward()
    assert (chunk == 1 - 2**-24).all() and flow.log_prob(chunk, torch.zeros(2, 4)).isfinite().all()
    assert log_prob.isfinite().all() and (log_prob > 100).all()  # steep: six slopes of about 4 exp(-30)
    assert all(p.grad.isfinite().all() for p in flow.parameters())


def test_gaussian_mixture_is_that_of_torch_distributions() -> None:
    flow = randomise(GaussianMixtureFlow(width=16, components=3, **DIMS))
    chunk, context = chunk_and_context()
    log_weight, mean, log_scale = flow.base(context)
    components = td.Independent(td.Normal(mean, log_scale.exp()), 1)
    oracle = td.MixtureSameFamily(td.Categorical(logits=log_weight), components)
    torch.testing.assert_close(flow.log_prob(chunk, context), oracle.log_prob(chunk.flatten(1)), rtol=0, atol=1e-12)


@pytest.mark.parametrize("flow", BASELINES)
@pytest.mark.parametrize("bad", [dict(width=0), dict(log_std_bound=0.0), dict(horizon=0), dict(dropout=1.5)])
def test_bad_options_are_refused(flow: type[ChunkFlow], bad: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        flow(**DIMS | bad)
