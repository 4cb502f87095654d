"""Flow Q-learning: its loss by hand, who learns from which term, what holds it back, stages, and what is saved."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from softflow.algos import FlowQLearning, FlowQLearningConfig
from softflow.algos.flow_q_learning import FlowQLearningOnlineConfig
from softflow.data import Decision, Episode, Replay, to_torch
from tests.algos.softflow_toys import (
    ONE_STEP,
    assert_goes_on_the_same,
    assert_same,
    make_data,
    make_episode,
    set_gaussian,
    stage_named,
    train,
    weights,
)

FLOW_MATCHING = dict(flow="flow_matching", flow_options={"width": 32, "depth": 2, "steps": 4})
STAGES = ["imitation", "critic_warmup", "offline", "online"]
MODES = (-0.6, 0.5)


def make_algorithm(**settings: Any) -> FlowQLearning:
    """A small one for one-step chunks; `imitation`, `one_step` and so on are dicts of what to change in them."""
    parts = {name: settings.pop(name, {}) for name in ("one_step", "imitation", "warmup", "offline", "online")}
    parts["one_step"] = {"width": 32, "depth": 2} | parts["one_step"]
    config = FlowQLearningConfig(**(ONE_STEP | FLOW_MATCHING | settings))
    for name, changes in parts.items():
        for key, value in changes.items():
            assert hasattr(getattr(config, name), key)
            setattr(getattr(config, name), key, value)
    torch.manual_seed(0)
    algorithm = FlowQLearning(config, 1, 1)
    algorithm.fit_normalizer(torch.zeros(1), torch.ones(1))
    return algorithm


def bandit_demonstrations() -> list[Episode]:
    """Episodes of one step near each of the modes, all of them successes."""
    actions = np.random.default_rng(0).normal(MODES, 0.03, (60, 2)).ravel()
    return [make_episode([action], [1.0]) for action in actions]


@functools.cache
def imitated() -> dict[str, Any]:
    """The state of one that has learnt the modes."""
    algorithm = make_algorithm(imitation={"updates": 600, "learning_rate": 2e-2})
    train(algorithm, "imitation", make_data(bandit_demonstrations()), 600)
    return algorithm.state_dict()


def proposals(algorithm: FlowQLearning, n: int = 2000) -> Tensor:
    torch.manual_seed(5)
    return algorithm.policy.propose(torch.zeros(1, 1), n)[0, :, 0, 0]


# -------------------------------------------------------------------------------------------------------- the loss


@pytest.mark.parametrize("improve", [False, True])
def test_the_loss_by_hand(improve: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The flow is N(0.2, 0.5^2), the data are 0.5, mu says 0.8 (clipped, for the critic), which is worth -2."""
    settings = dict(flow="gaussian", flow_options={"width": 8}, temperature=0.0, one_step={"distillation_weight": 3.0})
    algorithm = make_algorithm(horizon=2, **settings)
    set_gaussian(algorithm.actor.flow_policy, 0.2, 0.5)
    with torch.no_grad():
        last = algorithm.actor.mu[-1]
        last.weight.zero_()
        last.bias.copy_(torch.tensor([0.8, 1.5]))
    seen = []

    def value(_: Tensor, chunk: Tensor) -> Tensor:
        seen.append(chunk.detach())
        return chunk[..., 0, 0].mul(0).sub(2).unsqueeze(0)

    monkeypatch.setattr(algorithm.critic_learner.critic, "forward", value)
    replay = Replay(100, 1, 1)
    replay.add_episode(make_episode([0.5] * 6, [1.0] * 6))
    imitable = to_torch(replay.gather(np.arange(4), 2))
    scalars = algorithm.update_actor(torch.zeros(8, 1), imitable, improve)
    nll = 0.5 * (0.3 / 0.5) ** 2 + math.log(0.5) + 0.5 * math.log(2 * math.pi)
    distillation = (0.6**2 + 1.3**2) / 2
    q = 1.0 if improve else 0.0  # -Q / |Q| of a negative value
    assert scalars["train/actor_loss"].item() == pytest.approx(nll + 3 * distillation + q, rel=1e-5)
    assert scalars["flow/nll"].item() == pytest.approx(nll, rel=1e-5)
    assert scalars["one_step/distance_rms"].item() == pytest.approx(math.sqrt(distillation), rel=1e-5)
    assert len(seen) == improve
    for chunk in seen:  # the first of two actions is what is executed
        torch.testing.assert_close(chunk, torch.full((8, 1, 1, 1), 0.8))


