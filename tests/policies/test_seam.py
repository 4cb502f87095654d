"""The seam between chunks: which candidate continues the committed actions, and what is kept of them."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from flows import ChunkFlow
from flows.bases import GaussianBase
from softflow.policies import BestOfN, FlowPolicy, OneStepPolicy
from softflow.policies.seam import STRATEGIES, continue_chunk, require_strategy, soft_mask, splice

HORIZON, ACTION_DIM, OBSERVATION_DIM = 8, 2, 3
STEP = 0.1


class RandomWalk(ChunkFlow):
    """Chunks that start anywhere and then change by N(0, STEP^2) per step: the likeliest continuation stands still."""

    def __init__(self) -> None:
        super().__init__(horizon=HORIZON, action_dim=ACTION_DIM, context_dim=OBSERVATION_DIM)
        self.base = GaussianBase(HORIZON * ACTION_DIM)

    def embed(self, context: Tensor) -> None:
        return None

    def encode(self, chunk: Tensor, embedding: None) -> tuple[Tensor, Tensor]:
        steps = chunk.unflatten(-1, self.latent_shape)
        steps = torch.cat((steps[..., :1, :], steps.diff(dim=-2) / STEP), -2)
        return steps.flatten(-2), torch.full(chunk.shape[:-1], -(HORIZON - 1) * ACTION_DIM * math.log(STEP))

    def decode(self, latent: Tensor, embedding: None) -> tuple[Tensor, Tensor]:
        steps = latent.unflatten(-1, self.latent_shape)
        steps = torch.cat((steps[..., :1, :], steps[..., 1:, :] * STEP), -2).cumsum(-2)
        return steps.flatten(-2), torch.full(latent.shape[:-1], (HORIZON - 1) * ACTION_DIM * math.log(STEP))


class Critic(nn.Module):
    """Values the first number of the last action that it sees."""

    def __init__(self, horizon: int = 5) -> None:
        super().__init__()
        self.horizon = horizon

    def forward(self, features: Tensor, chunk: Tensor) -> Tensor:
        assert chunk.shape[2] == self.horizon
        return chunk[None, ..., -1, 0]


def make_policy(flow: str = "gaussian") -> FlowPolicy:
    torch.manual_seed(0)
    policy = FlowPolicy(OBSERVATION_DIM, ACTION_DIM, HORIZON, flow, dict(width=8))
    policy.normalizer.fit(torch.zeros(OBSERVATION_DIM), torch.ones(OBSERVATION_DIM))
    return policy


def deployed(flow: str = "gaussian", critic: Any = None, temperature: float = 0.8) -> BestOfN:
    return BestOfN(make_policy(flow), critic, n_action_steps=4, candidates=1, temperature=temperature)


def walking(critic: Any = None) -> BestOfN:
    """A policy whose chunks are a random walk."""
    made = deployed(critic=critic)
    assert isinstance(made.policy, FlowPolicy)
    made.policy.flow = RandomWalk()
    return made


def offering(levels: list[float], critic: Any = None) -> BestOfN:
    """A random walk whose candidates all stand still, each at its level."""
    made = walking(critic)
    candidates = torch.tensor(levels)[None, :, None, None].expand(1, -1, HORIZON, ACTION_DIM)
    made.policy.sample = lambda observation, n, temperature, length=None: candidates[:, :n]  # type: ignore[method-assign]
    return made


def standing(level: float, left: int = 4) -> Tensor:
    return torch.full((1, left, ACTION_DIM), level)


def test_the_likeliest_candidate_is_the_one_that_continues_the_prefix() -> None:
    observation = torch.zeros(1, OBSERVATION_DIM)
    for level in (-0.5, 0.0, 0.5):
        chunk = continue_chunk(offering([0.0, 0.5, -0.5]), observation, standing(level), 2, "likeliest", n=3)
        assert torch.equal(chunk, standing(level, HORIZON))
    nearest = continue_chunk(offering([0.0, 0.5, -0.5]), observation, standing(0.3), 2, "likeliest", n=3)
    assert torch.equal(nearest, torch.cat((standing(0.3, 2), standing(0.5, 6)), 1))


def test_the_likeliest_of_drawn_candidates_changes_least_after_the_prefix() -> None:
    policy, observation = walking(), torch.zeros(5, OBSERVATION_DIM)
    previous = torch.linspace(-0.8, 0.8, 5)[:, None, None].expand(5, 3, ACTION_DIM)
    torch.manual_seed(3)
    chunk = continue_chunk(policy, observation, previous, 3, "likeliest", n=32)
    torch.manual_seed(3)
    candidates = splice(previous, policy.policy.sample(observation, 32, 0.8))
    change = candidates.diff(dim=2).square().sum((2, 3))  # minus 2 STEP^2 times the log-density, plus a constant
    assert len(change.argmin(1).unique()) > 1
    assert torch.equal(chunk, candidates[torch.arange(5), change.argmin(1)].clamp(-1, 1))


def test_the_critic_chooses_among_the_likeliest_quarter() -> None:
    levels = [0.9, 0.25, 0.2, 0.6, -0.4, -0.9, 0.8, 0.7]  # 0.2 and 0.25 continue 0.2 best
    chunk = continue_chunk(offering(levels, Critic()), torch.zeros(1, 3), standing(0.2), 2, "critic", n=8)
    assert torch.equal(chunk[:, 2:], standing(0.25, 6))
    alone = continue_chunk(offering(levels, Critic()), torch.zeros(1, 3), standing(0.2), 2, "critic", n=4)
    assert torch.equal(alone[:, 2:], standing(0.2, 6))  # a quarter of four is one


def test_a_candidate_without_a_density_is_not_chosen() -> None:
    chunk = continue_chunk(offering([math.nan, 0.5, 0.1]), torch.zeros(1, 3), standing(0.2), 2, "likeliest", n=3)
    assert torch.equal(chunk[:, 2:], standing(0.1, 6))


def test_ensembling_averages_what_both_chunks_say_and_weighs_the_older_one_more() -> None:
    policy = offering([0.6])
    chunk = continue_chunk(policy, torch.zeros(1, 3), standing(0.2), 1, "temporal_ensembling")
    mean = (0.2 + math.exp(-0.01) * 0.6) / (1 + math.exp(-0.01))
    assert 0.399 < mean < 0.4
    expected = torch.cat((standing(0.2, 1), standing(mean, 3), standing(0.6, 4)), 1)
    assert torch.allclose(chunk, expected, rtol=0, atol=1e-6)


def test_the_soft_mask_falls_from_one_to_zero() -> None:
    expected = [third * math.expm1(third) / math.expm1(1) for third in (2 / 3, 1 / 3)]
    assert torch.allclose(soft_mask(8, delay=2, left=4), torch.tensor([1.0, 1.0, *expected, 0.0, 0.0, 0.0, 0.0]))
    assert soft_mask(8, delay=4, left=4).tolist() == [1.0] * 4 + [0.0] * 4  # nothing is left to be soft


def test_inpainting_comes_closer_to_the_remaining_actions_than_the_policy() -> None:
    policy, observation = deployed("flow_matching"), torch.zeros(64, OBSERVATION_DIM)
    previous = torch.full((64, 4, ACTION_DIM), 0.9)
    torch.manual_seed(1)
    free = continue_chunk(policy, observation, previous, 2, "naive")
    torch.manual_seed(1)
    guided = continue_chunk(policy, observation, previous, 2, "inpainting")
    distance = [(chunk[:, 2] - 0.9).abs().mean() for chunk in (guided, free)]
    assert distance[0] < 0.8 * distance[1]


@given(
    strategy=st.sampled_from(list(STRATEGIES)),
    delay=st.integers(0, 4),
    batch=st.integers(1, 3),
    n=st.integers(1, 6),
    seed=st.integers(0, 99),
)
def test_the_committed_actions_are_kept_exactly(strategy: str, delay: int, batch: int, n: int, seed: int) -> None:
    policy = deployed("flow_matching" if strategy == "inpainting" else "gaussian", Critic(), temperature=3.0)
    torch.manual_seed(seed)
    previous = 2 * torch.rand(batch, 4, ACTION_DIM) - 1
    chunk = continue_chunk(policy, torch.randn(batch, OBSERVATION_DIM), previous, delay, strategy, n)
    assert chunk.shape == (batch, HORIZON, ACTION_DIM)
    assert chunk.abs().max() <= 1
    assert torch.equal(chunk[:, :delay], previous[:, :delay])


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_rows_of_a_batch_do_not_affect_each_other(strategy: str) -> None:
    policy = deployed("flow_matching" if strategy == "inpainting" else "gaussian", Critic(), temperature=0.0)
    torch.manual_seed(2)
    observation, previous = torch.randn(4, OBSERVATION_DIM), 2 * torch.rand(4, 4, ACTION_DIM) - 1
    together = continue_chunk(policy, observation, previous, 2, strategy)
    for row in range(4):
        one = slice(row, row + 1)
        alone = continue_chunk(policy, observation[one], previous[one], 2, strategy)
        assert torch.allclose(together[one], alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("strategy", ["naive", "likeliest", "critic"])
def test_without_a_delay_the_policy_acts_as_it_does_today(strategy: str) -> None:
    policy = BestOfN(make_policy(), Critic(), n_action_steps=4, candidates=3, temperature=0.8)  # type: ignore[arg-type]
    observation, previous = torch.randn(5, OBSERVATION_DIM), torch.rand(5, 4, ACTION_DIM)
    torch.manual_seed(4)
    chunk = continue_chunk(policy, observation, previous, 0, strategy)
    torch.manual_seed(4)
    assert torch.equal(chunk[:, :4], policy.act(observation))


@pytest.mark.parametrize(
    ("made", "strategy", "delay", "message"),
    [
        (deployed, "likliest", 2, "strategy: expected one of naive, likeliest, .*, got 'likliest'"),
        (deployed, "naive", 8, "delay must be in 0 ... horizon - 1 = 7, got 8"),
        (deployed, "naive", 1.5, "delay must be in 0 ... horizon - 1 = 7, got 1.5"),
        (deployed, "critic", 2, "critic needs a policy with a critic: this one has none"),
        (lambda: deployed(critic=Critic(2)), "critic", 2, "values 2 actions, which a delay of 2 has already committed"),
        (
            lambda: BestOfN(make_policy(), None, 3, 1, 0.8),
            "temporal_ensembling",
            2,
            "at least half of each must be executed, not 3 of 8 actions",
        ),
        (deployed, "inpainting", 2, "inpainting needs a flow that solves an ODE, such as 'flow_matching'"),
        (lambda: deployed("flow_matching"), "likeliest", 2, "likeliest needs a flow policy with an exact density"),
    ],
)
def test_a_strategy_that_a_policy_cannot_use_is_refused(made: Any, strategy: str, delay: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        require_strategy(made(), strategy, delay)


def test_a_policy_without_a_density_may_switch_but_not_score() -> None:
    policy = BestOfN(OneStepPolicy(make_policy("flow_matching")), None, 4, 1, 0.5)
    require_strategy(policy, "naive", 2)
    with pytest.raises(ValueError, match="likeliest needs a flow policy"):
        require_strategy(policy, "likeliest", 2)


@pytest.mark.parametrize(
    ("previous", "message"),
    [
        (torch.zeros(1, 1, 2), r"previous: expected \(1, 2 to 8, 2\), got \(1, 1, 2\)"),
        (torch.zeros(1, 9, 2), r"got \(1, 9, 2\)"),
        (torch.zeros(2, 4, 2), r"got \(2, 4, 2\)"),
        (torch.zeros(4, 2), r"got \(4, 2\)"),
        (torch.full((1, 4, 2), math.nan), "previous: an action is not a finite number"),
    ],
)
def test_remaining_actions_of_another_shape_or_not_finite_are_refused(previous: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        continue_chunk(deployed(), torch.zeros(1, OBSERVATION_DIM), previous, 2, "naive")


def test_numbers_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="n must be an integer, at least 1, got 0"):
        continue_chunk(deployed(), torch.zeros(1, OBSERVATION_DIM), standing(0.0), 2, "likeliest", n=0)
    with pytest.raises(ValueError, match="averages at most 4 actions, 5 remain"):
        continue_chunk(deployed(), torch.zeros(1, OBSERVATION_DIM), standing(0.0, 5), 2, "temporal_ensembling")
