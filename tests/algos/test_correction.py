"""Learning from corrections: labels by hand, exact latents, what is held, the frozen base, and what is saved."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from flows import NormalizedFlow
from flows.bases import LOG_2PI
from softflow.algos import Correction, CorrectionConfig
from softflow.algos.correction import Corrected
from softflow.data import Corrections, Episode
from softflow.policies import FlowPolicy, SteeredPolicy
from tests.algos.softflow_toys import assert_goes_on_the_same, assert_same, make_data, make_episode, train, weights

FLOW_MATCHING = dict(flow="flow_matching", flow_options={"width": 32, "depth": 2, "steps": 4})
COUPLING = dict(flow="coupling", flow_options={"layers": 2, "width": 16, "base": "gaussian"})
SCALE = 0.25
NORMALIZED = COUPLING | dict(normalize_actions=True)
"""A base whose actions are normalised by `SCALE`."""
MIXTURE = dict(flow="coupling", flow_options={"layers": 2, "width": 16, "components": 2})
RESIDUAL, LATENT = {"latent": False, "residual_bound": 0.1}, {"residual": False}
DATA = make_data([make_episode(np.linspace(-1, 1, 9), np.ones(9))])  # observations 0 ... 8 are ordinary
CORRECTED = 20.0
"""The observation of the corrected decisions."""


def make_algorithm(flow: dict[str, Any] = COUPLING, head: dict[str, Any] = RESIDUAL, **settings: Any) -> Correction:
    """A small one with chunks of two steps, on a base whose weights are drawn; `warmup` and `correction` are dicts of
    what to change in them."""
    stages = {name: settings.pop(name, {}) for name in ("warmup", "correction")}
    sizes = dict(
        horizon=2,
        n_action_steps=1,
        batch_size=64,
        critic_width=16,
        ema_rate=0.5,
        base="run",
        corrections=("file",),
        normalize_actions=False,
    )
    config = CorrectionConfig(**(sizes | flow | settings))
    for part, changes in ((config.steering, head), *((getattr(config, name), stages[name]) for name in stages)):
        for key, value in changes.items():
            assert hasattr(part, key)
            setattr(part, key, value)
    config.__post_init__()
    torch.manual_seed(0)
    algorithm = Correction(config, 1, 1)
    algorithm.load_base(make_base(flow))
    return algorithm


def make_base(flow: dict[str, Any] = COUPLING, observation_dim: int = 1, horizon: int = 2) -> FlowPolicy:
    torch.manual_seed(1)
    base = FlowPolicy(observation_dim, 1, horizon, **flow)
    base.normalizer.fit(torch.full((observation_dim,), 4.0), torch.full((observation_dim,), 8.0))
    with torch.no_grad():  # a flow starts as the identity
        for parameter in base.flow.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    if isinstance(base.flow, NormalizedFlow):
        base.flow.fit(torch.tensor([0.1]), torch.tensor([SCALE]), torch.tensor([0.0]))
    return base


def make_corrections(human: list[list[float]], base: list[list[float]], success: bool = True) -> Corrections:
    n = len(human)
    human_chunk, base_chunk = (np.array(chunk)[..., None] for chunk in (human, base))
    flags = np.array([success])
    return Corrections(np.full((n, 1), CORRECTED), base_chunk, human_chunk, np.zeros(n, int), flags)


def corrected(algorithm: Correction) -> torch.Tensor:
    """What is added where it was corrected, (H,)."""
    return algorithm.policy.steer(torch.tensor([[CORRECTED]])).residual[0, :, 0]


# ---------------------------------------------------------------------------------------------------------- labels


@pytest.mark.parametrize(("flow", "scale"), [(COUPLING, 1.0), (NORMALIZED, SCALE)], ids=["plain", "normalized"])
def test_the_loss_of_residual_labels_by_hand(
    flow: dict[str, Any], scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The labels are 0.04 and 0.5 scales, and the second is cut to the bound of 0.1. The critic is worth -2 times the
    composed first action."""
    weights_of = {"bc_weight": 3.0, "hold_weight": 5.0, "q_weight": 7.0}
    algorithm = make_algorithm(flow, warmup={"updates": 1}, correction=weights_of)
    seen = []

    def value(_: torch.Tensor, chunk: torch.Tensor) -> torch.Tensor:
        seen.append(chunk)
        return -2 * chunk[..., 0, 0].unsqueeze(0)

    assert algorithm.critic_learner is not None
    monkeypatch.setattr(algorithm.critic_learner.critic, "forward", value)
    with torch.no_grad():
        algorithm.actor.head[-1].bias.copy_(torch.tensor([0.3, -0.4]))
    base, human = torch.tensor([[[0.2], [0.1]]]), torch.tensor([[[0.2 + 0.04 * scale], [0.1 + 0.5 * scale]]])
    scalars = algorithm.update_head(Corrected(torch.tensor([[CORRECTED]]), base, human), torch.tensor([[0.0]]))
    first, second = 0.1 * math.tanh(0.3), 0.1 * math.tanh(-0.4)
    cloning = ((first - 0.04) ** 2 + (second - 0.1) ** 2) / 2
    held = (first**2 + second**2) / 2
    assert scalars["correction/cloning"].item() == pytest.approx(cloning, rel=1e-4)
    assert scalars["correction/held"].item() == pytest.approx(held, rel=1e-4)
    assert scalars["correction/clipped"].item() == 0.5
    assert scalars["train/actor_loss"].item() == pytest.approx(3 * cloning + 5 * held + 7, rel=1e-4)  # Q < 0
    assert seen[0][0, 0, 0, 0].item() == pytest.approx(0.2 + scale * first, rel=1e-4)


