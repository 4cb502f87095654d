"""PPO on latent and residual: its densities, its loss and advantages by hand, what it learns, and what is saved."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

from softflow.algos import RfsPpo, RfsPpoConfig
from softflow.algos.rfs_ppo import Decided, PpoConfig
from softflow.algos.settings import ImitationConfig
from softflow.algos.steering_settings import HeadConfig
from softflow.data import Episode
from softflow.policies import FlowPolicy
from softflow.policies.head import HeadOutput
from tests.algos.softflow_toys import (
    assert_goes_on_the_same,
    assert_same,
    make_data,
    make_episode,
    stage_named,
    train,
    weights,
)
from tests.algos.test_steering import FLOW_MATCHING, HEADS, MIXTURE, bandit_demonstrations, imitated

every_head = pytest.mark.parametrize("head", HEADS)

SMALL_MIXTURE = dict(flow="coupling", flow_options={"layers": 1, "width": 8, "components": 2})


def make_algorithm(base: str | None = None, **settings: Any) -> RfsPpo:
    """A small one on chunks of one step; `imitation`, `steering` and `online` are dicts of what to change in them."""
    sizes = dict(horizon=1, n_action_steps=1, batch_size=64, temperature=1.0, normalize_actions=False)
    kinds = {"imitation": ImitationConfig, "steering": HeadConfig, "online": PpoConfig}
    parts = {name: kind(**settings.pop(name, {})) for name, kind in kinds.items()}
    config = RfsPpoConfig(**(sizes | FLOW_MATCHING | settings), base=base, **parts)
    torch.manual_seed(0)
    algorithm = RfsPpo(config, 1, 1)
    algorithm.fit_normalizer(torch.zeros(1), torch.ones(1))
    return algorithm


def disturb(algorithm: RfsPpo, std: float = 0.3) -> None:
    """A head that says something, and a different residual noise in each dimension."""
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in (*algorithm.actor.head[-1].parameters(), algorithm.residual_noise.log_std):
            parameter.add_(std * torch.randn_like(parameter))


def act(algorithm: RfsPpo, observation: Tensor, reward: Callable[[float], float] = lambda action: action) -> Decided:
    """A decision at each observation (B, 1), in an episode of its own, rewarded at its first step, and received."""
    decision, episodes = algorithm.explore(observation, torch.zeros(len(observation))), []
    for o, chunk, record in zip(observation, decision.chunk.numpy(), decision.record.numpy(), strict=True):
        rewards = [reward(chunk[0, 0]), *(0.0 for _ in chunk[1:])]
        episodes.append(Episode(np.full((len(chunk) + 1, 1), o), chunk, rewards, True, False, False, -1, record[None]))
    algorithm.receive(episodes)
    assert algorithm.latest._decided is not None
    return algorithm.latest._decided


# ------------------------------------------------------------------------------------------------------- densities


@pytest.mark.parametrize("shape", ["step", "chunk"])
@every_head
def test_the_recorded_density_is_that_of_hand_computed_gaussians(head: str, shape: str) -> None:
    """Chunks of three steps, two of them executed: the third one's residual is not decided."""
    steering = {**HEADS[head], "latent_shape": shape, "residual_shape": shape}
    algorithm = make_algorithm(horizon=3, n_action_steps=2, temperature=0.5, steering=steering)
    disturb(algorithm)
    observation = torch.randn(6, 1)
    decided, said = act(algorithm, observation), algorithm.actor.steer(observation)
    steps = 2 if shape == "step" else 1
    assert decided.latent.shape == (6, 3, 1) and decided.residual.shape == (6, steps, 1)
    expected = torch.zeros(6)
    if head != "residual":
        expected += Normal(said.mean, 0.5 * said.log_std.exp()).log_prob(decided.latent).sum((1, 2))
    if head != "latent":
        density = Normal(said.residual[:, :steps], algorithm.residual_noise())
        expected += density.log_prob(decided.residual).sum((1, 2))
    torch.testing.assert_close(decided.log_prob, expected.detach())


@pytest.mark.parametrize("shape", ["step", "chunk"])
def test_what_is_executed_is_composed_of_what_is_recorded(shape: str) -> None:
    algorithm = make_algorithm(horizon=3, n_action_steps=2, temperature=0.5, steering={"residual_shape": shape})
    disturb(algorithm)
    observation = torch.randn(6, 1)
    decision = algorithm.explore(observation, torch.zeros(len(observation)))
    latent, residual = decision.record[:, :3, None], decision.record[:, 3:-1, None]
    assert residual.shape[1] == (2 if shape == "step" else 1)
    base = algorithm.base.decode(observation, latent)[:, :2]
    torch.testing.assert_close(decision.chunk, (base + residual).clamp(-1, 1))
    assert (residual - algorithm.actor.steer(observation).residual[:, :2]).abs().max() > 0.005  # noise is in it