def test_the_critic_sees_clipped_chunks_at_the_temperature_that_acts(monkeypatch: pytest.MonkeyPatch) -> None:
    algorithm = make_algorithm(temperature=0.4)
    with torch.no_grad():
        algorithm.actor.mu[-1].bias.fill_(1.5)
    asked, draw = [], algorithm.actor.draw

    def drawing(observation: Tensor, n: int, temperature: float) -> Any:
        asked.append((n, temperature))
        return draw(observation, n, temperature)

    def value(observation: Tensor, chunks: Tensor) -> Tensor:
        assert chunks.max() == 1
        return chunks.sum((-1, -2)) * 0

    monkeypatch.setattr(algorithm.actor, "draw", drawing)
    monkeypatch.setattr(algorithm.critic_learner, "value", value)
    imitable = to_torch(make_data(bandit_demonstrations()).offline.gather(np.array([0]), 1))
    algorithm.update_actor(torch.zeros(8, 1), imitable, improve=True)
    assert asked == [(1, 0.4)]


def test_own_chunks_are_kept_whole_and_clipped() -> None:
    """mu has no density, so the flow learns what mu would execute."""
    algorithm = make_algorithm(horizon=3, n_action_steps=1)
    with torch.no_grad():
        algorithm.actor.mu[-1].bias.fill_(1.5)
        algorithm.policy.mu[-1].bias.fill_(1.5)
    decision = algorithm.explore(torch.zeros(5, 1), torch.zeros(5))
    assert isinstance(decision, Decision) and decision.proposed is not None and decision.record is None
    assert decision.chunk.shape == (5, 1, 1) and decision.proposed.shape == (5, 3, 1)
    assert decision.proposed.max() == 1 and torch.equal(decision.chunk, decision.proposed[:, :1])


def test_the_critic_moves_the_one_step_network_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """With it and without it the flow's gradient is the same to the bit; a norm that is clipped scales all of it."""
    flow, one_step = [], []
    for improve in (False, True):
        algorithm = make_algorithm(one_step={"distillation_weight": 1.0})
        imitable = to_torch(make_data(bandit_demonstrations()).offline.gather(np.arange(0, 20, 2), 1))
        monkeypatch.setattr(algorithm.policy_learner, "descend", lambda loss: loss.backward() or {})
        algorithm.update_actor(imitable.observation, imitable, improve)
        flow.append({name: p.grad for name, p in algorithm.actor.flow_policy.named_parameters()})
        one_step.append(algorithm.actor.mu[-1].weight.grad)
    assert_same(*flow)
    assert not torch.equal(*one_step)


# ------------------------------------------------------------------------------------------------- what it learns


def test_imitation_makes_the_flow_imitate_and_the_network_follow(measured: Any) -> None:
    algorithm = make_algorithm()
    algorithm.load_state_dict(imitated())
    policy, observation = algorithm.policy, torch.zeros(500, 1)
    torch.manual_seed(5)
    latent, chunk = policy.draw(observation)
    followed = policy.flow_policy.decode(observation, latent)
    of_other_latents = followed.roll(1, 0)
    assert measured((chunk - followed).abs().mean() / (chunk - of_other_latents).abs().mean()) < 0.6
    for mode in MODES:  # what lies between them is nobody's
        assert measured(((followed - mode).abs() < 0.15).float().mean()) > 0.15
        assert measured(((chunk - mode).abs() < 0.25).float().mean()) > 0.15