@pytest.mark.parametrize("flow", [COUPLING, FLOW_MATCHING], ids=["coupling", "flow_matching"])
def test_residual_labels_are_learnt_where_they_were_given_and_nowhere_else(flow: dict[str, Any], measured: Any) -> None:
    algorithm = make_algorithm(flow, correction={"learning_rate": 3e-3})
    algorithm.load_corrections(make_corrections([[0.25, 0.9]] * 4, [[0.2, 0.1]] * 4))
    train(algorithm, "correction", DATA, 200)
    assert measured((corrected(algorithm) - torch.tensor([0.05, 0.1])).abs().max()) < 0.01
    assert measured(algorithm.policy.steer(torch.arange(9.0)[:, None]).residual.abs().max()) < 0.01


def test_without_being_held_the_residual_spreads(measured: Any) -> None:
    algorithm = make_algorithm(correction={"learning_rate": 3e-3, "hold_weight": 0.0})
    algorithm.load_corrections(make_corrections([[0.25, 0.9]] * 4, [[0.2, 0.1]] * 4))
    train(algorithm, "correction", DATA, 200)
    assert measured(algorithm.policy.steer(torch.arange(9.0)[:, None]).residual.abs().max()) > 0.04


@pytest.mark.parametrize("flow", [COUPLING, MIXTURE], ids=["normal", "mixture"])
def test_the_exact_latent_is_decoded_to_the_humans_chunk(flow: dict[str, Any], measured: Any) -> None:
    algorithm = make_algorithm(flow, LATENT)
    chunk = torch.rand(32, 2, 1, generator=torch.Generator().manual_seed(0)) * 2 - 1
    observation = torch.full((32, 1), CORRECTED)
    context = algorithm.base.normalizer(observation)
    latent, _ = algorithm.base.flow.to_latent(chunk, context)
    assert (latent - chunk).abs().max() > 0.05
    for policy in (algorithm.base, algorithm.policy):
        assert measured((policy.decode(observation, latent) - chunk).abs().max()) < 1e-4


