"""What is measured of episodes, by hand, and that measuring leaves the random states alone."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from critics import ChunkCritic
from softflow.algos import Data
from softflow.data import Episode, Proposals, Replay
from softflow.policies import BestOfN, FlowPolicy
from softflow.training.episode_measures import bias_of, measure_episodes, measure_likelihood
from softflow.training.random_state import random_state

HORIZON = 4
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def deployed() -> BestOfN:
    torch.manual_seed(0)
    policy = FlowPolicy(2, 1, HORIZON, flow_options={"layers": 2, "width": 8}).eval()
    policy.normalizer.fit(torch.zeros(2), torch.ones(2))
    critic = ChunkCritic(context_dim=policy.context_dim, horizon=2, action_dim=1, width=8)
    return BestOfN(policy, critic, n_action_steps=2, candidates=1, temperature=1.0)


def episode(reward: list[float], proposals: Proposals | None = None) -> Episode:
    rng, steps = np.random.default_rng(3), len(reward)
    ending = {"terminated": False, "truncated": True, "is_success": True}
    return Episode(
        rng.normal(size=(steps + 1, 2)), rng.uniform(-1, 1, (steps, 1)), np.array(reward), **ending, seed=7, arm=2,
        proposals=proposals,
    )  # fmt: skip


def measured(deployed: BestOfN, one: Episode, discount: float | None = 0.5, values: bool = True) -> Any:
    algorithm: Any = SimpleNamespace(deployed=deployed, discount=discount)
    data: Any = SimpleNamespace(offline=SimpleNamespace(largest_return=2.0))
    [row] = measure_episodes(algorithm, data, [one], "online", 30, "own", "cpu", values)
    return row


def test_value_and_return_are_means_over_the_decisions(deployed: BestOfN) -> None:
    one = episode([1.0, 0.0, 4.0])
    row = measured(deployed, one)
    assert row[:9] == ("online", 30, "own", 7, 2, True, "truncated", 3, 5.0)
    assert row.achieved == ((1 + 0.25 * 4) + 4) / 2 / 2.0  # decisions at steps 0 and 2, in largest returns
    chunks = torch.as_tensor(np.stack([one.action[[0, 1]], one.action[[2, 2]]]), dtype=torch.float32)
    context = deployed.policy.features(torch.as_tensor(one.observation[[0, 2]], dtype=torch.float32))
    assert deployed.critic is not None
    assert row.value == pytest.approx(float(deployed.critic(context, chunks).mean().detach()))
    assert bias_of([row, row]) == {"eval/q_bias": pytest.approx(row.value - row.achieved)}


@pytest.mark.parametrize("unknown", [{"discount": None}, {"values": False}])
def test_a_critic_whose_values_mean_nothing_is_left_out(deployed: BestOfN, unknown: Any) -> None:
    row = measured(deployed, episode([1.0]), **unknown)
    assert row.value is None and row.achieved is None and row.nll is None and bias_of([row]) == {}


def test_the_likelihood_is_that_of_the_chunks_that_the_policy_executed(deployed: BestOfN) -> None:
    chunks = np.random.default_rng(1).uniform(-1, 1, (2, HORIZON, 1)).astype(np.float32)
    one = episode([0.0, 0.0, 1.0], Proposals(np.array([0, 2]), chunks, np.array([False, True])))
    seen = torch.as_tensor(one.observation[[2]], dtype=torch.float32)
    assert isinstance(deployed.policy, FlowPolicy)
    expected = -float(deployed.policy.log_prob(seen, torch.as_tensor(chunks[None, 1:])).detach()) / HORIZON
    assert measured(deployed, one).nll == pytest.approx(expected, rel=1e-5)


def test_chunks_without_a_density_have_no_likelihood() -> None:
    policy = FlowPolicy(2, 1, HORIZON, flow="tanh_gaussian").eval()
    policy.normalizer.fit(torch.zeros(2), torch.ones(2))
    at_the_bound = Proposals(np.array([0]), np.ones((1, HORIZON, 1), np.float32), np.array([True]))
    deployed = BestOfN(policy, None, n_action_steps=2, candidates=1, temperature=1.0)
    assert measured(deployed, episode([1.0], at_the_bound)).nll is None


def replay(*lengths: int) -> Replay:
    filled = Replay(50, 2, 1, horizon=HORIZON)
    for length in lengths:
        filled.add_episode(episode([1.0] * length))
    return filled


def test_held_out_demonstrations_are_measured_as_those_that_are_learnt(deployed: BestOfN) -> None:
    measured = measure_likelihood(deployed.policy, Data(replay(3), replay(), RNG, replay(9)), "cpu")
    swapped = measure_likelihood(deployed.policy, Data(replay(9), replay(), RNG, replay(3)), "cpu")
    assert measured["eval/nll_held_out"] == swapped["eval/nll_demonstrated"] != swapped["eval/nll_held_out"]


def test_measuring_leaves_the_random_states_alone(deployed: BestOfN) -> None:
    before = random_state("cpu")
    assert measure_likelihood(deployed.policy, Data(replay(3), replay(), RNG), "cpu").keys() == {
        "eval/nll_demonstrated"
    }
    measured(deployed, episode([1.0]))
    after = random_state("cpu")
    assert before.keys() == after.keys()
    for name, state in before.items():
        same = torch.equal(state, after[name]) if isinstance(state, torch.Tensor) else state == after[name]
        assert same, name
