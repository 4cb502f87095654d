"""The critic of SOFT-FLOW: its target by hand, what it learns, and how many actions it values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from softflow.data import Replay, to_torch
from tests.algos.softflow_toys import make_algorithm, make_data, make_episode, train

TARGETS = {  # by the critic's horizon, of six windows of the episodes below
    3: [
        3 + 4 / 8,  # 1 + 2/2 + 4/4, and an eighth of the mean of 3 and 5
        4,  # 2 + 4/2 + 0, up to a terminal state: no bootstrap
        2 + 3 / 4,  # 1 + 2/2, then a time limit: a quarter of the mean of 2 and 4
        2 + 3 / 2,  # 2, then the time limit: a half of it
        2,  # 1 + 2/2, then a terminal state
        2,  # 2, then the terminal state
    ],
    1: [1 + 2 / 2, 2 + 3 / 2, 1 + 2 / 2, 2 + 3 / 2, 1 + 2 / 2, 2],
}


@pytest.mark.parametrize("critic_horizon", TARGETS)
def test_critic_targets_by_hand(critic_horizon: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Discount 1/2; of the observation o after the window one target critic says o, the other o + 2."""
    algorithm = make_algorithm(horizon=4, n_action_steps=2, critic_horizon=critic_horizon, discount=0.5)
    proposed = torch.tensor([[0.1], [0.2], [0.3], [0.4]])

    def propose(observation: Tensor, n: int, temperature: float, length: int) -> Tensor:
        return proposed.expand(len(observation), n, -1, -1)

    def value(features: Tensor, chunk: Tensor) -> Tensor:
        assert torch.equal(chunk, proposed[:critic_horizon].expand_as(chunk))
        seen = features[:, 0].reshape(-1, *(1 for _ in chunk.shape[1:-2])).expand(chunk.shape[:-2])
        return torch.stack([seen, seen + 2])

    monkeypatch.setattr(algorithm.policy, "propose", propose)
    monkeypatch.setattr(algorithm.critic_learner.target, "forward", value)
    replay = Replay(100, 1, 1)
    replay.add_episode(make_episode([0.1] * 4, [1, 2, 4, 0], terminated=True))  # observations 0 ... 4
    replay.add_episode(make_episode([0.1] * 2, [1, 2], terminated=False))  # 0 ... 2
    replay.add_episode(make_episode([0.1] * 2, [1, 2], terminated=True))
    batch = to_torch(replay.gather(np.array([0, 1, 5, 6, 8, 9]), critic_horizon))
    with torch.no_grad():
        error = algorithm.critic(batch.observation, batch.chunk) - torch.tensor(TARGETS[critic_horizon])
    loss = algorithm.update_critic(batch)["train/critic_loss"]
    assert loss.item() == pytest.approx(error.square().mean().item(), rel=1e-5)


def test_of_several_candidates_the_critic_chooses_and_the_target_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """After observation o the candidates are 0.3, 0.1 and 0.2, each times o + 1. By the critics' mean, -x, the
    smallest is best; the first critic alone, and the target, would take the largest. It says 20 x."""
    algorithm = make_algorithm(target_candidates=3, discount=0.5)
    asked = []

    def propose(observation: Tensor, n: int, temperature: float, length: int) -> Tensor:
        asked.append((n, temperature))
        return torch.tensor([0.3, 0.1, 0.2])[:, None, None] * (observation[:, None, :, None] + 1)

    def value(factors: list[float]) -> Any:
        some = next(algorithm.critic.parameters()).sum() * 0  # something to descend
        return lambda _, chunk: torch.stack([factor * chunk[..., 0, 0] for factor in factors]) + some

    monkeypatch.setattr(algorithm.policy, "propose", propose)
    monkeypatch.setattr(algorithm.critic_learner.target, "forward", value([10.0, 30.0]))
    monkeypatch.setattr(algorithm.critic, "forward", value([1.0, -3.0]))
    replay = Replay(100, 1, 1)
    replay.add_episode(make_episode([0.5, 0.7], [1, 2], terminated=True))  # observations 0, 1, 2
    batch = to_torch(replay.gather(np.array([0, 1]), 1))
    targets = torch.tensor([1 + (20 * 0.1 * 2) / 2, 2])  # no bootstrap after the terminal state
    q = torch.tensor([1.0, -3.0])[:, None] * torch.tensor([0.5, 0.7])
    loss = algorithm.update_critic(batch)["train/critic_loss"]
    assert loss.item() == pytest.approx((q - targets).square().mean().item(), rel=1e-5)
    assert asked == [(3, algorithm.config.temperature)]


