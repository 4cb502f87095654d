"""SteeredPolicy: zero steering is the base to the bit, what steering adds, and what a learner is told of it."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor

from softflow.policies import BestOfN, FlowPolicy, SteeredPolicy
from softflow.policies.head import HeadOutput
from softflow.policies.native_export import export_greedy

HORIZON, ACTION_DIM, OBSERVATION_DIM = 3, 2, 4
BASES = {
    "flow_matching": ("flow_matching", dict(width=16, depth=2, steps=3)),
    "mixture": ("coupling", dict(layers=2, width=8, components=3)),
    "coupling": ("coupling", dict(layers=2, width=8, base="gaussian")),
    "bounded": ("flow_matching", dict(width=16, depth=2, steps=3, bounds="atanh")),
}
every_base = pytest.mark.parametrize("name", BASES)
OPTIONS = [
    dict(),
    dict(latent=False),
    dict(residual=False),
    dict(latent_shape="chunk", residual_shape="chunk"),
    dict(latent_shape="chunk"),
    dict(deterministic=True),
    dict(deterministic=True, latent=False),
]
every_option = pytest.mark.parametrize("options", OPTIONS, ids=str)


def make_base(name: str) -> FlowPolicy:
    torch.manual_seed(0)
    flow, options = BASES[name]
    base = FlowPolicy(OBSERVATION_DIM, ACTION_DIM, HORIZON, flow, options)
    with torch.no_grad():
        for parameter in base.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    base.normalizer.fit(torch.randn(OBSERVATION_DIM), torch.rand(OBSERVATION_DIM) + 0.5)
    return base


def make_policy(name: str = "mixture", head: float = 0.0, **options: Any) -> SteeredPolicy:
    """A policy whose head's last layer is drawn with this standard deviation; zero leaves it as it starts."""
    policy = SteeredPolicy(make_base(name), **options)
    if head:
        torch.manual_seed(3)
        for parameter in policy.head[-1].parameters():
            torch.nn.init.normal_(parameter, std=head)
    return policy


def observations(rows: int = 5) -> Tensor:
    torch.manual_seed(1)
    return torch.randn(rows, OBSERVATION_DIM)


def seeded(function: Any, *arguments: Any) -> Any:
    torch.manual_seed(2)
    return function(*arguments)


# -------------------------------------------------------------------------------------------------------- the start


@every_base
@pytest.mark.parametrize("options", [options for options in OPTIONS if not options.get("deterministic")], ids=str)
def test_zero_steering_is_the_base_to_the_bit(name: str, options: dict[str, Any]) -> None:
    policy = make_policy(name, **options)
    for n, temperature in ((1, 1.0), (4, 0.35), (2, 0.0)):
        proposed = seeded(policy.propose, observations(), n, temperature)
        assert torch.equal(proposed, seeded(policy.base.propose, observations(), n, temperature))
    assert torch.equal(policy.greedy(observations()), policy.base.greedy(observations()))
    latent = torch.randn(5, HORIZON, ACTION_DIM)
    assert torch.equal(policy.decode(observations(), latent), policy.base.decode(observations(), latent))
    assert policy.latent_kl(observations(), policy.steer(observations())).tolist() == [0.0] * 5


@every_base
@pytest.mark.parametrize("latent", [True, False])
def test_a_deterministic_latent_starts_at_the_bases_greedy_chunk(name: str, latent: bool) -> None:
    policy = make_policy(name, deterministic=True, latent=latent)
    greedy = policy.base.greedy(observations())
    assert torch.equal(policy.greedy(observations()), greedy)
    assert torch.equal(policy.propose(observations(), 1, 1.0)[:, 0], greedy)
    torch.testing.assert_close(policy.propose(observations(), 3, 1.0), greedy.unsqueeze(1).expand(-1, 3, -1, -1))


