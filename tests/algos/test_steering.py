"""Steering: what residual and latent can each correct, that the base stays as it was, stages, and what is saved."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import torch

from softflow.algos import Steering, SteeringConfig
from softflow.algos.trial import TrialConfig
from softflow.data import Episode
from softflow.policies import FlowPolicy, SteeredPolicy
from tests.algos.softflow_toys import (
    ONE_STEP,
    assert_goes_on_the_same,
    assert_same,
    enter,
    make_data,
    make_episode,
    stage_named,
    train,
    weights,
)

FLOW_MATCHING = dict(flow="flow_matching", flow_options={"width": 32, "depth": 2, "steps": 4})
MIXTURE = dict(flow="coupling", flow_options={"layers": 2, "width": 16, "components": 2})
HEADS = {"latent": dict(residual=False), "residual": dict(latent=False), "both": {}}


def make_algorithm(base: str | None = None, **settings: Any) -> Steering:
    """A small steering of one-step chunks; `imitation`, `steering` and so on are dicts of what to change in them."""
    stages = {name: settings.pop(name, {}) for name in ("imitation", "steering", "base_rollouts", "online")}
    settings = dict(trials=TrialConfig(enabled=False), candidates=1) | settings
    config = SteeringConfig(**(ONE_STEP | FLOW_MATCHING | settings | {"base": base}))
    for name, changes in stages.items():
        for key, value in changes.items():
            assert hasattr(getattr(config, name), key)
            setattr(getattr(config, name), key, value)
    torch.manual_seed(0)
    algorithm = Steering(config, 1, 1)
    algorithm.fit_normalizer(torch.zeros(1), torch.ones(1))
    return algorithm


def bandit_demonstrations(*modes: float) -> list[Episode]:
    """Episodes of one step near each of the modes, all of them successes."""
    rng = np.random.default_rng(0)
    actions = np.clip(rng.normal(modes, 0.03, (60, len(modes))), -1, 1).ravel()
    return [make_episode([action], [1.0]) for action in actions]


@functools.cache
def imitated(*modes: float) -> FlowPolicy:
    """A flow-matching base that has learnt the modes."""
    algorithm = make_algorithm(imitation={"updates": 300, "learning_rate": 1e-2})
    train(algorithm, "imitation", make_data(bandit_demonstrations(*modes)), 300)
    return algorithm.base


def proposals(algorithm: Steering) -> torch.Tensor:
    torch.manual_seed(5)
    return algorithm.policy.propose(torch.zeros(1, 1), 2000)[0, :, 0, 0]


def test_without_trials_own_episodes_are_single_draws_and_the_critic_chooses_what_deploys(
    measured: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    algorithm = make_algorithm(candidates=64, n_action_steps=1)
    monkeypatch.setattr(algorithm.critic_learner.critic, "forward", lambda _, chunk: chunk[..., 0, 0].unsqueeze(0))
    enter(algorithm, "base_rollouts")
    assert algorithm.deployed.candidates == 1
    enter(algorithm, "online")
    torch.manual_seed(0)
    observation = torch.zeros(200, 1)
    explored, deployed = algorithm.explore(observation, torch.zeros(200)), algorithm.deployed.act(observation)
    assert explored.shape == deployed.shape == (200, 1, 1)
    assert measured((explored.mean() - proposals(algorithm).mean()).abs()) < 0.3
    assert measured(deployed.mean()) > 0.95  # the greatest of 64
    assert measured(deployed.mean() - explored.mean()) > 0.3


# ---------------------------------------------------------------------------------------------- what each corrects


def test_the_heads_loss_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of two numbers, all worth 2: -1 from the critic, and what the head costs."""
    algorithm = make_algorithm(
        horizon=2, steering={"residual_bound": 0.1}, online={"residual_weight": 3.0, "kl_weight": 5.0}
    )
    monkeypatch.setattr(
        algorithm.critic_learner.critic, "forward", lambda _, chunk: chunk[..., 0, 0].mul(0).add(2).unsqueeze(0)
    )
    with torch.no_grad():  # mean, log_std and residual, of two steps each
        algorithm.actor.head[-1].bias.copy_(torch.tensor([0.3, -0.4, 0.0, 0.0, 0.5, -0.8]))
    scalars = algorithm.update_head(torch.zeros(8, 1))
    residual = (0.1**2) * (np.tanh(0.5) ** 2 + np.tanh(0.8) ** 2) / 2
    kl = (0.3**2 + 0.4**2) / 2 / 2
    assert scalars["train/actor_loss"].item() == pytest.approx(-1 + 3 * residual + 5 * kl, rel=1e-5)
    assert scalars["steering/residual_rms"].item() == pytest.approx(residual**0.5, rel=1e-5)
    assert scalars["steering/latent_kl"].item() == pytest.approx(kl, rel=1e-5)


