"""The actor of SOFT-FLOW: what each term of its loss does; stages, and what is saved."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from softflow.algos import SoftFlowConfig
from softflow.algos.softflow_settings import OnlineConfig
from softflow.data import Replay, to_torch
from tests.algos.softflow_toys import (
    MIXTURE,
    assert_goes_on_the_same,
    assert_same,
    make_algorithm,
    make_data,
    make_episode,
    set_gaussian,
    stage_named,
    start_from,
    train,
    weights,
)

# ----------------------------------------------------------------------------------------------------------- actor


def test_a_policy_is_no_distance_from_itself(measured: Any) -> None:
    algorithm = make_algorithm(horizon=3, n_action_steps=1, offline={"kl_weight": 1.0}, **MIXTURE)
    data = make_data([make_episode([0.5] * 9, np.ones(9))])
    train(algorithm, "imitation", data, 5)
    train(algorithm, "critic_warmup", data, 1)  # from here on the imitation policy is what imitation has learnt
    assert measured(abs(train(algorithm, "offline", data, 1)["flow/kl_to_anchor"])) < 1e-5


def test_the_kl_between_gaussians_is_the_closed_form(measured: Any) -> None:
    algorithm = make_algorithm(horizon=3, n_action_steps=1, batch_size=20_000, offline={"kl_weight": 1.0})
    start_from(algorithm, mean=0.1, std=0.4)
    stage = stage_named(algorithm, "offline")
    stage.begin()
    set_gaussian(algorithm.actor, mean=-0.2, std=0.3)
    kl = stage.update(make_data([make_episode([0.5] * 9, np.ones(9))]), 0.0)["flow/kl_to_anchor"]
    expected = math.log(0.4 / 0.3) + (0.3**2 + 0.3**2) / (2 * 0.4**2) - 0.5  # nats per dimension
    assert measured((kl - expected).abs()) < 0.02


def improved_mean(kl_weight: float, monkeypatch: pytest.MonkeyPatch) -> float:
    """Where a Gaussian policy that imitation left at -0.3 ends on a bandit: -(a - 0.5)^2 in place of a critic."""
    algorithm = make_algorithm(offline={"q_weight": 1.0, "kl_weight": kl_weight, "learning_rate": 1e-2})
    start_from(algorithm, mean=-0.3, std=0.2)
    monkeypatch.setattr(algorithm.critic, "forward", lambda _, chunk: -(chunk[..., 0, 0] - 0.5).square().unsqueeze(0))
    monkeypatch.setattr(algorithm, "update_critic", lambda batch: {})
    train(algorithm, "offline", make_data([make_episode([-0.3] * 9, np.ones(9))]), 300)
    return algorithm.policy.greedy(torch.arange(8.0)[:, None]).mean().item()


def test_the_critics_value_drives_the_actor_and_the_kl_holds_it(measured: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    free, held, between = (improved_mean(kl_weight, monkeypatch) for kl_weight in (0.0, 300.0, 0.7))
    assert measured(abs(free - 0.5)) < 0.05
    assert measured(abs(held + 0.3)) < 0.05
    assert -0.2 < measured(between) < 0.4


@pytest.mark.parametrize(("progress", "weight"), [(0.0, 4.0), (0.5, 0.4), (1.0, 0.04)])
def test_the_weight_of_the_kl_falls_in_equal_ratios(progress: float, weight: float) -> None:
    algorithm = make_algorithm(offline={"kl_weight": 4.0, "final_kl_weight": 0.04, "learning_rate": 1e-2})
    start_from(algorithm, mean=-0.3, std=0.2)
    stage, data = stage_named(algorithm, "offline"), make_data([make_episode([0.9] * 9, np.ones(9))])
    stage.begin()
    set_gaussian(algorithm.actor, mean=0.6, std=0.5)
    scalars = stage.update(data, progress)
    torch.testing.assert_close(scalars["train/actor_loss"], weight * scalars["flow/kl_to_anchor"])


def test_a_weight_of_the_kl_that_cannot_fall_is_refused() -> None:
    with pytest.raises(ValueError, match=r"final_kl_weight 0\.1 is reached in equal ratios from 0: both must"):
        OnlineConfig(kl_weight=0.0, final_kl_weight=0.1)


def test_the_kl_alone_brings_the_actor_back(measured: Any) -> None:
    algorithm = make_algorithm(offline={"kl_weight": 1.0, "learning_rate": 1e-2})
    start_from(algorithm, mean=-0.3, std=0.2)
    stage, data = stage_named(algorithm, "offline"), make_data([make_episode([0.9] * 9, np.ones(9))])
    stage.begin()
    set_gaussian(algorithm.actor, mean=0.6, std=0.5)
    for update in range(300):
        stage.update(data, update / 300)
    chunk, _ = algorithm.actor.propose_with_log_prob(torch.zeros(1, 1), 5000)
    assert measured((chunk.mean() + 0.3).abs()) < 0.1
    assert measured((chunk.std() - 0.2).abs()) < 0.05


@pytest.mark.parametrize("name", ["imitation", "offline"])
def test_only_windows_that_reward_follows_are_imitated(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    algorithm = make_algorithm(horizon=2, n_action_steps=1, offline={"nll_weight": 1.0})
    paid = make_episode([0.1, 0.2, 0.3, 0.4, 0.5], [0, 0, 1, 0, 0], first=0)
    unpaid = make_episode([-0.5] * 5, [0.0] * 5, first=100)
    seen = []
    loss = algorithm.actor.bc_loss

    def bc_loss(observation: Tensor, chunk: Tensor, *rest: Any) -> Tensor:
        seen.extend(zip(observation[:, 0].tolist(), map(tuple, chunk[..., 0].tolist()), strict=True))
        return loss(observation, chunk, *rest)

    monkeypatch.setattr(algorithm.actor, "bc_loss", bc_loss)
    train(algorithm, name, make_data([paid, unpaid]), 3)
    windows = {(observation, tuple(np.round(chunk, 4))) for observation, chunk in seen}
    assert windows == {(0.0, (0.1, 0.2)), (1.0, (0.2, 0.3)), (2.0, (0.3, 0.4))}


def test_chunks_count_by_their_advantage(monkeypatch: pytest.MonkeyPatch) -> None:
    """exp(A / (scale * std)), over the largest: A is 0.2 - 0.1, 0.5 - 0.1 and 0.6 - 0.1 where all states are worth
    0.1."""
    algorithm = make_algorithm(horizon=1, n_action_steps=1, online={"nll_weight": 1.0})
    monkeypatch.setattr(algorithm.state_value, "forward", lambda o: torch.full((len(o),), 0.1))
    monkeypatch.setattr(
        algorithm.critic_learner.target, "forward", lambda _, chunk: torch.stack([chunk[..., 0, 0]] * 2)
    )
    replay = Replay(100, 1, 1)
    replay.add_episode(make_episode([0.2, 0.5, 0.6], [0, 0, 1]))
    weight = algorithm.chunk_weight(to_torch(replay.gather(np.arange(3), 1)), scale=2.0)
    std = math.sqrt((0.7**2 + 0.2**2 + 0.5**2) / 9 / 2)  # of 0.1, 0.4, 0.5 about their mean, 1/3
    expected = torch.tensor([0.1, 0.4, 0.5]).div(2 * std).exp()
    torch.testing.assert_close(weight, expected / expected.max())
    capped = algorithm.chunk_weight(to_torch(replay.gather(np.arange(3), 1)), scale=0.1)
    assert capped.tolist() == pytest.approx([1.0] * 3)  # beyond e^3 they are alike


def test_chunks_far_worse_than_their_states_still_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """exp(A / std) of A = -1.5 and -1.501 is zero in float32, for both; their ratio is what the loss takes."""
    algorithm = make_algorithm(horizon=1, n_action_steps=1, online={"nll_weight": 1.0})
    monkeypatch.setattr(algorithm.state_value, "forward", lambda o: torch.ones(len(o)))
    monkeypatch.setattr(
        algorithm.critic_learner.target, "forward", lambda _, chunk: torch.stack([chunk[..., 0, 0]] * 2)
    )
    replay = Replay(100, 1, 1)
    replay.add_episode(make_episode([-0.5, -0.501], [0, 1]))
    weight = algorithm.chunk_weight(to_torch(replay.gather(np.arange(2), 1)), scale=1.0)
    assert weight.tolist() == pytest.approx([1.0, math.exp(-math.sqrt(2))], rel=1e-3)  # they differ by sqrt(2) * std


@pytest.mark.parametrize("steps", [9, 2])
def test_own_episodes_that_earn_nothing_or_are_short_do_not_stop_it(steps: int) -> None:
    algorithm = make_algorithm(horizon=4, n_action_steps=2, online={"q_weight": 1.0, "nll_weight": 1.0})
    demonstrations = [make_episode(np.linspace(-1, 1, 9), np.ones(9))]
    own = [make_episode(np.linspace(-1, 1, steps), np.zeros(steps)) for _ in range(3)]
    scalars = train(algorithm, "online", make_data(demonstrations, own), 3)
    assert all(value.isfinite() for value in scalars.values())


def test_imitation_keeps_both_modes(measured: Any) -> None:
    """Half of the demonstrations go left and half go right from the same place."""
    algorithm = make_algorithm(
        horizon=2, n_action_steps=1, imitation={"updates": 400, "learning_rate": 3e-3}, ema_rate=0.05, **MIXTURE
    )
    rng = np.random.default_rng(0)
    episodes = [make_episode(np.clip(rng.normal(side, 0.05, 2), -1, 1), [1, 1]) for side in (-0.6, 0.6) * 40]
    train(algorithm, "imitation", make_data(episodes), 400)
    proposed = algorithm.policy.propose(torch.zeros(1, 1), 2000)[0, ..., 0]
    left, right = ((proposed - side).abs().amax(-1) < 0.3 for side in (-0.6, 0.6))
    assert measured((left | right).float().mean()) > 0.97
    assert 0.35 < measured(left.float().mean()) < 0.65


# ---------------------------------------------------------------------------------------------------------- stages


def test_stages_of_no_length_are_left_out() -> None:
    everything = ["imitation", "critic_warmup", "offline", "online"]
    assert [stage.name for stage in make_algorithm().schedule()] == everything
    for name, key in zip(everything, ("imitation", "warmup", "offline", "online"), strict=True):
        algorithm = make_algorithm(**{key: {"steps" if name == "online" else "updates": 0}})
        assert [stage.name for stage in algorithm.schedule()] == [other for other in everything if other != name]
    assert [stage.name for stage in make_algorithm().schedule() if stage.acts] == ["online"]


def test_what_imitation_has_learnt_is_kept_to_the_bit() -> None:
    terms = {"q_weight": 1.0, "kl_weight": 0.1, "nll_weight": 1.0, "learning_rate": 1e-2}
    algorithm = make_algorithm(offline=terms, online=terms)
    data = make_data(*[[make_episode(np.linspace(-1, 1, 9), np.ones(9))]] * 2)
    names = [stage.name for stage in algorithm.schedule()]
    train(algorithm, names[0], data, 10)
    learnt = weights(algorithm.policy)
    for name in names[1:]:
        train(algorithm, name, data, 5)
        assert_same(weights(algorithm.imitation_policy), learnt)
    assert not torch.equal(
        algorithm.policy.greedy(torch.zeros(1, 1)), algorithm.imitation_policy.greedy(torch.zeros(1, 1))
    )


def test_the_policy_is_frozen_while_the_critic_warms_up() -> None:
    algorithm = make_algorithm()
    data = make_data([make_episode(np.linspace(-1, 1, 9), np.ones(9))])
    train(algorithm, "imitation", data, 3)
    policy, critic = weights(algorithm.policy), weights(algorithm.critic)
    train(algorithm, "critic_warmup", data, 3)
    assert_same(weights(algorithm.policy), policy)
    assert any(not torch.equal(tensor, critic[name]) for name, tensor in weights(algorithm.critic).items())


@pytest.mark.parametrize("name", ["imitation", "offline", "online"])
def test_a_saved_state_goes_on_the_same(name: str) -> None:
    terms = {"q_weight": 1.0, "kl_weight": 1.0, "nll_weight": 1.0}
    original, twin = (make_algorithm(ema_rate=0.1, offline=terms, online=terms) for _ in range(2))
    episodes = [make_episode(np.linspace(-1, 1, 9), np.ones(9)) for _ in range(4)]
    data = make_data(episodes[:2], episodes[2:])
    train(original, "imitation", data, 3)
    train(original, name, data, 3)
    assert_goes_on_the_same(original, twin, name, lambda: make_data(episodes[:2], episodes[2:]))


def test_diagnosing_draws_nothing_from_training() -> None:
    """How often a run logs must not change what it learns."""
    algorithm, data = make_algorithm(), make_data([make_episode([0.5] * 9, np.ones(9))])
    before = torch.get_rng_state()
    stage_named(algorithm, "online").diagnose(data)
    assert torch.equal(torch.get_rng_state(), before)


def test_diagnosing_keeps_the_random_state_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    algorithm, data = make_algorithm(), make_data([make_episode([0.5] * 9, np.ones(9))])
    algorithm.device, asked = "cuda:1", list[torch.device]()

    def fork_rng(devices: list[torch.device]) -> None:
        asked.extend(devices)
        raise InterruptedError  # there is no GPU to go on with

    monkeypatch.setattr(torch.random, "fork_rng", fork_rng)
    with pytest.raises(InterruptedError):
        stage_named(algorithm, "online").diagnose(data)
    assert asked == [torch.device("cuda:1")]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(horizon=4, n_action_steps=5), "n_action_steps must be in 1 ... horizon = 4, got 5"),
        (dict(horizon=4, n_action_steps=0), "n_action_steps must be in 1 ... horizon = 4, got 0"),
        (dict(horizon=4, n_action_steps=2, critic_horizon=5), "critic_horizon must be in 1 ... horizon = 4, got 5"),
        (dict(batch_size=1), "batch_size must be at least 2: .* got 1"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SoftFlowConfig(**settings)