def test_the_loss_of_latent_labels_by_hand() -> None:
    """-log N(z*; mean, std) of both steps, and the base's log-determinant, which the head cannot change."""
    algorithm = make_algorithm(COUPLING, LATENT, correction={"bc_weight": 3.0, "hold_weight": 5.0})
    mean, log_std = torch.tensor([0.3, -0.2]), torch.tensor([0.4, -0.5])
    with torch.no_grad():
        algorithm.actor.head[-1].bias.copy_(torch.cat([mean, log_std]))
    observation, human = torch.tensor([[CORRECTED]]), torch.tensor([[[0.24], [0.6]]])
    steering = algorithm.actor.steer(observation)
    log_std = steering.log_std[0, :, 0].detach()  # bounded
    latent, log_abs_det = algorithm.base.flow.to_latent(human, algorithm.base.normalizer(observation))
    density = -0.5 * ((latent[0, :, 0] - mean) / log_std.exp()).square() - log_std - 0.5 * LOG_2PI
    cloning = -(density.sum() + log_abs_det[0]) / 2
    kl = (0.5 * (mean.square() + (2 * log_std).exp() - 1) - log_std).sum() / 2
    scalars = algorithm.update_head(Corrected(observation, torch.zeros(1, 2, 1), human), torch.tensor([[0.0]]))
    assert scalars["correction/cloning"].item() == pytest.approx(cloning.item(), rel=1e-4)
    assert scalars["correction/held"].item() == pytest.approx(kl.item(), rel=1e-4)
    assert scalars["train/actor_loss"].item() == pytest.approx((3 * cloning + 5 * kl).item(), rel=1e-4)


@pytest.mark.parametrize("flow", [COUPLING, MIXTURE], ids=["normal", "mixture"])
def test_latent_labels_are_learnt_and_reach_farther_than_a_residual(flow: dict[str, Any], measured: Any) -> None:
    algorithm = make_algorithm(flow, LATENT, correction={"learning_rate": 3e-3})
    algorithm.load_corrections(make_corrections([[0.7, -0.8]] * 4, [[0.0, 0.0]] * 4))
    observation = torch.tensor([[CORRECTED]])
    goal = torch.tensor([0.7, -0.8])

    def distance() -> float:
        torch.manual_seed(3)
        proposed = algorithm.policy.propose(observation, 500, 0.35)[0, :, :, 0]
        return (proposed - goal).norm(dim=-1).mean().item()

    before = distance()
    train(algorithm, "correction", DATA, 400)
    assert measured(distance() / before) < 0.5


