"""Every registered flow is a policy: it imitates, and goes through all stages of every method."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

from flows import available_flows, make_flow
from softflow.algos import (
    Algorithm,
    FilteredImitation,
    FilteredImitationConfig,
    FlowQLearning,
    FlowQLearningConfig,
    Steering,
    SteeringConfig,
)
from softflow.data import observation_statistics
from softflow.policies import BestOfN
from tests.algos.softflow_toys import assert_same, make_algorithm, make_data, make_episode, train, weights
from tests.flows.flow_cases import SMALL

every_flow = pytest.mark.parametrize("name", sorted(SMALL))
EPISODES = [make_episode(0.9 * np.sin(np.linspace(0, 3, 12) + phase), np.ones(12)) for phase in range(4)]
HORIZON = 4
SIZES = dict(horizon=HORIZON, n_action_steps=2, batch_size=32)


def exact(name: str) -> bool:
    return make_flow(name, horizon=HORIZON, action_dim=1, context_dim=1, **SMALL[name][0]).exact_density


def fit(algorithm: Algorithm) -> None:
    algorithm.fit_normalizer(*map(torch.as_tensor, observation_statistics(EPISODES)))
    algorithm.fit_actions(EPISODES)


def test_which_flows_have_no_exact_density() -> None:
    assert {name for name in available_flows() if not exact(name)} == {"flow_matching"}
    assert not make_flow("flow_matching", horizon=2, action_dim=1, context_dim=1, bounds="atanh").exact_density


@every_flow
def test_softflow(name: str, measured: Any) -> None:
    improvement = dict(q_weight=1.0, kl_weight=0.5 * exact(name), nll_weight=1.0, updates=2)
    online = {key: value for key, value in improvement.items() if key != "updates"}
    algorithm = make_algorithm(
        flow=name,
        flow_options=SMALL[name][0],
        normalize_actions=None,
        imitation=dict(updates=80, learning_rate=1e-2),
        offline=improvement,
        online=online,
        **SIZES,
    )
    data = make_data(EPISODES, EPISODES[:2])
    fit(algorithm)
    before = train(algorithm, "imitation", data, 1)
    after = train(algorithm, "imitation", data, 80)
    train(algorithm, "critic_warmup", data, 2)
    imitated = weights(algorithm.actor)
    scalars = [train(algorithm, stage, data, 2) for stage in ("offline", "online")]
    diagnosed = algorithm.schedule()[-1].diagnose(data)

    loss = algorithm.policy_learner.loss_name
    assert loss == ("flow/loss" if name == "flow_matching" else "flow/nll")
    assert measured(before["train/actor_loss"] - after["train/actor_loss"]) > 0.04
    assert all(loss in scalar and scalar[loss].isfinite() for scalar in (before, after, *scalars))
    assert all(("flow/kl_to_imitation" in scalar) == exact(name) for scalar in (*scalars, diagnosed))
    assert all(value.isfinite() for scalar in (*scalars, diagnosed) for value in scalar.values())
    moved = weights(algorithm.actor)
    assert any(not torch.equal(moved[key], imitated[key]) for key in moved)

    deployed = algorithm.deployed
    observation = torch.arange(5.0)[:, None]
    chunk = deployed.act(observation)
    assert chunk.shape == (5, 2, 1) and chunk.abs().max() <= 1
    built = BestOfN.build(**json.loads(json.dumps(deployed.describe())))
    built.load_state_dict(deployed.state_dict())
    assert torch.equal(built.eval().policy.greedy(observation), deployed.policy.greedy(observation))


@every_flow
def test_filtered_imitation(name: str) -> None:
    config = FilteredImitationConfig(flow=name, flow_options=SMALL[name][0], **SIZES)
    config.imitation.updates = 3
    algorithm = FilteredImitation(config, 1, 1)
    fit(algorithm)
    data = make_data(EPISODES, EPISODES[:2])
    learnt = [stage for stage in algorithm.schedule() if not stage.acts]
    before: Any = weights(algorithm.policy_learner.actor)
    for stage in learnt:
        stage.begin()
        scalars = [stage.update(data, progress) for progress in (0.0, 0.5)]
        assert all(scalar["train/actor_loss"].isfinite() for scalar in scalars)
        after = weights(algorithm.policy_learner.actor)
        assert any(not torch.equal(before[key], after[key]) for key in after)
        before = after
    assert algorithm.deployed.act(torch.zeros(3, 1)).abs().max() <= 1


@every_flow
def test_steering(name: str) -> None:
    config = SteeringConfig(flow=name, flow_options=SMALL[name][0], critic_width=16, ema_rate=0.5, **SIZES)
    algorithm = Steering(config, 1, 1)
    fit(algorithm)
    data = make_data(EPISODES, EPISODES[:2])
    train(algorithm, "imitation", data, 3)
    base, observation = weights(algorithm.base), torch.arange(5.0)[:, None]
    before = algorithm.policy.greedy(observation)
    assert torch.equal(before, algorithm.base.greedy(observation))
    train(algorithm, "base_rollouts", data, 2)
    scalars = train(algorithm, "online", data, 4)
    assert all(value.isfinite() for value in scalars.values()) and scalars["steering/residual_rms"] > 0
    assert not torch.equal(algorithm.policy.greedy(observation), before)
    assert_same(weights(algorithm.base), base)
    assert algorithm.deployed.act(observation).abs().max() <= 1


@every_flow
def test_flow_q_learning(name: str) -> None:
    config = FlowQLearningConfig(flow=name, flow_options=SMALL[name][0], critic_width=16, ema_rate=0.5, **SIZES)
    algorithm = FlowQLearning(config, 1, 1)
    fit(algorithm)
    data, observation = make_data(EPISODES, EPISODES[:2]), torch.arange(5.0)[:, None]
    for stage in algorithm.schedule():
        before = algorithm.policy.greedy(observation)
        scalars = train(algorithm, stage.name, data, 3)
        assert all(value.isfinite() for value in scalars.values())
        assert torch.equal(algorithm.policy.greedy(observation), before) == (stage.name == "critic_warmup")
    assert scalars["one_step/distance_rms"] > 0 and algorithm.policy_learner.loss_name in scalars
    assert algorithm.deployed.act(observation).abs().max() <= 1


@pytest.mark.parametrize("stage", ["offline", "online"])
@pytest.mark.parametrize("bounds", ["raw", "atanh"])
def test_a_kl_needs_an_exact_density(stage: str, bounds: str) -> None:
    options = {**SMALL["flow_matching"][0], "bounds": bounds}
    with pytest.raises(ValueError, match=rf"{stage}\.kl_weight is 0\.5, but flow 'flow_matching' has no exact density"):
        make_algorithm(flow="flow_matching", flow_options=options, **{stage: dict(kl_weight=0.5)})


def test_without_a_kl_no_log_density_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flow matching's would cost a multiple of the update."""
    flow = dict(flow="flow_matching", flow_options=SMALL["flow_matching"][0])
    algorithm = make_algorithm(offline=dict(q_weight=1.0, nll_weight=1.0), **flow, **SIZES)

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a log-determinant was computed")

    monkeypatch.setattr(type(algorithm.actor.flow), "_integrate", refuse)
    data = make_data(EPISODES)
    for stage in ("imitation", "critic_warmup", "offline"):
        train(algorithm, stage, data, 1)
    algorithm.schedule()[2].diagnose(data)
    before = weights(algorithm.policy)
    latent = torch.randn(3, *algorithm.policy.latent_shape)
    assert algorithm.policy.decode(torch.zeros(3, 1), latent).shape == (3, HORIZON, 1)
    assert_same(before, weights(algorithm.policy))