@pytest.mark.parametrize("temperature", [1.0, 0.4])
def test_the_density_of_a_mixtures_latent_integrates_to_one_and_is_drawn_from(
    temperature: float, measured: Any
) -> None:
    """In one dimension: numerically, over a grid, against what is drawn."""
    algorithm = make_algorithm(**SMALL_MIXTURE, temperature=temperature, steering={"residual": False})
    disturb(algorithm)
    row, grid = torch.zeros(1, 1), torch.linspace(-12, 12, 4001)
    steering = algorithm.actor.steer(row)
    expand = type(steering)(*(part.expand(len(grid), -1, -1) for part in steering))
    density = algorithm.log_prob(row.expand(len(grid), -1), grid[:, None, None], grid[:, None, None], expand).exp()
    cumulative = torch.cumulative_trapezoid(density, grid).detach()
    assert measured((cumulative[-1] - 1).abs()) < 1e-3
    drawn = algorithm.explore(row.expand(5000, -1), torch.zeros(5000)).record[:, 0]
    for quantile in (0.1, 0.3, 0.5, 0.7, 0.9):
        below = grid[1:][cumulative < quantile].max()
        assert measured(((drawn < below).float().mean() - quantile).abs()) < 0.05


@pytest.mark.parametrize("flow", [FLOW_MATCHING, MIXTURE], ids=["flow_matching", "mixture"])
@every_head
def test_with_an_unchanged_policy_every_ratio_is_one(head: str, flow: dict[str, Any], measured: Any) -> None:
    algorithm = make_algorithm(horizon=3, n_action_steps=2, temperature=0.35, steering=HEADS[head], **flow)
    disturb(algorithm)
    decided = act(algorithm, torch.randn(32, 1))
    scalars = algorithm.update_head(decided)
    assert scalars["ppo/ratio_clipped"] == 0
    assert measured(scalars["ppo/approx_kl"].abs()) < 1e-5
    assert measured((scalars["train/actor_loss"] + decided.advantage.mean()).abs()) < 1e-4
    assert measured(algorithm.update_head(decided)["ppo/approx_kl"]) > 1e-5  # the first one has moved it


@every_head
def test_what_deploys_unsteered_is_the_base_to_the_bit(head: str) -> None:
    algorithm = make_algorithm("run", steering=HEADS[head])
    algorithm.load_base(imitated(-0.6, 0.6))
    observation = torch.randn(7, 1)
    torch.manual_seed(1)
    deployed = algorithm.deployed.act(observation)
    torch.manual_seed(1)
    assert torch.equal(deployed, algorithm.base.propose(observation, 1, 1.0)[:, 0])
    torch.manual_seed(1)
    explored = algorithm.explore(observation, torch.zeros(len(observation))).chunk
    assert torch.equal(explored, deployed) == (head == "latent")


# --------------------------------------------------------------------------------------------- advantages and loss


@pytest.mark.parametrize("terminated", [True, False])
def test_advantages_of_an_episode_that_ends_inside_a_chunk(terminated: bool) -> None:
    """Two chunks of two steps and one of which one was made, at discount 1/2 and trace 1/2; V(s) = s, and the true
    final observation is 5."""
    algorithm = make_algorithm(horizon=3, n_action_steps=2, discount=0.5, online={"gae_lambda": 0.5})
    algorithm.value = torch.nn.Identity()
    record = np.arange(3 * 6, dtype=np.float32).reshape(3, 6)  # latent of 3, residual of 2, log-density
    rewards = [1.0, 2.0, 3.0, 4.0, 5.0]
    episode = Episode(np.arange(6.0)[:, None], np.zeros((5, 1)), rewards, terminated, not terminated, False, -1, record)
    decided = algorithm._assess(episode)
    delta_2 = 5 + 0.5 * 5 * (not terminated) - 4
    delta_1 = 3 + 0.5 * 4 + 0.25 * 4 - 2
    delta_0 = 1 + 0.5 * 2 + 0.25 * 2 - 0
    advantage_1 = delta_1 + 0.5 * 0.25 * delta_2
    advantage_0 = delta_0 + 0.5 * 0.25 * advantage_1
    assert decided.advantage.tolist() == pytest.approx([advantage_0, advantage_1, delta_2])
    assert decided.value.tolist() == pytest.approx([advantage_0, advantage_1 + 2, delta_2 + 4])
    assert decided.observation.flatten().tolist() == [0, 2, 4]
    assert decided.latent.flatten(1).tolist() == record[:, :3].tolist()
    assert decided.residual.flatten(1).tolist() == record[:, 3:5].tolist()
    assert decided.log_prob.tolist() == record[:, 5].tolist()