def test_the_critics_gradient_moves_the_latent(measured: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    algorithm = make_algorithm(
        COUPLING, LATENT, warmup={"updates": 1}, correction={"learning_rate": 3e-3, "bc_weight": 0.0, "q_weight": 1.0}
    )
    assert algorithm.critic_learner is not None
    monkeypatch.setattr(algorithm.critic_learner.critic, "forward", lambda _, chunk: chunk[..., 0, 0].unsqueeze(0))
    monkeypatch.setattr(algorithm, "update_critic", lambda batch: {})
    algorithm.load_corrections(make_corrections([[0.0, 0.0]], [[0.0, 0.0]]))
    train(algorithm, "correction", DATA, 100)
    assert measured(algorithm.policy.steer(torch.tensor([[CORRECTED]])).mean[0, 0, 0]) > 0.1


def test_values_do_not_depend_on_the_unit_of_rewards() -> None:
    losses = []
    for unit in (1.0, 1024.0):
        data = make_data([make_episode(np.linspace(-1, 1, 9), unit * np.ones(9))])
        losses.append(train(make_algorithm(warmup={"updates": 3}), "critic_warmup", data, 3)["train/critic_loss"])
    assert torch.equal(*losses)


# -------------------------------------------------------------------------------------------------------- takeovers


def taken_over(first: int, success: bool = True) -> Episode:
    """Six steps, the last four of a human. Observations count from `first`; the action at step t is t / 10."""
    human = np.arange(6) >= 2
    observation, action = first + np.arange(7)[:, None], np.arange(6)[:, None] / 10
    return Episode(observation, action, np.zeros(6), success, not success, success, human=human)


def test_takeovers_of_all_rounds_are_labelled_by_the_present_base() -> None:
    """At temperature 0 nothing of a chunk is chance."""
    algorithm = make_algorithm(temperature=0.0)
    algorithm.load_takeovers([taken_over(10), taken_over(20, success=False), taken_over(30)])
    observation, base_chunk, human_chunk = algorithm.corrected
    assert observation[:, 0].tolist() == [12, 13, 14, 15, 32, 33, 34, 35]
    torch.testing.assert_close(human_chunk[:4, :, 0], torch.tensor([[0.2, 0.3], [0.3, 0.4], [0.4, 0.5], [0.5, 0.5]]))
    assert torch.equal(base_chunk, make_base().propose(observation, 1, 0.0)[:, 0].detach())


def test_the_chunks_of_the_base_are_drawn_once_and_disturb_nothing() -> None:
    algorithm, twin = make_algorithm(), make_algorithm()
    for one in (algorithm, twin):
        one.load_takeovers([taken_over(10)])
    torch.manual_seed(3)
    state = torch.get_rng_state()
    drawn = algorithm.corrected.base_chunk
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(4)
    assert torch.equal(twin.corrected.base_chunk, drawn) and algorithm.corrected.base_chunk is drawn


@pytest.mark.parametrize("head", [RESIDUAL, LATENT], ids=["residual", "latent"])
def test_a_saved_state_goes_on_the_same_with_takeovers(head: dict[str, Any]) -> None:
    """The second one labels them only after it has the weights of the base."""
    original, twin = make_algorithm(MIXTURE, head), make_algorithm(MIXTURE, head)
    with torch.no_grad():
        next(twin.base.flow.parameters()).add_(1.0)
    for algorithm in (original, twin):
        algorithm.load_takeovers([taken_over(10)])
    episode = make_episode(np.linspace(-1, 1, 9), np.ones(9))
    train(original, "correction", make_data([episode]), 3)
    assert_goes_on_the_same(original, twin, "correction", lambda: make_data([episode]))
    assert torch.equal(original.corrected.base_chunk, twin.corrected.base_chunk)


def test_takeovers_without_a_success_are_refused() -> None:
    with pytest.raises(ValueError, match="none of them ended in success"):
        make_algorithm().load_takeovers([taken_over(10, success=False)])


# ------------------------------------------------------------------------------------------------ base and the rest


def test_corrections_may_be_loaded_before_the_statistics_of_the_base() -> None:
    """A resumed run loads its checkpoint last."""
    algorithm = make_algorithm(NORMALIZED, LATENT)
    algorithm.base.flow.load_state_dict({**algorithm.base.flow.state_dict(), "scale": torch.tensor([math.nan])})
    algorithm.load_corrections(make_corrections([[0.25, 0.9]], [[0.2, 0.1]]))
    assert len(algorithm.corrected.observation) == 1


@pytest.mark.parametrize("head", [RESIDUAL, LATENT], ids=["residual", "latent"])
def test_the_base_is_frozen_to_the_bit_and_a_copy(head: dict[str, Any]) -> None:
    algorithm = make_algorithm(MIXTURE, head, warmup={"updates": 3}, correction={"q_weight": 1.0})
    algorithm.load_corrections(make_corrections([[0.25, 0.9]] * 4, [[0.2, 0.1]] * 4))
    given, observation = make_base(MIXTURE), torch.arange(4.0)[:, None]
    torch.manual_seed(1)
    unsteered = given.propose(observation, 1, 0.35)[:, 0, :1]
    train(algorithm, "critic_warmup", DATA, 3)
    torch.manual_seed(1)
    assert torch.equal(algorithm.deployed.act(observation), unsteered)  # the head says nothing yet
    train(algorithm, "correction", DATA, 20)
    torch.manual_seed(1)
    assert not torch.equal(algorithm.deployed.act(observation), unsteered)
    assert_same(weights(algorithm.base), weights(given))
    assert algorithm.actor.base is algorithm.policy.base is algorithm.base
    assert not any(parameter.requires_grad for parameter in algorithm.base.parameters())


def test_failed_corrections_are_left_out() -> None:
    algorithm = make_algorithm()
    kept, failed = make_corrections([[0.1, 0.2]], [[0.0, 0.0]]), make_corrections([[0.3, 0.4]], [[0.0, 0.0]])
    both = Corrections(
        *(np.concatenate([getattr(kept, n), getattr(failed, n)]) for n in ("observation", "base_chunk", "human_chunk")),
        episode=np.array([1, 0]),
        is_success=np.array([False, True]),
    )
    algorithm.load_corrections(both)
    np.testing.assert_array_equal(algorithm.corrected.human_chunk.numpy(), kept.human_chunk)


def test_stages_of_no_length_are_left_out_and_so_is_a_critic_without_updates() -> None:
    algorithm = make_algorithm()
    assert [stage.name for stage in algorithm.schedule()] == ["correction"]
    assert algorithm.critic_learner is None and algorithm.deployed.critic is None
    with_critic = make_algorithm(warmup={"updates": 2}, candidates=3)
    assert [stage.name for stage in with_critic.schedule()] == ["critic_warmup", "correction"]
    assert with_critic.critic_learner is not None and with_critic.deployed.critic is with_critic.critic_learner.critic
    assert not any(stage.acts for stage in with_critic.schedule())
    assert make_algorithm(correction={"updates": 0}).schedule() == []


@pytest.mark.parametrize("name", ["critic_warmup", "correction"])
@pytest.mark.parametrize("head", [RESIDUAL, LATENT], ids=["residual", "latent"])
def test_a_saved_state_goes_on_the_same(name: str, head: dict[str, Any]) -> None:
    settings = dict(warmup={"updates": 3}, correction={"q_weight": 1.0})
    original, twin = (make_algorithm(MIXTURE, head, **settings) for _ in range(2))
    for algorithm in (original, twin):
        algorithm.load_corrections(make_corrections([[0.25, 0.9]] * 4, [[0.2, 0.1]] * 4))
    episode = make_episode(np.linspace(-1, 1, 9), np.ones(9))
    train(original, name, make_data([episode]), 3)
    assert_goes_on_the_same(original, twin, name, lambda: make_data([episode]))


# --------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(head={"latent": True, "residual": True}), "corrections label the latent or the residual"),
        (dict(head={"latent": False, "residual": False}), "corrections label the latent or the residual"),
        (dict(flow=FLOW_MATCHING, head=LATENT), "flow 'flow_matching' has no exact inverse"),
        (dict(correction={"q_weight": 1.0}), "correction.q_weight needs a critic: give it warmup.updates"),
        (dict(candidates=2), "without a critic nothing chooses among 2 candidates"),
        (dict(n_action_steps=3), "n_action_steps must be in 1 ... horizon = 2, got 3"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_algorithm(**settings)


def test_corrections_of_something_else_are_refused() -> None:
    algorithm = make_algorithm()
    with pytest.raises(ValueError, match=r"they have \(O, H, A\) = \(1, 3, 1\), the base has \(1, 2, 1\)"):
        algorithm.load_corrections(make_corrections([[0.0] * 3], [[0.0] * 3]))
    with pytest.raises(ValueError, match="none of them ended in success"):
        algorithm.load_corrections(make_corrections([[0.0] * 2], [[0.0] * 2], success=False))


def test_another_base_is_refused() -> None:
    algorithm = make_algorithm()
    with pytest.raises(ValueError, match="the base's observation_dim is 2, expected 1"):
        algorithm.load_base(make_base(observation_dim=2))
    with pytest.raises(ValueError, match="its policy is of kind 'steered', expected 'flow'"):
        algorithm.load_base(SteeredPolicy(make_base()))