def test_the_state_value_learns_what_the_critic_says_of_the_datas_chunks(
    measured: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two critics say o + x and o + x + 2 of chunk x at observation o, where 0.2 and 0.6 were executed: o + 1.4, at the
    first observation of an episode too."""
    algorithm = make_algorithm(critic_learning_rate=3e-3, offline={"nll_weight": 1.0})
    some = next(algorithm.critic.parameters()).sum() * 0  # something to descend
    monkeypatch.setattr(
        algorithm.critic, "forward", lambda o, x: o[:, 0] + x[:, 0, 0] + torch.tensor([[0.0], [2.0]]) + some
    )
    replay = Replay(100, 1, 1)
    for action in (0.2, 0.6):
        replay.add_episode(make_episode([action] * 3, [0, 0, 1]))  # observations 0 ... 3
    batch = to_torch(replay.gather(np.array([0, 1, 2, 4, 5, 6]).repeat(50), 1))
    for _ in range(400):
        algorithm.update_critic(batch)
        some = next(algorithm.critic.parameters()).sum() * 0
    state_value = algorithm.state_value
    assert state_value is not None
    expected = torch.tensor([1.4, 2.4, 3.4])
    assert measured((state_value(torch.arange(3.0)[:, None]) - expected).abs().max()) < 0.1


def test_only_advantages_need_a_state_value() -> None:
    for stage, needed in (({"q_weight": 1.0}, False), ({"nll_weight": 1.0}, True)):
        assert (make_algorithm(online=stage).state_value is not None) == needed
    assert make_algorithm(online={"nll_weight": 1.0, "advantage_scale": None}).state_value is None


@pytest.mark.parametrize("name", ["candidates", "target_candidates"])
def test_there_is_at_least_one_candidate(name: str) -> None:
    with pytest.raises(ValueError, match=f"^{name} must be at least 1, got 0"):
        make_algorithm(**{name: 0})


def test_the_critic_learns_the_discounted_reward_to_come(measured: Any) -> None:
    """Reward 1 at the end of 4 steps, whatever is done: discount^3 ... 1, by the observation alone."""
    algorithm = make_algorithm(
        horizon=2, n_action_steps=2, discount=0.8, critic_learning_rate=1e-2, target_rate=0.05, warmup={"updates": 500}
    )
    rng = np.random.default_rng(0)
    data = make_data([make_episode(rng.uniform(-1, 1, 4), [0, 0, 0, 1]) for _ in range(20)])
    train(algorithm, "critic_warmup", data, 500)
    observation = torch.arange(4.0)[:, None]
    value = algorithm.critic(observation, torch.zeros(4, 2, 1)).mean(0)
    assert measured((value - torch.tensor([0.8**3, 0.8**2, 0.8, 1.0])).abs().max()) < 0.12


@pytest.mark.parametrize("critic_horizon", [1, None, 4])
def test_any_critic_horizon_runs_through_all_stages(
    critic_horizon: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    algorithm = make_algorithm(
        horizon=4,
        n_action_steps=2,
        critic_horizon=critic_horizon,
        **{stage: {"q_weight": 1.0, "kl_weight": 1.0, "nll_weight": 1.0} for stage in ("offline", "online")},
    )
    seen = set()
    update_critic = algorithm.update_critic

    def update(batch: Any) -> Any:
        seen.add(batch.chunk.shape[1])
        return update_critic(batch)

    monkeypatch.setattr(algorithm, "update_critic", update)
    rng = np.random.default_rng(0)
    episodes = [make_episode(rng.uniform(-1, 1, 9), np.ones(9)) for _ in range(6)]
    data = make_data(episodes[:3], episodes[3:])
    for stage in algorithm.schedule():
        scalars = train(algorithm, stage.name, data, 2)
        assert all(value.isfinite() for value in scalars.values())
    assert seen == {critic_horizon or 2}
    explored = algorithm.explore(torch.zeros(5, 1), torch.zeros(5))
    assert explored.chunk.shape == algorithm.deployed.act(torch.zeros(5, 1)).shape == (5, 2, 1)
    assert explored.proposed.shape == (5, 4, 1)
