"""FlowPolicy: what is clipped, what is not, and that the flow's promises reach through the policy."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor

from softflow.policies import FlowPolicy

HORIZON, ACTION_DIM, OBSERVATION_DIM = 3, 2, 4
FLOWS = [
    ("coupling", dict(layers=2, width=8, components=3)),
    ("coupling", dict(layers=2, width=8, base="gaussian")),
    ("gaussian", dict(width=8)),
]
every_flow = pytest.mark.parametrize(("flow", "options"), FLOWS, ids=["mixture", "coupling", "gaussian"])


def make_policy(flow: str, options: dict, spread: float = 0.3) -> FlowPolicy:
    """A policy with random weights and statistics, in float64."""
    torch.manual_seed(0)
    policy = FlowPolicy(OBSERVATION_DIM, ACTION_DIM, HORIZON, flow, options).double()
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.normal_(std=spread)
    policy.normalizer.fit(torch.randn(OBSERVATION_DIM), torch.rand(OBSERVATION_DIM) + 0.5)
    return policy


def observations() -> Tensor:
    torch.manual_seed(1)
    return torch.randn(5, OBSERVATION_DIM, dtype=torch.float64)


@every_flow
def test_proposals_are_clipped_to_the_box(flow: str, options: dict) -> None:
    policy = make_policy(flow, options)
    torch.manual_seed(2)
    free, _ = policy.propose_with_log_prob(observations(), 20)
    torch.manual_seed(2)
    proposed = policy.propose(observations(), 20)
    assert proposed.shape == (5, 20, HORIZON, ACTION_DIM)
    assert free.abs().max() > 1.1 and free.abs().min() < 0.9
    assert torch.equal(proposed, free.clamp(-1, 1))
    assert policy.greedy(observations()).abs().max() <= 1


@every_flow
def test_proposals_carry_gradients_inside_the_box(flow: str, options: dict) -> None:
    policy = make_policy(flow, options)
    proposed = policy.propose(observations(), 4)
    proposed.sum().backward()
    gradients = [parameter.grad for parameter in policy.parameters() if parameter.grad is not None]
    assert gradients and any(gradient.abs().max() > 0 for gradient in gradients)


@every_flow
def test_log_probs_are_those_before_clipping(flow: str, options: dict) -> None:
    policy = make_policy(flow, options)
    chunk, log_prob = policy.propose_with_log_prob(observations(), 20)
    assert chunk.abs().max() > 1
    torch.testing.assert_close(policy.log_prob(observations(), chunk), log_prob)
    assert not torch.allclose(policy.log_prob(observations(), chunk.clamp(-1, 1)), log_prob)


@every_flow
def test_decoding_inverts_the_flow_inside_the_box(flow: str, options: dict) -> None:
    policy = make_policy(flow, options)
    chunk = torch.rand(5, HORIZON, ACTION_DIM, dtype=torch.float64) * 2 - 1
    latent, _ = policy.flow.to_latent(chunk, policy.normalizer(observations()))
    assert latent.shape[1:] == policy.latent_shape
    torch.testing.assert_close(policy.decode(observations(), latent), chunk, rtol=0, atol=1e-10)
    outside, _ = policy.flow.to_latent(3 * chunk, policy.normalizer(observations()))
    torch.testing.assert_close(policy.decode(observations(), outside), (3 * chunk).clamp(-1, 1), rtol=0, atol=1e-10)


@pytest.mark.parametrize("likeliest", [0, 2])
def test_greedy_is_the_noiseless_chunk_of_the_likeliest_component(likeliest: int, measured: Any) -> None:
    policy = make_policy(*FLOWS[0])
    with torch.no_grad():
        policy.flow.base.logit.weight.zero_()
        policy.flow.base.logit.bias.copy_(torch.tensor([1.0, 1.0, 1.0]))
        policy.flow.base.logit.bias[likeliest] = 2.0
    means = policy.flow.base(policy.normalizer(observations())).mean
    centres = torch.stack(
        [policy.decode(observations(), means[:, k].unflatten(-1, (HORIZON, ACTION_DIM))) for k in range(3)], 1
    )
    assert torch.equal(policy.greedy(observations()), centres[:, likeliest])
    # At temperature 0 nothing but the centres is proposed, each as often as its weight says: e / (e + 2) = 0.58.
    proposed = policy.propose(observations()[:1], 3000, temperature=0.0)[0]
    distance = (proposed.unsqueeze(1) - centres[0]).abs().amax((-2, -1))
    assert distance.amin(-1).max() < 1e-12
    assert measured(((distance.argmin(-1) == likeliest).double().mean() - 0.576).abs()) < 0.05


@every_flow
def test_conservative_loss_is_the_nll_per_dimension(flow: str, options: dict) -> None:
    policy = make_policy(flow, options)
    chunk, observation = torch.rand(5, HORIZON, ACTION_DIM, dtype=torch.float64), observations()
    log_prob = policy.log_prob(observation, chunk) / (HORIZON * ACTION_DIM)
    torch.testing.assert_close(policy.bc_loss(observation, chunk), -log_prob.mean())
    weight = torch.tensor([1.0, 0.0, 0.0, 0.0, 3.0])
    expected = -(log_prob[0] + 3 * log_prob[4]) / 4
    torch.testing.assert_close(policy.bc_loss(observation, chunk, weight), expected)


@every_flow
def test_observations_are_normalised(flow: str, options: dict) -> None:
    policy, twin = make_policy(flow, options), make_policy(flow, options)
    mean, std = policy.normalizer.mean, policy.normalizer.std
    twin.normalizer.fit(10 * mean + 7, 10 * std)  # the same statistics in other units
    torch.testing.assert_close(twin.greedy(10 * observations() + 7), policy.greedy(observations()))
    assert not torch.allclose(policy.greedy(10 * observations() + 7), policy.greedy(observations()))


@every_flow
def test_description_and_weights_make_the_same_policy(flow: str, options: dict) -> None:
    policy = make_policy(flow, options)
    twin = FlowPolicy(**json.loads(json.dumps(policy.describe()))).double()
    with pytest.raises(RuntimeError, match="no observation statistics"):
        twin.greedy(observations())
    twin.load_state_dict(policy.state_dict())
    assert torch.equal(twin.greedy(observations()), policy.greedy(observations()))


def test_unknown_flows_and_options_are_refused() -> None:
    with pytest.raises(ValueError, match="did you mean 'coupling'"):
        FlowPolicy(4, 2, 3, "couplin")
    with pytest.raises(ValueError, match="did you mean 'width'"):
        FlowPolicy(4, 2, 3, "coupling", {"widht": 8})
