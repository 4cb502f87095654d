"""A steered policy as the base of another: the start to the bit, its latent and density, and what describes it."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch

from softflow.policies import BestOfN, SteeredPolicy
from softflow.policies.native_export import export_greedy
from tests.policies.test_steered_policy import (
    ACTION_DIM,
    HORIZON,
    make_policy,
    observations,
    seeded,
)


def nested(
    name: str = "mixture", head: float = 0.0, inner: dict[str, Any] | None = None, **outer: Any
) -> SteeredPolicy:
    """A policy on a steered base, with the standard deviation of the last layer of its own head."""
    policy = SteeredPolicy(make_policy(name, 0.3, **(inner or {})), **outer)
    if head:
        torch.manual_seed(4)
        torch.nn.init.normal_(policy.head[-1].weight, std=head)
    return policy


@pytest.mark.parametrize("name", ["flow_matching", "mixture"])
@pytest.mark.parametrize("inner", [{}, {"latent": False}, {"residual": False}], ids=str)
def test_a_zero_head_is_the_steered_base_to_the_bit(name: str, inner: dict[str, Any]) -> None:
    policy = nested(name, inner=inner)
    for n, temperature in ((1, 1.0), (4, 0.35)):
        proposed = seeded(policy.propose, observations(), n, temperature)
        assert torch.equal(proposed, seeded(policy.base.propose, observations(), n, temperature))
    assert torch.equal(policy.greedy(observations()), policy.base.greedy(observations()))
    assert not torch.equal(policy.greedy(observations()), policy.root.greedy(observations()))


def test_a_deterministic_base_stays_so() -> None:
    policy = nested(inner={"deterministic": True}, deterministic=True)
    assert torch.equal(policy.propose(observations(), 2), policy.base.propose(observations(), 2))
    with pytest.raises(ValueError, match="the base starts from the mode of its latent density: set steering"):
        nested(inner={"deterministic": True})


def test_both_residuals_are_added_to_the_chunk_of_the_twice_steered_latent() -> None:
    policy = nested(head=0.3)
    z = torch.randn(5, 2, HORIZON, ACTION_DIM)
    outer, inner = policy.steer(observations()), policy.base.steer(observations())
    latent = inner.latent_of(outer.latent_of(z))
    chunk = (policy.root.decode(observations(), latent) + inner.residual[:, None]).clamp(-1, 1)
    torch.testing.assert_close(policy.decode(observations(), z), (chunk + outer.residual[:, None]).clamp(-1, 1))


def test_the_density_is_that_of_the_latent_through_all_heads() -> None:
    """The log-determinant is that of autograd, and `to_latent` inverts `decode` where nothing is clipped."""
    bound = {"residual_bound": 0.05}  # so that a chunk below 0.9 was clipped nowhere
    policy, observation = nested("coupling", head=0.3, inner=bound, **bound).double(), observations(1000).double()
    z = 0.1 * torch.randn(1000, HORIZON, ACTION_DIM, dtype=torch.float64)
    row = policy.decode(observation, z).abs().amax((1, 2)).argmin()[None]
    observation, z = observation[row], z[row]
    chunk = policy.decode(observation, z)
    assert chunk.abs().max() < 0.9
    latent, log_abs_det = policy.to_latent(observation, chunk)
    torch.testing.assert_close(latent, z)
    jacobian = torch.autograd.functional.jacobian(lambda z: policy.decode(observation, z), z).reshape(6, 6)
    torch.testing.assert_close(log_abs_det[0], -jacobian.slogdet().logabsdet)
    expected = -0.5 * (z.square().sum() + 6 * math.log(2 * math.pi)) + log_abs_det
    torch.testing.assert_close(policy.log_prob(observation, chunk), expected)
    pair = policy.log_prob(observation, torch.stack((chunk, chunk), 1))
    torch.testing.assert_close(pair, expected.expand(1, 2))


def test_the_base_takes_no_gradient() -> None:
    policy = nested(head=0.3).train()
    policy.propose(observations(), 3).sum().backward()
    assert policy.head.training and not policy.base.head.training
    assert all(parameter.grad is None for parameter in policy.base.parameters())
    assert all(parameter.grad.abs().max() > 0 for parameter in policy.head[-1].parameters())


def test_it_is_rebuilt_from_its_own_description(tmp_path: Any) -> None:
    original = BestOfN(nested(head=0.3, inner={"latent": False}, residual_bound=0.2), None, 2, 1, 0.5)
    twin = BestOfN.build(**json.loads(json.dumps(original.describe())))
    twin.load_state_dict(original.state_dict())
    assert torch.equal(seeded(twin.act, observations()), seeded(original.act, observations()))
    assert isinstance(twin.policy, SteeredPolicy)
    assert [head["residual_bound"] for head in twin.policy.heads] == [0.3, 0.2]
    assert twin.policy.root.kind == "flow"
    assert export_greedy(original, tmp_path / "policy.pt2", "torch_export") < 1e-4