def test_the_base_is_frozen_and_takes_no_gradient() -> None:
    policy = make_policy("mixture", head=0.1).train()
    assert policy.head.training and not any(module.training for module in policy.base.modules())
    before = {key: value.clone() for key, value in policy.base.state_dict().items()}
    optimizer = torch.optim.SGD(policy.parameters(), 0.1)
    policy.propose(observations(), 3).sum().backward()
    optimizer.step()
    assert all(parameter.grad is None for parameter in policy.base.parameters())
    assert all(parameter.grad.abs().max() > 0 for parameter in policy.head[-1].parameters())
    assert all(torch.equal(value, before[key]) for key, value in policy.base.state_dict().items())


# --------------------------------------------------------------------------------------------------------- steering


@every_base
@every_option
def test_a_draw_is_composed_of_what_the_head_says(name: str, options: dict[str, Any]) -> None:
    policy = make_policy(name, head=0.5, **options)
    steering, draw = policy.steer(observations()), seeded(policy.draw, observations(), 6, 0.7)
    params = policy.flow.base(policy.normalizer(observations()))
    if options.get("deterministic"):
        z = policy.flow.base.mode(params).unsqueeze(1).expand(-1, 6, -1)
    else:
        z = seeded(policy.flow.base.sample, params, 6, 0.7)
    latent = z.unflatten(-1, (HORIZON, ACTION_DIM)) * steering.log_std.exp()[:, None] + steering.mean[:, None]
    assert torch.equal(draw.latent, latent)
    assert torch.equal(draw.residual, steering.residual[:, None].expand_as(latent))
    base = policy.base.decode(observations(), latent)
    assert torch.equal(draw.chunk, (base + steering.residual[:, None]).clamp(-1, 1))
    assert torch.equal(draw.chunk, seeded(policy.propose, observations(), 6, 0.7))
    torch.testing.assert_close(
        draw.chunk[:, 2], policy.decode(observations(), z[:, 2].unflatten(-1, (HORIZON, ACTION_DIM)))
    )
    assert draw.chunk.abs().max() <= 1 and base.abs().max() <= 1


@every_option
def test_shapes_bounds_and_what_is_left_out(options: dict[str, Any]) -> None:
    policy = make_policy(head=30.0, residual_bound=0.2, log_std_bound=0.7, **options)
    steering = policy.steer(observations())
    assert all(part.shape == (5, HORIZON, ACTION_DIM) for part in steering)
    assert steering.residual.abs().max() <= 0.2 and steering.log_std.abs().max() < 0.7
    used = {"mean": options.get("latent", True), "residual": options.get("residual", True)}
    used["log_std"] = used["mean"] and not options.get("deterministic", False)
    for name, part in steering._asdict().items():
        assert bool((part != 0).any()) == used[name]
        shape = options.get("residual_shape" if name == "residual" else "latent_shape", "step")
        shared = torch.equal(part, part[:, :1].expand_as(part))
        assert shared == (shape == "chunk" or not used[name])
    assert policy.head[-1].out_features == ACTION_DIM * sum(
        (HORIZON if options.get(shape, "step") == "step" else 1) * used[name]
        for name, shape in (("mean", "latent_shape"), ("log_std", "latent_shape"), ("residual", "residual_shape"))
    )
    expected = steering.residual.flatten(1).norm(dim=1).square()
    torch.testing.assert_close(steering.squared_residual, expected)


def test_the_residual_is_added_to_what_the_base_would_execute() -> None:
    """The base's chunk is far outside the box; clipped first, half of the bound brings it back inside by as much."""
    policy = make_policy("coupling", latent=False, residual_bound=0.4)
    with torch.no_grad():
        policy.head[-1].bias.fill_(-torch.tensor(0.5).atanh())
    latent = 1e3 * torch.randn(5, HORIZON, ACTION_DIM)
    base, chunk = policy.base.decode(observations(), latent), policy.decode(observations(), latent)
    assert (base.abs() == 1).any()
    torch.testing.assert_close(chunk, (base - 0.2).clamp(-1, 1))


# ------------------------------------------------------------------------------------------------------- densities


