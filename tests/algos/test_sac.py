"""SAC with prior data: its targets by hand, the entropy that it keeps, what it learns, and what is saved."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from softflow.algos import SAC, SACConfig
from softflow.algos.sac import SACOnlineConfig
from softflow.algos.settings import ImitationConfig
from softflow.data import Episode, EpisodeBuilder, Replay, to_torch
from softflow.training.config import RunConfig
from softflow.training.loop import Trainer
from softflow.training.run_folder import RunFolder
from softflow.training.vector import vectorize
from tests.algos.softflow_toys import (
    assert_goes_on_the_same,
    assert_same,
    make_data,
    make_episode,
    train,
    weights,
)


def make_sac(observation_dim: int = 1, online: dict[str, Any] | None = None, **settings: Any) -> SAC:
    small = dict(flow="tanh_gaussian", flow_options={"width": 16, "depth": 1}, batch_size=64, critic_width=16)
    torch.manual_seed(0)
    algorithm = SAC(SACConfig(online=SACOnlineConfig(**(online or {})), **(small | settings)), observation_dim, 1)
    algorithm.fit_normalizer(torch.zeros(observation_dim), torch.ones(observation_dim))
    return algorithm


# --------------------------------------------------------------------------------------------------------- critics


def say(algorithm: SAC, values: list[float], log_prob: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the target critics return o + values for any chunk after observation o, and the policy `log_prob`."""

    def propose(observation: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros(len(observation), 1, algorithm.config.horizon, 1), torch.full(
            (len(observation), 1), log_prob
        )

    monkeypatch.setattr(algorithm.policy, "propose_with_log_prob", propose)
    monkeypatch.setattr(
        algorithm.critic_learner.target, "forward", lambda o, _: torch.stack([o + value for value in values])
    )


@pytest.mark.parametrize(
    ("horizon", "entropy_in_target", "targets"),
    [
        (1, False, [1 + 1 / 2, 1 + 1 / 2, 2 + 2 / 2, 0]),  # the least of o, o + 2 and o + 6, discounted
        (1, True, [1 + (1 + 3) / 2, 1 + (1 + 3) / 2, 2 + (2 + 3) / 2, 0]),  # and 12 / 4 for the entropy
        (3, True, [3 + (3 + 3) / 8, 2 + (2 + 3) / 4, 2 + (2 + 3) / 2, 0]),  # by the steps there were: 3, 2 and 1
    ],
)
def test_targets_by_hand(
    horizon: int, entropy_in_target: bool, targets: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Discount 1/2, entropy weight 1/4. The third window ends at a time limit, the last in a terminal state."""
    sizes = dict(horizon=horizon, n_action_steps=horizon, critic_members=3, target_members=3)
    algorithm = make_sac(**sizes, discount=0.5, entropy_weight=0.25, entropy_in_target=entropy_in_target)
    say(algorithm, [2.0, 0.0, 6.0], log_prob=-12.0, monkeypatch=monkeypatch)
    replay = Replay(100, 1, 1)
    replay.add_episode(make_episode([0.1] * 4, [1, 2, 4, 0], terminated=True))  # observations 0 ... 4
    replay.add_episode(make_episode([0.1] * 2, [1, 2], terminated=False))  # 0 ... 2
    batch = to_torch(replay.gather(np.array([0, 5, 6, 3]), horizon))
    with torch.no_grad():
        error = algorithm.critic_learner.critic(batch.observation, batch.chunk) - torch.tensor(targets)
    loss = algorithm.update_critic(batch)["train/critic_loss"]
    assert loss.item() == pytest.approx(error.square().mean().item(), rel=1e-5)


def test_a_target_takes_the_least_of_a_random_few(measured: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of 1, 2, 3 and 4 are drawn: the least is 1 in three of the six pairs, 2 in two of them, 3 in one."""
    algorithm = make_sac(critic_members=4, target_members=2)
    say(algorithm, [3.0, 1.0, 4.0, 2.0], log_prob=0.0, monkeypatch=monkeypatch)
    values: list[float] = []

    def td_target(_: Any, next_value: torch.Tensor) -> torch.Tensor:
        values.append(next_value.item())
        return next_value

    monkeypatch.setattr(algorithm.critic_learner, "td_target", td_target)
    monkeypatch.setattr(algorithm.critic_learner, "q", lambda _: torch.zeros(4, 1))
    replay = Replay(100, 1, 1)
    replay.add_episode(make_episode([0.1], [1.0], first=-1))  # the next observation is 0
    batch = to_torch(replay.gather(np.array([0]), 1))
    for _ in range(3_000):
        algorithm.critic_loss(batch)
    drawn = Counter(values)
    assert drawn.keys() == {1.0, 2.0, 3.0}
    for value, share in ((1.0, 1 / 2), (2.0, 1 / 3), (3.0, 1 / 6)):
        assert measured(abs(drawn[value] / 3_000 - share)) < 0.07


@pytest.mark.parametrize(("entropy_in_target", "discount"), [(True, None), (False, 0.9)])
def test_values_with_the_entropy_are_not_compared_with_returns(entropy_in_target: bool, discount: float | None) -> None:
    assert make_sac(discount=0.9, entropy_in_target=entropy_in_target).discount == discount


def test_critics_are_updated_several_times_and_the_actor_once(monkeypatch: pytest.MonkeyPatch) -> None:
    algorithm, calls = make_sac(online={"critic_updates": 7}), Counter[str]()
    update, update_actor = algorithm.update_critic, algorithm.update_actor
    monkeypatch.setattr(algorithm, "update_critic", lambda batch: calls.update(critics=1) or update(batch))
    monkeypatch.setattr(algorithm, "update_actor", lambda seen: calls.update(actor=1) or update_actor(seen))
    train(algorithm, "online", make_data([make_episode([0.5] * 9, np.ones(9))]), 2)
    assert calls == {"critics": 14, "actor": 2}


# ----------------------------------------------------------------------------------------------------------- actor


@pytest.mark.parametrize("horizon", [1, 3])
@pytest.mark.parametrize("start", [0.01, 10.0])
def test_the_entropy_goes_to_its_target(
    start: float, horizon: int, measured: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bandit, -(a - 0.4)^2 for each number of a chunk in place of critics; alpha starts too low or too high."""
    algorithm = make_sac(
        horizon=horizon,
        n_action_steps=horizon,
        entropy_weight=start,
        target_entropy=-0.7,
        online={"learning_rate": 2e-2},
    )
    monkeypatch.setattr(
        algorithm.critic_learner.critic, "forward", lambda _, chunk: -(chunk - 0.4).square().sum((-1, -2)).unsqueeze(0)
    )
    monkeypatch.setattr(algorithm, "update_critic", lambda batch: {})
    data = make_data([make_episode([0.0] * 9, np.ones(9))])
    first = train(algorithm, "online", data, 1)
    train(algorithm, "online", data, 500)
    chunk, log_prob = algorithm.policy.propose_with_log_prob(torch.arange(9.0)[:, None], 500)
    assert measured((log_prob.mean() / horizon - 0.7).abs()) < 0.3
    assert measured((chunk.mean() - 0.4).abs()) < 0.15
    assert (algorithm.alpha() > first["sac/entropy_weight"]) == (start < 1)


def test_own_episodes_are_draws_and_what_deploys_is_the_mode(measured: Any) -> None:
    algorithm = make_sac(horizon=2, n_action_steps=2)
    observation = torch.zeros(100, 1)
    explored, deployed = algorithm.explore(observation, torch.zeros(100)), algorithm.deployed.act(observation)
    assert explored.shape == deployed.shape == (100, 2, 1)
    assert measured(explored.std(0).min()) > 0.1
    assert torch.equal(deployed, algorithm.policy.greedy(observation))


# ---------------------------------------------------------------------------------------------------- a whole run


class Shuttle(gymnasium.Env[np.ndarray, np.ndarray]):
    """A point on a line, and the end that it has to come to: reward 1 there, and the end of the episode."""

    observation_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.steps, self.position, self.goal = 0, 0.0, float(self.np_random.choice([-1, 1]))
        return np.array([self.position, self.goal], np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.steps += 1
        self.position = float(np.clip(self.position + 0.15 * action[0], -1, 1))
        reached = self.position * self.goal > 0.9
        observation = np.array([self.position, self.goal], np.float32)
        return observation, float(reached), reached, self.steps == 20, {"is_success": reached}


def demonstrate(seed: int) -> Episode:
    """Towards the goal, more often than not."""
    env, rng, builder = Shuttle(), np.random.default_rng(seed), EpisodeBuilder()
    observation, _ = env.reset(seed=seed)
    while True:
        action = np.clip(rng.normal(0.7 * env.goal, 0.7, 1), -1, 1)
        following, reward, terminated, truncated, info = env.step(action)
        builder.append(observation, action, reward)
        observation = following
        if terminated or truncated:
            return builder.finish(observation, terminated, truncated, info["is_success"])


@pytest.mark.parametrize("horizon", [1, 3])
def test_it_learns_without_imitation(horizon: int, measured: Any, tmp_path: Path) -> None:
    """From ten demonstrations and some hundred steps; going the same way always finds half of the goals."""
    algorithm = make_sac(
        observation_dim=2,
        horizon=horizon,
        n_action_steps=horizon,
        discount=0.9,
        target_rate=0.02,
        entropy_weight=0.02,
        critic_members=4,
        critic_learning_rate=3e-3,
        online={"steps": 800, "updates_per_step": 0.25, "critic_updates": 2, "learning_rate": 3e-3},
    )
    config = RunConfig(eval_episodes=20, collect_steps=50, eval_every=100)
    folder = RunFolder.create(tmp_path, "shuttle", "sac", seed=0)
    environments = [vectorize([Shuttle] * 5, algorithm.n_action_steps) for _ in range(2)]
    evaluations = Trainer(algorithm, [demonstrate(seed) for seed in range(10)], *environments, folder, config).run()
    success = [one.result.success_rate for one in evaluations]
    assert measured(success[-1]) > 0.75
    assert {one.stage for one in evaluations} == {"online"}


@pytest.mark.parametrize("name", ["imitation", "online"])
def test_a_saved_state_goes_on_the_same(name: str) -> None:
    original, twin = (make_sac(imitation=ImitationConfig(updates=5), ema_rate=0.1) for _ in range(2))
    episodes = [make_episode(np.linspace(-0.9, 0.9, 9), np.ones(9)) for _ in range(4)]
    train(original, name, make_data(episodes[:2], episodes[2:]), 3)
    assert_goes_on_the_same(original, twin, name, lambda: make_data(episodes[:2], episodes[2:]))
    assert_same(weights(original.alpha), weights(twin.alpha))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(horizon=4, n_action_steps=2), r"n_action_steps \(2\) and critic_horizon must be horizon = 4"),
        (dict(horizon=4, n_action_steps=4, critic_horizon=1), "critic_horizon must be horizon = 4"),
        (dict(critic_members=3, target_members=4), r"target_members must be in 1 \.\.\. critic_members = 3, got 4"),
        (dict(entropy_weight=0.0), "entropy_weight must be positive, got 0"),
        (dict(online={"critic_updates": 0}), "online.critic_updates must be at least 1, got 0"),
        (dict(online={"offline_share": 0.0}), r"offline_share must be in \(0, 1\], got 0"),
        (dict(flow="flow_matching"), "flow 'flow_matching' has no exact density, which an entropy needs"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_sac(**settings)