def test_advantages_are_normalised_over_what_is_received() -> None:
    algorithm = make_algorithm()
    decided = act(algorithm, torch.zeros(50, 1))
    assert decided.advantage.mean().abs() < 1e-6 and decided.advantage.std(correction=0).item() == pytest.approx(1)
    algorithm.receive([])
    assert algorithm.latest._decided is decided  # learnt from further
    assert torch.equal(act(algorithm, torch.zeros(50, 1), lambda action: 0.0).advantage, torch.zeros(50))


def test_the_loss_by_hand() -> None:
    """Four decisions whose densities have grown by given factors since."""
    algorithm = make_algorithm(online={"clip": 0.2, "entropy_weight": 0.5, "residual_std": 0.1})
    ratio = torch.tensor([1.5, 1.5, 0.5, 1.1])
    decided = act(algorithm, torch.zeros(4, 1))._replace(
        advantage=torch.tensor([1.0, -1.0, 2.0, 3.0]), value=torch.tensor([1.0, 2.0, 3.0, 0.0])
    )
    scalars = algorithm.update_head(decided._replace(log_prob=decided.log_prob - ratio.log()))
    entropy = (0 + math.log(0.1)) / 2  # of the latent's one number, and the residual's
    assert scalars["train/actor_loss"].item() == pytest.approx(
        -(1.2 * 1 - 1.5 * 1 + 0.5 * 2 + 1.1 * 3) / 4 - 0.5 * entropy, rel=1e-4
    )
    assert scalars["train/value_loss"].item() == pytest.approx((1 + 4 + 9) / 4)
    assert scalars["ppo/ratio_clipped"].item() == 0.75
    assert scalars["ppo/approx_kl"].item() == pytest.approx((ratio - 1 - ratio.log()).mean().item(), rel=1e-3)
    assert scalars["steering/residual_rms"] == 0


@pytest.mark.parametrize("shape", [(16,), (1, 3)])
def test_the_entropy_of_latents_that_are_not_shaped_like_chunks(shape: tuple[int, ...]) -> None:
    """A foreign base may have such latents. Every number of the decision counts the same."""
    algorithm, numbers = make_algorithm(online={"residual_std": 0.1}), math.prod(shape)
    log_std = torch.full((2, *shape), 0.5)
    entropy = algorithm._entropy(HeadOutput(torch.zeros(2, *shape), log_std, torch.zeros(2, 1, 1)))
    assert entropy.item() == pytest.approx((numbers * 0.5 + math.log(0.1)) / (numbers + 1))


def test_each_decision_is_learnt_from_once_an_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    algorithm, data = make_algorithm(batch_size=10), make_data(bandit_demonstrations(0.0))
    decided = act(algorithm, torch.zeros(34, 1))
    batches: list[Decided] = []
    monkeypatch.setattr(algorithm, "update_head", lambda batch: batches.append(batch) or {})
    stage = stage_named(algorithm, "online")
    for _ in range(6):
        stage.update(data, 0.0)
    assert [len(batch.log_prob) for batch in batches] == [11, 11, 12] * 2
    first, second = (torch.cat([batch.log_prob for batch in epoch]) for epoch in (batches[:3], batches[3:]))
    for epoch in (first, second):
        assert torch.equal(epoch.sort().values, decided.log_prob.sort().values)
    assert not torch.equal(first, second)


def test_the_updates_of_a_step_are_as_many_epochs_as_asked() -> None:
    algorithm = make_algorithm(horizon=4, n_action_steps=4, batch_size=50, online={"epochs": 5, "steps": 1000})
    stage = stage_named(algorithm, "online")
    assert (stage.environment_steps, stage.updates_per_step) == (1000, 0.025)
    assert stage.updates_per_step * stage.total * algorithm.config.batch_size == 5 * 1000 / 4  # decisions, five times


# ---------------------------------------------------------------------------------------------------- what it learns