@pytest.mark.parametrize(
    ("terms", "moved"),
    [(dict(residual_weight=0.0, kl_weight=0.0), True), (dict(residual_weight=1e4, kl_weight=1e4), False)],
)
def test_the_conservative_terms_hold_the_head(
    terms: dict[str, float], moved: bool, measured: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    algorithm = make_algorithm(online={"learning_rate": 3e-3, **terms})
    monkeypatch.setattr(algorithm.critic_learner.critic, "forward", lambda _, chunk: chunk[..., 0, 0].unsqueeze(0))
    monkeypatch.setattr(algorithm, "update_critic", lambda batch: {})
    scalars = train(algorithm, "online", make_data(bandit_demonstrations(0.0)), 60)
    for name in ("steering/residual_rms", "steering/latent_kl"):
        assert measured(scalars[name]) > 0.05 if moved else measured(scalars[name]) < 0.05


@pytest.mark.parametrize("head", HEADS)
def test_from_own_episodes_it_learns_which_mode_pays_and_where(head: str, measured: Any) -> None:
    """Demonstrations at -0.6 and 0.5, and of one's own actions those near 0.6 are paid: 1 - 2 |a - 0.6|, no less
    than 0. The latent goes to the better mode, the residual from there towards 0.6; without the latent half of the
    actions stay at the other mode."""
    algorithm = make_algorithm(
        "run",
        steering={"residual_bound": 0.1, **HEADS[head]},
        ema_rate=0.5,
        critic_learning_rate=5e-3,
        target_rate=0.1,
        base_rollouts={"steps": 1},
        online={"learning_rate": 3e-3, "residual_weight": 0.1, "kl_weight": 0.02},
    )
    algorithm.load_base(imitated(-0.6, 0.5))

    def reward(action: np.ndarray) -> np.ndarray:
        return np.maximum(0, 1 - 2 * np.abs(action - 0.6))

    data = make_data([make_episode([e.action[0, 0]], reward(e.action[0])) for e in bandit_demonstrations(-0.6, 0.5)])
    for name, rounds in (("base_rollouts", 20), ("online", 40)):
        stage = stage_named(algorithm, name)
        stage.begin()
        for _ in range(rounds):
            for action in algorithm.explore(torch.zeros(8, 1), torch.zeros(8))[:, 0, 0].tolist():
                data.online.add_episode(make_episode([action], [reward(np.array(action))]))
            for _ in range(5):
                stage.update(data, 0.0)
    at_the_better = (proposals(algorithm) > 0).float().mean()
    assert measured(at_the_better) > 0.85 if head != "residual" else 0.2 < measured(at_the_better) < 0.8
    if head != "latent":  # it may go as far as 0.1
        assert measured(algorithm.policy.steer(torch.zeros(1, 1)).residual) > 0.05


# -------------------------------------------------------------------------------------------------------- the base


@pytest.mark.parametrize("flow", [FLOW_MATCHING, MIXTURE], ids=["flow_matching", "mixture"])
def test_the_base_is_frozen_to_the_bit(flow: dict[str, Any]) -> None:
    algorithm = make_algorithm(imitation={"updates": 5}, **flow)
    data = make_data([make_episode([0.5] * 9, np.ones(9))], [make_episode([-0.5] * 9, np.zeros(9))])
    train(algorithm, "imitation", data, 5)
    learnt, observation = weights(algorithm.base), torch.arange(4.0)[:, None]
    train(algorithm, "base_rollouts", data, 5)
    torch.manual_seed(1)
    unsteered = algorithm.base.propose(observation, 1, 1.0)[:, 0]
    torch.manual_seed(1)
    arms = torch.zeros(len(observation))
    assert torch.equal(algorithm.explore(observation, arms), unsteered)  # the head says nothing yet
    train(algorithm, "online", data, 20)
    torch.manual_seed(1)
    assert not torch.equal(algorithm.explore(observation, arms), unsteered)
    assert_same(weights(algorithm.base), learnt)
    assert algorithm.actor.base is algorithm.policy.base is algorithm.base
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in algorithm.base.parameters())