@pytest.mark.parametrize(("weight", "moved"), [(0.1, True), (1e4, False)])
def test_the_distillation_weight_holds_it_to_the_flow(
    weight: float, moved: bool, measured: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A critic for which more is better everywhere: all proposals but those bound to the flow's end at 1."""
    algorithm = make_algorithm(one_step={"distillation_weight": weight}, online={"learning_rate": 3e-3})
    algorithm.load_state_dict(imitated())
    monkeypatch.setattr(algorithm.critic_learner.critic, "forward", lambda _, chunk: chunk[..., 0, 0].unsqueeze(0))
    monkeypatch.setattr(algorithm, "update_critic", lambda batch: {})
    train(algorithm, "online", make_data(bandit_demonstrations()), 150)
    after, of_the_flow = proposals(algorithm).mean(), np.mean(MODES)
    assert measured(after) > 0.8 if moved else measured((after - of_the_flow).abs()) < 0.3


def test_from_own_episodes_it_learns_what_pays(measured: Any) -> None:
    """Own actions near 0.6 are paid best, 1 - 2 |a - 0.6|; others get 0.05, so that all are imitated and
    the critic alone tells which are better."""
    algorithm = make_algorithm(
        ema_rate=0.5,
        critic_learning_rate=5e-3,
        target_rate=0.1,
        one_step={"distillation_weight": 0.3},
        online={"learning_rate": 3e-3},
    )
    algorithm.load_state_dict(imitated())

    def reward(action: np.ndarray) -> np.ndarray:
        return np.maximum(0.05, 1 - 2 * np.abs(action - 0.6))

    data = make_data([make_episode([e.action[0, 0]], reward(e.action[0])) for e in bandit_demonstrations()])
    train(algorithm, "critic_warmup", data, 100)
    stage = stage_named(algorithm, "online")
    stage.begin()
    for _ in range(40):
        for action in algorithm.explore(torch.zeros(8, 1), torch.zeros(8)).chunk[:, 0, 0].tolist():
            data.online.add_episode(make_episode([action], [reward(np.array(action))]))
        for _ in range(5):
            stage.update(data, 0.0)
    after = reward(proposals(algorithm).numpy()).mean()
    assert measured(after) > 0.55  # from 0.4


# ---------------------------------------------------------------------------------------------- stages and the rest


def test_stages_of_no_length_are_left_out() -> None:
    assert [stage.name for stage in make_algorithm().schedule()] == STAGES
    assert [stage.name for stage in make_algorithm().schedule() if stage.acts] == ["online"]
    lengths = zip(STAGES, ("imitation", "warmup", "offline", "online"), ("updates",) * 3 + ("steps",), strict=True)
    for stage, part, key in lengths:
        left = [other.name for other in make_algorithm(**{part: {key: 0}}).schedule()]
        assert left == [other for other in STAGES if other != stage]


def test_candidates_are_chosen_among_online_alone() -> None:
    algorithm = make_algorithm(candidates=5)
    assert [stage.candidates for stage in algorithm.schedule()] == [1, 1, 1, 5]


def test_who_learns_in_which_stage() -> None:
    algorithm, data = make_algorithm(), make_data(bandit_demonstrations(), bandit_demonstrations()[:3])
    parts = {"actor": algorithm.actor, "policy": algorithm.policy, "critic": algorithm.critic_learner.critic}
    for name in STAGES:
        before = {part: weights(module) for part, module in parts.items()}
        train(algorithm, name, data, 2)
        learnt = {
            part for part, module in parts.items()
            if any(not torch.equal(now, before[part][key]) for key, now in module.state_dict().items())
        }  # fmt: skip
        expected = {"imitation": {"actor", "policy"}, "critic_warmup": {"critic"}}
        assert learnt == expected.get(name, {"actor", "policy", "critic"})
    assert algorithm.deployed.policy is algorithm.critic_learner.policy is algorithm.policy


def test_only_what_reward_comes_after_is_imitated(monkeypatch: pytest.MonkeyPatch) -> None:
    algorithm = make_algorithm()
    data = make_data(
        [make_episode([0.5], [1.0]), make_episode([-0.5], [0.0])],
        [make_episode([0.4], [1.0]), make_episode([-0.4], [0.0])],
    )
    chunks, loss = [], type(algorithm.actor).bc_loss

    def bc_loss(self: Any, observation: Tensor, chunk: Tensor) -> Tensor:
        chunks.append(chunk)
        return loss(self, observation, chunk)

    monkeypatch.setattr(type(algorithm.actor), "bc_loss", bc_loss)
    for name in STAGES:
        train(algorithm, name, data, 1)
    assert len(chunks) == 3 and all((chunk > 0).all() for chunk in chunks)


@pytest.mark.parametrize("name", STAGES)
def test_a_saved_state_goes_on_the_same(name: str) -> None:
    original, twin = (make_algorithm(candidates=3, target_candidates=2) for _ in range(2))
    episodes = [make_episode(np.linspace(-1, 1, 9), np.ones(9)) for _ in range(4)]
    train(original, "imitation", make_data(episodes[:2]), 3)
    train(original, name, make_data(episodes[:2], episodes[2:]), 3)
    assert_goes_on_the_same(original, twin, name, lambda: make_data(episodes[:2], episodes[2:]))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(one_step={"width": 0}), "width: expected an integer >= 1, got 0"),
        (dict(target_candidates=0), "target_candidates must be at least 1, got 0"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_algorithm(**settings)


def test_demonstrations_have_their_share() -> None:
    with pytest.raises(ValueError, match=r"offline_share must be in \(0, 1\], got 0"):
        FlowQLearningOnlineConfig(offline_share=0.0)