def test_the_kl_of_a_gaussian_latent_is_the_closed_form() -> None:
    policy = make_policy("flow_matching", head=0.3)
    steering = policy.steer(observations())
    mean, std = steering.mean.double().flatten(1), steering.log_std.double().exp().flatten(1)
    ours = torch.distributions.Normal(mean, std)
    expected = torch.distributions.kl_divergence(ours, torch.distributions.Normal(0.0 * mean, 1.0)).sum(-1)
    torch.testing.assert_close(policy.latent_kl(observations(), steering).double(), expected, rtol=1e-5, atol=1e-5)


def test_the_kl_of_another_latent_is_the_mean_of_its_log_ratios(measured: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a Gaussian base taken for another the estimate must agree with the closed form."""
    policy = make_policy("coupling", head=0.3)
    with torch.no_grad():
        policy.head[-1].bias[HORIZON * ACTION_DIM : 2 * HORIZON * ACTION_DIM] = 0.2  # every log_std
    row = observations(1)
    assert policy.steer(row).log_std.abs().sum() > 0.5
    many = row.expand(40_000, -1)
    exact = policy.latent_kl(row, policy.steer(row))
    monkeypatch.setattr("softflow.policies.steered.GaussianBase", type("Other", (), {}))
    estimate = policy.latent_kl(many, policy.steer(many))
    assert estimate.std() > 0.05
    assert measured((estimate.mean() - exact).abs() / (estimate.std() / 200)) < 6


def test_the_kl_of_a_mixture_latent_is_not_negative_on_average_and_differentiable() -> None:
    policy = make_policy("mixture", head=0.3)
    many = observations(1).expand(20_000, -1)
    kl = policy.latent_kl(many, policy.steer(many)).mean()
    kl.backward()
    assert kl > 0.05 and all(parameter.grad.abs().max() > 0 for parameter in policy.head.parameters())


@pytest.mark.parametrize("name", ["mixture", "coupling"])
def test_the_density_is_that_of_its_own_draws(name: str) -> None:
    """Change of variables by hand, from the noise of a draw, with autograd's Jacobian of noise to chunk."""
    policy = make_policy(name, head=0.3).double()
    row = observations(1).double()
    context, steering = policy.normalizer(row), policy.steer(row)
    noise = policy.flow.base.sample(policy.flow.base(context), 1)

    def chunk_of(flat: Tensor) -> Tensor:
        latent = flat.reshape(1, HORIZON, ACTION_DIM) * steering.log_std.exp() + steering.mean
        return (policy.flow.chunk_from(latent, context) + steering.residual).flatten()

    jacobian = torch.autograd.functional.jacobian(chunk_of, noise.flatten())
    prior = policy.flow.base.log_prob(noise, policy.flow.base(context))[0, 0]
    expected = prior - torch.linalg.slogdet(jacobian).logabsdet
    chunk = chunk_of(noise.flatten()).reshape(1, HORIZON, ACTION_DIM)
    torch.testing.assert_close(policy.log_prob(row, chunk)[0], expected)
    torch.testing.assert_close(policy.log_prob(row, chunk[:, None, None])[0, 0, 0], expected)
    torch.testing.assert_close(policy.bc_loss(row, chunk), -expected / (HORIZON * ACTION_DIM))


@pytest.mark.parametrize("name", ["flow_matching", "mixture"])
@pytest.mark.parametrize("temperature", [1.0, 0.35])
def test_the_latents_density_is_that_of_its_draws(name: str, temperature: float) -> None:
    """Moved noise: the base's density of the noise, less the logarithm of what it was stretched by."""
    policy = make_policy(name, head=0.3).double()
    rows = observations().double()
    steering, draw = policy.steer(rows), seeded(policy.draw, rows, 6, temperature)
    params = policy.flow.base(policy.normalizer(rows))
    noise = seeded(policy.flow.base.sample, params, 6, temperature)
    expected = policy.flow.base.log_prob(noise, params, temperature) - steering.log_std.sum((1, 2))[:, None]
    density = policy.latent_log_prob(rows, draw.latent, steering, temperature)
    torch.testing.assert_close(density, expected)
    torch.testing.assert_close(policy.latent_log_prob(rows, draw.latent[:, 2], steering, temperature), expected[:, 2])


def test_unsteered_the_conservative_loss_is_the_bases() -> None:
    policy = make_policy("mixture")
    chunk, weight = torch.rand(5, HORIZON, ACTION_DIM), torch.tensor([1.0, 0.0, 2.0, 0.5, 3.0])
    for weights in (None, weight):
        expected = policy.base.bc_loss(observations(), chunk, weights)
        torch.testing.assert_close(policy.bc_loss(observations(), chunk, weights), expected)


# ------------------------------------------------------------------------------------------------- kept, and refused


@every_base
@every_option
def test_description_and_weights_make_the_same(name: str, options: dict[str, Any]) -> None:
    original = BestOfN(make_policy(name, head=0.3, **options), None, n_action_steps=2, candidates=1, temperature=0.5)
    twin = BestOfN.build(**json.loads(json.dumps(original.describe())))
    twin.load_state_dict(original.state_dict())
    assert isinstance(twin.policy, SteeredPolicy)
    assert torch.equal(seeded(twin.act, observations()), seeded(original.act, observations()))
    pointers = [tensor.data_ptr() for tensor in original.state_dict().values()]
    assert len(set(pointers)) == len(pointers)  # statistics are held once


def test_a_twin_shares_the_base_alone() -> None:
    policy = make_policy(head=0.3)
    twin = policy.twin()
    assert twin.base is policy.base and twin.normalizer is policy.normalizer
    assert torch.equal(seeded(twin.propose, observations()), seeded(policy.propose, observations()))
    assert not any(parameter.requires_grad for parameter in twin.parameters())
    assert all(parameter.requires_grad for parameter in policy.head.parameters())
    with torch.no_grad():
        twin.head[-1].bias.add_(1.0)
    assert not torch.equal(twin.greedy(observations()), policy.greedy(observations()))


def test_descriptions_without_a_kind_are_of_flow_policies() -> None:
    description = BestOfN(make_base("mixture"), None, 2, 1, 0.5).describe()
    assert description["policy"].pop("kind") == "flow"
    assert isinstance(BestOfN.build(**description).policy, FlowPolicy)
    with pytest.raises(ValueError, match="unknown kind of policy 'steerd'; did you mean 'steered'"):
        BestOfN.build(**{**description, "policy": {**description["policy"], "kind": "steerd"}})
    with pytest.raises(ValueError, match="names no base"):
        BestOfN.build(**{**description, "policy": {"kind": "steered", "latent": True}})


@pytest.mark.parametrize("name", ["flow_matching", "mixture"])
@pytest.mark.parametrize("format", ["torchscript", "torch_export"])
def test_the_greedy_choice_can_be_exported(name: str, format: str, tmp_path: Any) -> None:
    policy = make_policy(name, head=0.3, latent_shape="chunk").requires_grad_(False)
    assert export_greedy(BestOfN(policy, None, 1, 1, 0.5), tmp_path / "policy", format) < 1e-5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(latent=False, residual=False), "nothing to steer with"),
        (dict(latent_shape="steps"), "latent_shape: expected 'step' or 'chunk', got 'steps'"),
        (dict(residual_shape=""), "residual_shape: expected 'step' or 'chunk', got ''"),
        (dict(residual_bound=0.0), "residual_bound: expected a number > 0, got 0.0"),
        (dict(log_std_bound=-1.0), "log_std_bound: expected a number > 0, got -1.0"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SteeredPolicy(make_base("mixture"), **options)


def test_without_statistics_it_refuses_to_run() -> None:
    policy = SteeredPolicy(FlowPolicy(4, 2, 3, "coupling", dict(layers=2, width=8)))
    for use in (policy.propose, policy.greedy, policy.steer):
        with pytest.raises(RuntimeError, match="no observation statistics"):
            use(observations())
    assert HeadOutput._fields == ("mean", "log_std", "residual")
