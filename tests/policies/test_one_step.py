"""OneStepPolicy: what it proposes, what holds it to its flow, and what is saved of it."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor

from softflow.policies import BestOfN, FlowPolicy, OneStepPolicy
from softflow.policies.native_export import export_greedy

HORIZON, ACTION_DIM, OBSERVATION_DIM = 3, 2, 4
FLOWS = {
    "flow_matching": ("flow_matching", dict(width=16, depth=2, steps=3)),
    "mixture": ("coupling", dict(layers=2, width=8, components=3)),
    "bounded": ("flow_matching", dict(width=16, depth=2, steps=3, bounds="atanh")),
    "open": ("tanh_gaussian", dict(width=16, depth=2)),
}
every_flow = pytest.mark.parametrize("name", FLOWS)


def make_policy(name: str = "flow_matching", **sizes: int) -> OneStepPolicy:
    torch.manual_seed(0)
    flow, options = FLOWS[name]
    policy = OneStepPolicy(FlowPolicy(OBSERVATION_DIM, ACTION_DIM, HORIZON, flow, options), **sizes)
    with torch.no_grad():
        policy.mu[-1].weight.mul_(60)  # some chunks are clipped
    policy.normalizer.fit(torch.randn(OBSERVATION_DIM), torch.rand(OBSERVATION_DIM) + 0.5)
    return policy


def observations(rows: int = 5) -> Tensor:
    torch.manual_seed(1)
    return torch.randn(rows, OBSERVATION_DIM)


@every_flow
@pytest.mark.parametrize("temperature", [1.0, 0.3])
def test_a_proposal_is_the_decoded_latent_of_the_flows_base(name: str, temperature: float) -> None:
    policy, observation = make_policy(name), observations()
    torch.manual_seed(2)
    proposed = policy.propose(observation, 4, temperature)
    torch.manual_seed(2)
    latent, chunk = policy.draw(observation, 4, temperature)
    assert proposed.shape == (5, 4, HORIZON, ACTION_DIM) and latent.shape == proposed.shape
    assert proposed.abs().max() <= 1 < chunk.abs().max()
    for n in range(4):
        torch.testing.assert_close(proposed[:, n], policy.decode(observation, latent[:, n]))
    torch.manual_seed(2)
    base = policy.flow.base
    drawn = base.sample(base(policy.normalizer(observation)), 4, temperature)
    assert torch.equal(latent.flatten(-2), drawn)


@every_flow
def test_the_greedy_choice_is_that_of_the_likeliest_latent(name: str) -> None:
    policy, observation = make_policy(name), observations()
    base = policy.flow.base
    mode = base.mode(base(policy.normalizer(observation))).unflatten(-1, policy.latent_shape)
    assert torch.equal(policy.greedy(observation), policy.decode(observation, mode))
    other = policy.decode(observation, mode + 1)
    assert not torch.isclose(policy.greedy(observation), other).all()


def test_a_clipped_chunk_has_a_density_within_open_bounds() -> None:
    policy, observation = make_policy("open"), observations()
    chunk = policy.propose(observation, 4)[:, 0]
    assert (chunk.abs() > 0.999).any() and policy.flow.log_prob(chunk, policy.features(observation)).isfinite().all()


def test_the_distillation_loss_by_hand() -> None:
    """The flow says 0.4 and, clipped, 1; mu says 0.1 and 1.2: both numbers of a chunk count alike."""
    policy = OneStepPolicy(FlowPolicy(1, 2, 1, "gaussian", dict(width=4)))
    policy.normalizer.fit(torch.zeros(1), torch.ones(1))
    with torch.no_grad():
        last = policy.flow.net[-1]
        last.weight.zero_()
        last.bias.copy_(torch.tensor([0.4, 7.0, 0.0, 0.0]))  # means, log standard deviations
    chunk = torch.tensor([0.1, 1.2]).expand(3, 2, 1, 2)
    loss = policy.distillation_loss(torch.zeros(3, 1), torch.zeros(3, 2, 1, 2), chunk)
    assert loss.item() == pytest.approx((0.3**2 + 0.2**2) / 2, rel=1e-5)
    moved = policy.distillation_loss(torch.zeros(3, 1), torch.ones(3, 2, 1, 2), chunk)  # the flow says 1.4, clipped
    assert moved.item() == pytest.approx((0.9**2 + 0.2**2) / 2, rel=1e-5)


@every_flow
def test_each_loss_moves_its_own_half(name: str) -> None:
    policy, observation = make_policy(name), observations()
    chunk = policy.propose(observation)[:, 0].detach()

    def moved(loss: Tensor) -> set[str]:
        policy.zero_grad()
        loss.backward()
        return {key.split(".")[0] for key, p in policy.named_parameters() if p.grad is not None and p.grad.any()}

    assert moved(policy.distillation_loss(observation, *policy.draw(observation, 2))) == {"mu"}
    assert moved(policy.propose(observation, 2).sum()) == {"mu"}
    assert moved(policy.bc_loss(observation, chunk)) == {"flow_policy"}


def test_the_conservative_loss_is_the_flows() -> None:
    policy, observation = make_policy("mixture"), observations()
    chunk, weight = torch.rand(5, HORIZON, ACTION_DIM), torch.arange(5.0)
    assert torch.equal(
        policy.bc_loss(observation, chunk, weight),
        policy.flow_policy.bc_loss(observation, chunk, weight),
    )


@every_flow
def test_description_and_weights_make_the_same(name: str, tmp_path: Any) -> None:
    original = BestOfN(make_policy(name, width=16, depth=1), None, 2, 1, 0.5)
    twin = BestOfN.build(**json.loads(json.dumps(original.describe())))
    assert isinstance(twin.policy, OneStepPolicy) and twin.policy.flow_name == FLOWS[name][0]
    twin.load_state_dict(original.state_dict())
    actions = []
    for one in (original, twin):
        torch.manual_seed(3)
        actions.append(one.act(observations()))
    assert torch.equal(*actions)
    assert export_greedy(original.eval(), tmp_path / "policy.pt", "torchscript") <= 1e-5


@pytest.mark.parametrize(
    ("description", "message"),
    [
        (dict(width=0), "width: expected an integer >= 1, got 0"),
        (dict(depth=0), "depth: expected an integer >= 1, got 0"),
        (dict(flow_policy=None), "names no flow policy"),
    ],
)
def test_bad_descriptions_are_refused(description: dict[str, Any], message: str) -> None:
    whole = make_policy().describe() | description
    with pytest.raises(ValueError, match=message):
        OneStepPolicy.build(**{name: value for name, value in whole.items() if value is not None})