def test_a_trained_base_is_taken_over_with_its_statistics() -> None:
    trained = FlowPolicy(1, 1, 1, **FLOW_MATCHING)
    trained.normalizer.fit(torch.tensor([3.0]), torch.tensor([2.0]))
    algorithm = make_algorithm(base="run")
    assert [stage.name for stage in algorithm.schedule()] == ["base_rollouts", "online"]
    algorithm.load_base(trained)
    observation = torch.arange(4.0)[:, None]
    assert torch.equal(algorithm.policy.greedy(observation), trained.greedy(observation))
    assert_same(weights(algorithm.base), weights(trained))
    with torch.no_grad():
        next(trained.parameters()).add_(1.0)
    assert not torch.equal(next(algorithm.base.parameters()), next(trained.parameters()))  # a copy


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(observation_dim=2), "the base's observation_dim is 2, expected 1"),
        (dict(action_dim=3), "the base's action_dim is 3, expected 1"),
        (dict(horizon=4), "the base's horizon is 4, expected 1"),
        (dict(flow="gaussian", flow_options={}), "the base's flow is 'gaussian', expected 'flow_matching'"),
        (dict(flow_options={"width": 16}), "the base's flow_options is {'width': 16}, expected {'width': 32"),
    ],
)
def test_another_base_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sizes = dict(observation_dim=1, action_dim=1, horizon=1)
        make_algorithm(base="run").load_base(FlowPolicy(**(sizes | FLOW_MATCHING | changes)))


def test_a_steered_policy_is_no_base() -> None:
    with pytest.raises(ValueError, match="its policy is of kind 'steered', expected 'flow'"):
        make_algorithm(base="run").load_base(SteeredPolicy(FlowPolicy(1, 1, 1, **FLOW_MATCHING)))


# ---------------------------------------------------------------------------------------------- stages and the rest


def test_stages_of_no_length_are_left_out() -> None:
    everything = ["imitation", "base_rollouts", "online"]
    assert [stage.name for stage in make_algorithm().schedule()] == everything
    assert [stage.name for stage in make_algorithm().schedule() if stage.acts] == everything[1:]
    for name, key in zip(everything, ("updates", "steps", "steps"), strict=True):
        algorithm = make_algorithm(**{name: {key: 0}})
        assert [stage.name for stage in algorithm.schedule()] == [other for other in everything if other != name]


def test_candidates_are_chosen_among_online_alone() -> None:
    algorithm = make_algorithm(candidates=5)
    assert [stage.candidates for stage in algorithm.schedule()] == [1, 1, 5]


def test_the_critic_alone_learns_from_the_bases_rollouts() -> None:
    algorithm = make_algorithm()
    data = make_data([make_episode([0.5] * 9, np.ones(9))])
    before = {
        name: weights(part) for name, part in (("actor", algorithm.actor), ("critic", algorithm.critic_learner.critic))
    }
    scalars = train(algorithm, "base_rollouts", data, 3)
    assert "train/critic_loss" in scalars and "train/actor_loss" not in scalars
    assert_same(weights(algorithm.actor), before["actor"])
    assert not torch.equal(algorithm.critic_learner.critic.chunk_weight, before["critic"]["chunk_weight"])


def test_what_acts_is_the_running_average_of_the_head() -> None:
    algorithm = make_algorithm(ema_rate=0.25)
    data = make_data([make_episode([0.5] * 9, np.ones(9))])
    expected = weights(algorithm.policy.head)
    for _ in range(4):
        train(algorithm, "online", data, 1)
        expected = {name: 0.75 * old + 0.25 * algorithm.actor.head.state_dict()[name] for name, old in expected.items()}
    for name, tensor in weights(algorithm.policy.head).items():
        torch.testing.assert_close(tensor, expected[name])
    assert not torch.equal(algorithm.policy.head[-1].weight, algorithm.actor.head[-1].weight)
    assert algorithm.deployed.policy is algorithm.critic_learner.policy is algorithm.policy


@pytest.mark.parametrize("flow", [FLOW_MATCHING, MIXTURE], ids=["flow_matching", "mixture"])
@pytest.mark.parametrize("name", ["imitation", "base_rollouts", "online"])
def test_a_saved_state_goes_on_the_same(name: str, flow: dict[str, Any]) -> None:
    original, twin = (make_algorithm(candidates=3, **flow) for _ in range(2))
    episodes = [make_episode(np.linspace(-1, 1, 9), np.ones(9)) for _ in range(4)]
    data = make_data(episodes[:2], episodes[2:])
    train(original, "imitation", data, 3)
    train(original, name, data, 3)
    assert_goes_on_the_same(original, twin, name, lambda: make_data(episodes[:2], episodes[2:]))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(n_action_steps=2), "n_action_steps must be in 1 ... horizon = 1, got 2"),
        (dict(critic_horizon=2), "critic_horizon must be in 1 ... horizon = 1, got 2"),
        (dict(steering={"latent": False, "residual": False}), "nothing to steer with"),
        (dict(steering={"residual_bound": 0.0}), "residual_bound: expected a number > 0"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_algorithm(**settings)
