"""Trials within steering: the base acts and deploys until own episodes prefer a head, and training returns to it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from softflow.algos import Steering
from softflow.algos.trial import Arm, Trial, TrialConfig
from softflow.data import Episode
from tests.algos.softflow_toys import (
    assert_goes_on_the_same,
    assert_same,
    enter,
    make_data,
    make_episode,
    train,
    weights,
)
from tests.algos.test_steering import make_algorithm

TRIALS = TrialConfig(fewest=5, most=10, window=60)
RESIDUAL = dict(latent=False, residual_bound=0.5)


def make_trials(**settings: Any) -> tuple[Steering, Trial[Any]]:
    """A steering of a base that was never trained, whose head adds nothing yet."""
    algorithm = make_algorithm(trials=TRIALS, **({"candidates": 9, "steering": RESIDUAL} | settings))
    assert algorithm.trial is not None
    return algorithm, algorithm.trial


def set_residual(algorithm: Steering, bias: float) -> None:
    """Let the head in training, and its average, add the same residual everywhere."""
    with torch.no_grad():
        for policy in (algorithm.actor, algorithm.policy):
            policy.head[-1].bias.fill_(bias)


def outcomes(algorithm: Steering, challenger: bool, successes: int, failures: int, choice: int = 0) -> None:
    assert algorithm.trial is not None
    arm = Arm(algorithm.trial.version, challenger, choice).encode()
    algorithm.receive(
        [
            Episode(np.zeros((2, 1)), np.zeros((1, 1)), np.zeros(1), True, False, one, arm=arm)
            for one in [True] * successes + [False] * failures
        ]
    )


def test_while_the_base_acts_its_episodes_are_single_chunks_and_count_for_the_champion() -> None:
    algorithm, trial = make_trials()
    enter(algorithm, "base_rollouts")
    assert [algorithm.assign() for _ in range(20)] == [0] * 20
    outcomes(algorithm, challenger=False, successes=90, failures=60)  # more than any trial lasts
    assert trial.version == 0 and algorithm.deployed.policy is algorithm.policy
    set_residual(algorithm, 1.0)
    enter(algorithm, "online")
    assert trial.version == 1 and trial.policies[0].episodes == 150
    arms = torch.zeros(50, dtype=torch.long)
    torch.manual_seed(0)
    acted = algorithm.explore(torch.zeros(50, 1), arms)
    torch.manual_seed(0)
    base = algorithm.base.propose(torch.zeros(50, 1), 1, algorithm.config.temperature)[:, 0]
    torch.testing.assert_close(acted, base)


def test_the_base_deploys_until_own_episodes_prefer_the_head() -> None:
    algorithm, trial = make_trials()
    enter(algorithm, "base_rollouts")
    outcomes(algorithm, challenger=False, successes=20, failures=20)
    set_residual(algorithm, 1.0)
    enter(algorithm, "online")
    steered, observation = weights(algorithm.policy.head), torch.zeros(3, 1)
    assert algorithm.deployed.policy is trial.champion and algorithm.deployed.candidates == 1
    assert (algorithm.deployed.policy.greedy(observation) == algorithm.base.greedy(observation)).all()
    outcomes(algorithm, challenger=True, successes=6, failures=0)
    assert trial.version == 2
    assert_same(weights(trial.champion.head), steered)
    assert algorithm.deployed.policy is trial.champion
    assert (algorithm.deployed.policy.greedy(observation) != algorithm.base.greedy(observation)).all()


def test_after_a_worse_head_training_returns_to_the_champions_with_a_fresh_optimiser() -> None:
    algorithm, trial = make_trials(online={"residual_weight": 0.0})
    data = make_data([make_episode([0.5] * 9, np.ones(9))])
    enter(algorithm, "base_rollouts")
    outcomes(algorithm, challenger=False, successes=40, failures=0)
    set_residual(algorithm, 1.0)
    train(algorithm, "online", data, 3)
    assert algorithm.head_optimizer.state
    outcomes(algorithm, challenger=True, successes=0, failures=8)
    for policy in (algorithm.actor, algorithm.policy, trial.challenger):
        assert_same(weights(policy.head), weights(trial.champion.head))
        assert not policy.head[-1].bias.any()
    assert not algorithm.head_optimizer.state and trial.version == 2
    learning = {id(parameter) for group in algorithm.head_optimizer.param_groups for parameter in group["params"]}
    assert learning == {id(parameter) for parameter in algorithm.actor.head.parameters()}


def test_all_heads_share_one_base_and_a_checkpoint_has_it_once() -> None:
    algorithm, trial = make_trials()
    for policy in (algorithm.policy, trial.champion, trial.challenger):
        assert policy.base is algorithm.base
        assert not any(parameter.requires_grad for parameter in policy.parameters())
    whole = sum(parameter.numel() for parameter in algorithm.base.parameters())
    saved = algorithm.state_dict()["trial"]
    assert sum(tensor.numel() for name in ("champion", "challenger") for tensor in saved[name].values()) == 2 * sum(
        parameter.numel() for parameter in algorithm.actor.head.parameters()
    )
    assert whole > 0


@pytest.mark.parametrize(("caution", "weight"), [(1.0, 3.0), (1.5, 4.5)])
def test_the_conservative_terms_are_multiplied_by_the_caution(
    caution: float, weight: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    algorithm, trial = make_trials(online={"residual_weight": 3.0})
    monkeypatch.setattr(
        algorithm.critic_learner.critic, "forward", lambda _, chunk: chunk[..., 0, 0].mul(0).add(2).unsqueeze(0)
    )
    set_residual(algorithm, 0.8)
    trial.caution = caution
    loss = algorithm.update_head(torch.zeros(8, 1))["train/actor_loss"].item()
    assert loss == pytest.approx(-1 + weight * (0.5 * np.tanh(0.8)) ** 2, rel=1e-5)


def test_a_state_saved_within_a_trial_goes_on_the_same() -> None:
    original, _ = make_trials()
    twin, trial = make_trials()
    episodes = [make_episode([0.5] * 9, np.ones(9))]
    train(original, "online", make_data(episodes), 3)
    outcomes(original, challenger=True, successes=3, failures=1, choice=1)
    assert_goes_on_the_same(original, twin, "online", lambda: make_data(episodes))
    assert trial.version == 1 and trial.policies[1].episodes == 4
    assert twin.deployed.policy is trial.champion
