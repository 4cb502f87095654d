"""Policies that normalise actions: what is in normalised units, what in units of the action, and what is saved."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from flows import NormalizedFlow
from flows.export import FORMATS
from softflow.algos.policy_learner import PolicyLearner
from softflow.algos.settings import ImitationConfig
from softflow.errors import UserError
from softflow.policies import BestOfN, ChunkGuard, ChunkPolicy, FlowPolicy, OneStepPolicy, SteeredPolicy
from softflow.policies.head import HeadOutput
from softflow.policies.native_export import export_greedy
from softflow.policies.weights import checksum
from softflow.training.checkpoint import load_policy, save_policy

HORIZON, ACTION_DIM, OBSERVATION_DIM = 3, 2, 4
SCALE = torch.tensor([0.001, 0.4])
FLOWS: dict[str, tuple[str, dict[str, Any]]] = {
    "coupling": ("coupling", dict(layers=2, width=8, components=2)),
    "bounded": ("coupling", dict(layers=2, width=8, base="gaussian", bounds="atanh")),
    "flow_matching": ("flow_matching", dict(width=8, depth=1, steps=2)),
}
every_flow = pytest.mark.parametrize("name", FLOWS)


def make_policy(name: str = "coupling", fitted: bool = True) -> FlowPolicy:
    torch.manual_seed(0)
    flow, options = FLOWS[name]
    policy = FlowPolicy(OBSERVATION_DIM, ACTION_DIM, HORIZON, flow, options, normalize_actions=True)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    policy.normalizer.fit(torch.zeros(OBSERVATION_DIM), torch.ones(OBSERVATION_DIM))
    if fitted:
        fit(policy)
    return policy


def fit(policy: ChunkPolicy, unit: float = 1.0) -> None:
    assert isinstance(policy.flow, NormalizedFlow)
    policy.flow.fit(unit * torch.tensor([0.1, -0.2]), unit * SCALE, unit * torch.tensor([1e-5, 0.01]))


def observations(rows: int = 5) -> Tensor:
    torch.manual_seed(1)
    return torch.randn(rows, OBSERVATION_DIM)


def deployed_kinds() -> dict[str, ChunkPolicy]:
    steered = SteeredPolicy(make_policy())
    one_step = OneStepPolicy(make_policy(), width=8, depth=1)
    for parameter in (*steered.head[-1].parameters(), *one_step.mu[-1].parameters()):
        torch.nn.init.normal_(parameter, std=0.5)
    return {"flow": make_policy(), "bounded": make_policy("bounded"), "steered": steered, "one_step": one_step}


@every_flow
def test_a_residual_is_in_multiples_of_the_scales(name: str) -> None:
    base, observation = make_policy(name), observations()
    policy = SteeredPolicy(base, residual_bound=0.5)
    torch.nn.init.normal_(policy.head[-1].bias, std=30.0)  # the residual is at its bounds
    steering = policy.steer(observation)
    assert steering.residual.abs().max().item() == pytest.approx(0.5)
    latent = 0.2 * torch.randn(5, 1, HORIZON, ACTION_DIM)  # nothing is clipped
    added = policy.compose(observation, latent, steering.residual.unsqueeze(1))[:, 0]
    added = added - base.decode(observation, latent[:, 0])
    torch.testing.assert_close(added, base.action_scale * steering.residual, rtol=0, atol=1e-6)
    if name == "coupling":
        torch.testing.assert_close(base.action_scale, SCALE)


def test_the_density_of_steered_chunks_stays_exact() -> None:
    base, observation = make_policy("bounded").double(), observations().double()
    fit(base)
    policy = SteeredPolicy(base).double()
    torch.nn.init.normal_(policy.head[-1].weight, std=0.5)
    steering = policy.steer(observation)
    latent = torch.randn(5, HORIZON, ACTION_DIM, dtype=torch.float64)
    features = policy.features(observation)
    chunk, log_abs_det = policy.flow.to_chunk(latent, features)
    chunk = chunk + base.action_scale * steering.residual
    expected = policy.latent_log_prob(observation, latent, steering) - log_abs_det
    torch.testing.assert_close(policy.log_prob(observation, chunk), expected)
    assert isinstance(base.flow, NormalizedFlow)
    in_units = base.flow.in_normalized_units(expected)
    torch.testing.assert_close(policy.bc_loss(observation, chunk), -in_units.mean() / 6)


def test_the_distance_of_a_one_step_policy_is_in_normalised_units() -> None:
    policy, observation = OneStepPolicy(make_policy(), width=8), observations()
    latent = torch.randn(5, 2, HORIZON, ACTION_DIM)
    with torch.no_grad():
        followed = policy.flow_policy.decode(observation, latent)
        loss = policy.distillation_loss(observation, latent, followed + 2 * SCALE)
        for parameter in policy.mu[-1].parameters():
            parameter.zero_()
        policy.mu[-1].bias.copy_(torch.tensor([3.0, -1.0]).repeat(HORIZON))
        chunk = policy.draw(observation)[1]
    assert loss.item() == pytest.approx(4.0, rel=1e-3)
    torch.testing.assert_close(chunk, torch.tensor([0.103, -0.6]).expand_as(chunk))


def test_the_kl_does_not_depend_on_units() -> None:
    """Two policies with the same statistics differ by as much as their flows do."""
    policy, other, observation = make_policy(), make_policy(), observations()
    with torch.no_grad():
        for parameter in other.flow.parameters():
            parameter.add_(0.05)
    differences = []
    for unit in (1.0, 0.1):
        fit(policy, unit)
        fit(other, unit)
        torch.manual_seed(2)
        chunk, log_prob = policy.propose_with_log_prob(observation, 4)
        differences.append(log_prob - other.log_prob(observation, chunk))
    assert differences[0].abs().min() > 1e-4
    torch.testing.assert_close(*differences, rtol=1e-3, atol=1e-2)


def test_a_guard_judges_by_the_density_of_the_action() -> None:
    policy, observation = make_policy(), observations(60)
    chunk = policy.propose(observation)[:, 0].detach()
    guard = ChunkGuard(policy)
    guard.calibrate(observation, observation, chunk, 0.1)
    ordered = policy.log_prob(observation, chunk).sort().values
    assert guard.threshold.item() == pytest.approx(ordered[5].item())


EXPORTED = {
    *((kind, "torchscript") for kind in deployed_kinds()),
    *(("steered", "onnx"), ("one_step", "onnx"), ("bounded", "torch_export"), ("steered", "torch_export")),
}
"""The other formats take seconds a policy, and these kinds have the parts of all."""


@pytest.mark.parametrize(
    ("kind", "format"),
    [
        pytest.param(kind, format, marks=[] if (kind, format) in EXPORTED else [pytest.mark.slow])
        for kind in deployed_kinds()
        for format in FORMATS
    ],
)
def test_it_exports(kind: str, format: str, tmp_path: Path) -> None:
    policy = deployed_kinds()[kind].eval()
    assert export_greedy(BestOfN(policy, None, 1, 1, 0.5), tmp_path / "policy", format) <= 1e-5


@pytest.mark.parametrize("kind", deployed_kinds())
def test_statistics_are_saved_and_needed(kind: str, tmp_path: Path) -> None:
    policy = deployed_kinds()[kind].eval()
    save_policy(tmp_path, BestOfN(policy, None, 1, 1, 0.5))
    loaded = load_policy(tmp_path).policy
    assert torch.equal(loaded.action_scale, policy.action_scale) and loaded.describe() == policy.describe()
    assert torch.equal(loaded.greedy(observations()), policy.greedy(observations()))
    assert isinstance(policy.flow, NormalizedFlow)
    policy.flow.scale.fill_(torch.nan)
    save_policy(tmp_path, BestOfN(policy, None, 1, 1, 0.5))
    with pytest.raises(UserError, match="no action statistics: fit them to demonstrations, or load a whole checkpoint"):
        load_policy(tmp_path)


def test_a_guard_without_action_statistics_is_refused(tmp_path: Path) -> None:
    policy, observation = make_policy(), observations(60)
    guard = ChunkGuard(policy)
    guard.calibrate(observation, observation, policy.propose(observation)[:, 0].detach(), 0.1)
    guard.density.flow.noise.fill_(torch.nan)
    guard.save(tmp_path)
    with pytest.raises(UserError, match="no action statistics"):
        ChunkGuard.load(tmp_path)


def test_policies_of_earlier_versions_do_not_normalise(tmp_path: Path) -> None:
    policy = FlowPolicy(OBSERVATION_DIM, ACTION_DIM, HORIZON, *FLOWS["coupling"])
    policy.normalizer.fit(torch.zeros(OBSERVATION_DIM), torch.ones(OBSERVATION_DIM))
    save_policy(tmp_path, BestOfN(policy.eval(), None, 1, 1, 0.5))
    described = json.loads((tmp_path / "policy.json").read_text())
    assert described["policy"].pop("normalize_actions") is False
    version, _ = described.pop("format_version"), described.pop("sha256")
    weights = (tmp_path / "policy.safetensors").read_bytes()
    earlier = {"format_version": version, "sha256": checksum(weights, described), **described}
    (tmp_path / "policy.json").write_text(json.dumps(earlier))
    loaded = load_policy(tmp_path).policy
    assert not isinstance(loaded.flow, NormalizedFlow)
    assert loaded.action_scale.tolist() == [1.0, 1.0] and loaded.action_center.tolist() == [0.0, 0.0]
    assert torch.equal(loaded.greedy(observations()), policy.greedy(observations()))


def test_new_weights_keep_the_statistics() -> None:
    learner = PolicyLearner(make_policy(), ImitationConfig(), ema_rate=0.1)
    before = copy.deepcopy(learner.actor)
    learner.reinitialize()
    for policy in (learner.actor, learner.policy):
        assert torch.equal(policy.flow.noise, before.flow.noise)
        assert torch.equal(policy.action_scale, before.action_scale)
        assert not torch.equal(policy.flow.flow.context.weight, before.flow.flow.context.weight)


def test_zero_steering_is_the_base_to_the_bit() -> None:
    base, observation = make_policy("bounded"), observations()
    policy = SteeredPolicy(base)
    assert torch.equal(policy.greedy(observation), base.greedy(observation))
    zero = torch.zeros(5, HORIZON, ACTION_DIM)
    assert torch.equal(
        policy.draw(observation, 1, 0.0, HeadOutput(zero, zero, zero)).chunk[:, 0], base.greedy(observation)
    )
