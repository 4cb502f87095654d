"""BestOfN: which candidate is executed, and what of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from critics import ChunkCritic
from softflow.policies import BestOfN, FlowPolicy, register_policy
from softflow.policies.best_of_n import KINDS

HORIZON, ACTION_DIM, OBSERVATION_DIM = 4, 2, 3


class HandMade(nn.Module):
    """A critic that is a function; remembers what it was asked."""

    def __init__(self, value: Callable[[Tensor], Tensor], horizon: int) -> None:
        super().__init__()
        self.value, self.horizon = value, horizon

    def forward(self, features: Tensor, chunk: Tensor) -> Tensor:
        self.features, self.chunk = features, chunk
        return self.value(chunk)


def near(target: float) -> Callable[[Tensor], Tensor]:
    """One member, for whom the last step it sees should have `target` as its first number."""
    return lambda chunk: -(chunk[..., -1, 0] - target).abs().unsqueeze(0)


def make_policy() -> FlowPolicy:
    torch.manual_seed(0)
    policy = FlowPolicy(OBSERVATION_DIM, ACTION_DIM, HORIZON, "coupling", dict(layers=2, width=8, components=3))
    policy.normalizer.fit(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.5, 1.0, 2.0]))
    return policy


def observations() -> Tensor:
    torch.manual_seed(1)
    return torch.randn(6, OBSERVATION_DIM)


def act(policy: FlowPolicy, critic: Any, n_action_steps: int, candidates: int = 7) -> tuple[Tensor, Tensor]:
    """What is executed, and the candidates it was chosen from."""
    torch.manual_seed(5)
    chosen = BestOfN(policy, critic, n_action_steps, candidates, temperature=0.8).act(observations())
    torch.manual_seed(5)
    return chosen, policy.propose(observations(), candidates, 0.8)


@pytest.mark.parametrize(("critic_horizon", "n_action_steps"), [(4, 4), (1, 3), (4, 2), (2, 2)])
def test_the_candidate_that_the_critic_values_most_is_executed(critic_horizon: int, n_action_steps: int) -> None:
    critic = HandMade(near(0.3), critic_horizon)
    chosen, candidates = act(make_policy(), critic, n_action_steps)
    best = (candidates[:, :, critic_horizon - 1, 0] - 0.3).abs().argmin(-1).tolist()
    assert len(set(best)) > 1
    assert chosen.shape == (6, n_action_steps, ACTION_DIM)
    for row, n in enumerate(best):
        assert torch.equal(chosen[row], candidates[row, n, :n_action_steps])


def test_the_critic_sees_what_would_be_executed() -> None:
    policy, critic = make_policy(), HandMade(near(0.0), 3)
    with torch.no_grad():
        policy.flow.base.mean.bias.mul_(4)
    _, candidates = act(policy, critic, n_action_steps=2)
    assert (candidates.abs() == 1).any()  # clipped
    assert torch.equal(critic.chunk, candidates[:, :, :3])
    assert torch.equal(critic.features, policy.normalizer(observations()))


@pytest.mark.parametrize("candidates", [1, 7])
def test_a_decision_keeps_the_chunk_as_it_was_drawn(candidates: int) -> None:
    """The same random numbers choose the same actions as `act`; the whole chunk is an unclipped draw of the flow."""
    policy, critic = make_policy(), HandMade(near(0.3), 3)
    with torch.no_grad():
        policy.flow.base.mean.bias.mul_(4)
    chooser = BestOfN(policy, critic, 2, candidates, temperature=0.8)  # type: ignore[arg-type]
    torch.manual_seed(5)
    actions, proposed = chooser.decide(observations())
    after = torch.rand(1)
    assert torch.equal(actions, act(policy, critic, 2, candidates)[0])
    torch.manual_seed(5)
    drawn = policy.flow.sample(policy.features(observations()), candidates, 0.8)
    assert torch.equal(torch.rand(1), after)
    assert all((chunk == drawn[row]).flatten(1).all(1).any() for row, chunk in enumerate(proposed))
    assert (proposed.abs() > 1).any() and torch.equal(actions, proposed[:, :2].clamp(-1, 1))
    if candidates > 1:
        assert critic.chunk.abs().max() == 1  # valued as it would be executed


def test_the_ensembles_mean_decides() -> None:
    def value(chunk: Tensor) -> Tensor:
        x = chunk[..., 0, 0]
        return torch.stack([x, -3 * x])  # alone, the first would choose the largest; the mean falls with x

    chosen, candidates = act(make_policy(), HandMade(value, 1), n_action_steps=1)
    assert torch.equal(chosen[:, 0, 0], candidates[:, :, 0, 0].min(-1).values)


def test_a_single_candidate_is_executed_and_no_critic_asked() -> None:
    def refuse(_: Tensor) -> Tensor:
        raise AssertionError("asked")

    for critic in (HandMade(refuse, 2), None):
        chosen, candidates = act(make_policy(), critic, n_action_steps=3, candidates=1)
        assert torch.equal(chosen, candidates[:, 0, :3])


def test_several_candidates_need_a_critic() -> None:
    with pytest.raises(ValueError, match="without a critic nothing chooses among 2 candidates"):
        BestOfN(make_policy(), None, 3, candidates=2, temperature=0.8)
    single = BestOfN(make_policy(), None, 3, candidates=1, temperature=0.8)
    with pytest.raises(ValueError, match="without a critic nothing chooses among 2 candidates"):
        single.candidates = 2
    assert single.act(observations()).shape[1] == 3


def test_without_noise_the_critic_chooses_between_the_modes() -> None:
    policy = make_policy()
    centres = policy.flow.to_chunk(
        policy.flow.base(policy.normalizer(observations())).mean.unflatten(-1, (HORIZON, ACTION_DIM)),
        policy.normalizer(observations()),
    )[0].clamp(-1, 1)
    best_of_many = BestOfN(policy, HandMade(lambda chunk: chunk[..., 0, 0].unsqueeze(0), 1), 4, 60, temperature=0.0)
    expected = centres[torch.arange(6), centres[:, :, 0, 0].argmax(-1)]
    torch.testing.assert_close(best_of_many.act(observations()), expected)


@pytest.mark.parametrize("critic_horizon", [None, 1, 4])
def test_description_and_weights_make_the_same(critic_horizon: int | None) -> None:
    policy, critic = make_policy(), None
    if critic_horizon is not None:
        critic = ChunkCritic(context_dim=3, horizon=critic_horizon, action_dim=2, members=3, width=8, depth=1)
    settings = dict(n_action_steps=2, candidates=1 if critic is None else 5, temperature=0.5)
    original = BestOfN(policy, critic, **settings)
    twin = BestOfN.build(**json.loads(json.dumps(original.describe())))
    twin.load_state_dict(original.state_dict())
    assert (twin.n_action_steps, twin.candidates, twin.temperature) == tuple(settings.values())
    actions = []
    for one in (original, twin):
        torch.manual_seed(3)
        actions.append(one.act(observations()))
    assert torch.equal(*actions)


def test_a_policy_of_another_kind_is_built_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(KINDS, "_things", dict(KINDS._things))

    @register_policy
    class Cautious(FlowPolicy):
        kind = "cautious"

    policy = Cautious(OBSERVATION_DIM, ACTION_DIM, HORIZON, "gaussian", {"width": 8})
    described = json.loads(json.dumps(BestOfN(policy, None, 2, candidates=1, temperature=1.0).describe()))
    assert type(BestOfN.build(**described).policy) is Cautious
    with pytest.raises(ValueError, match="kind of policy 'flow' is already registered, by FlowPolicy"):
        register_policy(FlowPolicy)