def learnt(head: str, modes: tuple[float, ...], goal: float) -> Tensor:
    """What is deployed after learning from own episodes with reward -|action - goal|."""
    algorithm = make_algorithm(
        "run",
        steering={"residual_bound": 0.15, **HEADS[head]},
        online={"learning_rate": 1e-2, "residual_std": 0.05},
    )
    algorithm.load_base(imitated(*modes))
    before = weights(algorithm.base)
    data, stage = make_data(bandit_demonstrations(*modes)), stage_named(algorithm, "online")
    stage.begin()
    for _ in range(20):
        act(algorithm, torch.zeros(128, 1), lambda action: -abs(action - goal))
        for _ in range(8):
            stage.update(data, 0.0)
    assert_same(weights(algorithm.base), before)
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in algorithm.base.parameters())
    torch.manual_seed(5)
    return algorithm.deployed.act(torch.zeros(2000, 1)).flatten()


@pytest.mark.parametrize("head", ["residual", "both"])
def test_a_residual_corrects_a_drift(head: str, measured: Any) -> None:
    """All demonstrations are 0.1 off."""
    assert measured((learnt(head, (0.3,), 0.4).mean() - 0.4).abs()) < 0.03


@every_head
def test_only_the_latent_leaves_a_wrong_mode(head: str, measured: Any) -> None:
    right = measured((learnt(head, (-0.6, 0.6), 0.6) > 0.3).float().mean())
    assert right > 0.95 if head != "residual" else 0.3 < right < 0.7


# ------------------------------------------------------------------------------------------------ stages and states


def test_stages_with_and_without_a_base() -> None:
    assert [stage.name for stage in make_algorithm().schedule()] == ["imitation", "online"]
    algorithm = make_algorithm(base="run")
    assert [stage.name for stage in algorithm.schedule()] == ["online"]
    trained = FlowPolicy(1, 1, 1, **FLOW_MATCHING)
    trained.normalizer.fit(torch.tensor([3.0]), torch.tensor([2.0]))
    algorithm.load_base(trained)
    assert_same(weights(algorithm.base), weights(trained))


def test_imitation_is_the_imitators_and_leaves_the_rest_alone() -> None:
    algorithm, data = make_algorithm(imitation={"learning_rate": 1e-2}), make_data(bandit_demonstrations(0.5))
    before, value = weights(algorithm.base), weights(algorithm.value)
    scalars = train(algorithm, "imitation", data, 3)
    assert "flow/loss" in scalars
    assert any(not torch.equal(tensor, before[name]) for name, tensor in weights(algorithm.base).items())
    assert_same(weights(algorithm.value), value)
    assert algorithm.actor.head[-1].weight.abs().max() == 0


@pytest.mark.parametrize("flow", [FLOW_MATCHING, MIXTURE], ids=["flow_matching", "mixture"])
@pytest.mark.parametrize("name", ["imitation", "online"])
def test_a_saved_state_goes_on_the_same(name: str, flow: dict[str, Any]) -> None:
    """In the middle of an epoch, too."""
    original, twin = (make_algorithm(horizon=2, n_action_steps=2, batch_size=10, **flow) for _ in range(2))
    data = make_data([make_episode(np.linspace(-1, 1, 9), np.ones(9)) for _ in range(4)])
    train(original, "imitation", data, 3)
    if name == "online":
        act(original, torch.randn(40, 1))
        train(original, name, data, 3)
    with torch.no_grad():
        twin.residual_noise.log_std.add_(1.0)
    again = [make_episode(np.linspace(-1, 1, 9), np.ones(9))]
    assert_goes_on_the_same(original, twin, name, lambda: make_data(again), updates=4)
    assert_same(weights(original.value), weights(twin.value))
    assert torch.equal(original.residual_noise.log_std, twin.residual_noise.log_std)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(steering={"deterministic": True}), "a latent without noise has no density"),
        (dict(temperature=0.0), "a latent without noise has no density"),
        (dict(online={"epochs": 0}), "online.epochs must be above 0, got 0"),
        (dict(online={"residual_std": 0.0}), "online.residual_std must be above 0, got 0.0"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_algorithm(**settings)


def test_a_residual_alone_may_start_from_the_mode() -> None:
    algorithm = make_algorithm(steering={"latent": False, "deterministic": True}, temperature=0.0)
    greedy = algorithm.base.greedy(torch.zeros(9, 1))
    assert torch.equal(algorithm.deployed.act(torch.zeros(9, 1)), greedy)
    explored = algorithm.explore(torch.zeros(9, 1), torch.zeros(9)).chunk
    assert not torch.equal(explored, greedy) and (explored - greedy).abs().max() < 6 * 0.06
