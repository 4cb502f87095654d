"""Methods on pictures: the encoder learns from what moves the actor, and from nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from softflow.algos import (
    Data,
    FlowQLearning,
    FlowQLearningConfig,
    SoftFlow,
    SoftFlowConfig,
    Steering,
    SteeringConfig,
)
from softflow.algos.base import Algorithm
from softflow.algos.trial import TrialConfig
from softflow.data import Replay, observation_statistics, to_torch
from tests.algos.softflow_toys import GAUSSIAN, enter, stage_named
from tests.pictures import LAYOUT, lamp_episodes

EPISODES = lamp_episodes(12)
SMALL = dict(encoder_options={"width": 8, "features": 16}, horizon=2, n_action_steps=2, batch_size=8, critic_width=8)


def data() -> Data:
    replays = [Replay(100, LAYOUT.size, 1, np.uint8) for _ in range(2)]
    for episode in EPISODES:
        for replay in replays:
            replay.add_episode(episode)
    return Data(*replays, np.random.default_rng(0))


def fitted(algorithm: Algorithm) -> Algorithm:
    algorithm.fit_normalizer(*map(torch.as_tensor, observation_statistics(EPISODES)))
    algorithm.fit_actions(EPISODES)
    return algorithm


def weights(module: torch.nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten().clone() for parameter in module.parameters()])


@pytest.mark.parametrize("trials", [False, True])
def test_the_critic_learns_from_features_and_leaves_them_alone(trials: bool) -> None:
    """With trials, it judges chunks of several policies by the features that imitation learnt."""
    torch.manual_seed(0)
    config = SoftFlowConfig(**SMALL, **GAUSSIAN, ema_rate=1.0, trials=TrialConfig(enabled=trials))
    algorithm = SoftFlow(config, LAYOUT, 1)
    fitted(algorithm)
    untrained = weights(algorithm.policy.encoder)
    enter(algorithm, "imitation").update(data(), 0.0)
    encoder, flow, critic = map(weights, (algorithm.policy.encoder, algorithm.policy.flow, algorithm.critic))
    assert not torch.equal(encoder, untrained)
    assert algorithm.critic.context_dim == algorithm.policy.context_dim == 16 + 2
    enter(algorithm, "critic_warmup").update(data(), 0.0)
    assert torch.equal(weights(algorithm.policy.encoder), encoder) and not torch.equal(
        weights(algorithm.critic), critic
    )
    for name in ("offline", "online"):
        stage = enter(algorithm, name)
        for _ in range(2):  # the KL of the first update is that of a policy from itself
            stage.update(data(), 0.0)
        stage.diagnose(data())
    for policy in (algorithm.actor, algorithm.policy):
        assert torch.equal(weights(policy.encoder), encoder) == trials
        assert not torch.equal(weights(policy.flow), flow)


def test_an_encoder_that_stands_still_reads_each_observation_once() -> None:
    torch.manual_seed(0)
    config = SoftFlowConfig(**SMALL, **GAUSSIAN)
    algorithm = fitted(SoftFlow(config, LAYOUT, 1))
    read: list[int] = []
    for policy in (algorithm.actor, algorithm.policy, algorithm.imitation_policy, algorithm.trial.champion):
        policy.encoder.trunks[0].register_forward_pre_hook(lambda _, given: read.append(len(given[0])))
    enter(algorithm, "online").update(data(), 0.0)
    # each update of the critic reads where a window starts and where it ends, that of the actor every fourth
    # observation of a batch, and the imitated ones
    assert read == config.online.critic_updates * [8, 8] + [2, 8]


def test_pictures_teach_what_numbers_do_not_tell(measured: Any) -> None:
    """Which side the lamp is on: a policy that could not see would take either side half of the time."""
    torch.manual_seed(0)
    config = FlowQLearningConfig(**SMALL, **GAUSSIAN, ema_rate=0.05)
    algorithm = fitted(FlowQLearning(config, LAYOUT, 1))
    stage = stage_named(algorithm, "imitation")
    demonstrated = data()
    for number in range(150):
        stage.update(demonstrated, number / 150)
    held_out = Replay(200, LAYOUT.size, 1, np.uint8)
    for episode in lamp_episodes(20, first_seed=100):
        held_out.add_episode(episode)
    windows = to_torch(held_out.sample(64, 2, np.random.default_rng(0)))
    flow = algorithm.policy.flow_policy.greedy(windows.observation)
    assert measured((flow.sign() == windows.chunk.sign()).float().mean()) > 0.8


def test_steering_a_base_that_sees() -> None:
    torch.manual_seed(0)
    config = SteeringConfig(**SMALL, **GAUSSIAN)
    algorithm = fitted(Steering(config, LAYOUT, 1))
    encoder = weights(algorithm.base.encoder)
    stage_named(algorithm, "online").update(data(), 0.0)
    assert torch.equal(weights(algorithm.base.encoder), encoder)
    assert algorithm.deployed.act(torch.as_tensor(EPISODES[0].observation[:3].copy())).shape == (3, 2, 1)
