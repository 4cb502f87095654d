"""Imitation and RL on takeovers: what is drawn how often, what a takeover costs, and the weights at the start."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from softflow.algos import TakeoverImitation, TakeoverImitationConfig, TakeoverRL, TakeoverRLConfig
from softflow.algos.softflow_settings import OnlineConfig
from softflow.algos.trial import TrialConfig
from softflow.data import Episode
from softflow.policies import FlowPolicy
from tests.algos.softflow_toys import (
    GAUSSIAN,
    assert_same,
    make_data,
    make_episode,
    train,
    weights,
)

SIZES: dict[str, Any] = dict(
    horizon=2, n_action_steps=1, batch_size=64, ema_rate=0.5, base="run", corrections=("file",), **GAUSSIAN
)
DATA = make_data([make_episode(np.linspace(-1, 1, 9), [0.0] * 8 + [1.0])])
"""Observations 0 ... 8, all worth imitating."""


def taken_over(first: int, success: bool = True) -> Episode:
    """Six steps; the policy acts in the first two. Observations count from `first`, and actions are `first` / 100."""
    human, action = np.arange(6) >= 2, np.full((6, 1), first / 100)
    reward = [0.0] * 5 + [float(success)]
    return Episode(first + np.arange(7)[:, None], action, reward, success, not success, success, human=human)


def make_base() -> FlowPolicy:
    torch.manual_seed(1)
    base = FlowPolicy(1, 1, 2, GAUSSIAN["flow"], GAUSSIAN["flow_options"], normalize_actions=True)
    base.normalizer.fit(torch.full((1,), 4.0), torch.full((1,), 8.0))
    base.flow.fit(torch.tensor([0.1]), torch.tensor([0.25]), torch.tensor([0.0]))
    return base


def imitation(**settings: Any) -> TakeoverImitation:
    algorithm = TakeoverImitation(TakeoverImitationConfig(**(SIZES | settings)), 1, 1)
    algorithm.load_base(make_base())
    algorithm.load_takeovers([taken_over(20), taken_over(40, success=False), taken_over(60)])
    return algorithm


def starts(algorithm: TakeoverImitation, monkeypatch: pytest.MonkeyPatch, updates: int = 40) -> list[int]:
    """The observations of the windows that are imitated."""
    seen = list[float]()

    def record(batch: Any, progress: float) -> dict[str, torch.Tensor]:
        seen.extend(batch.observation[:, 0].tolist())
        return {}

    monkeypatch.setattr(algorithm.policy_learner, "imitate", record)
    for _ in range(updates):
        algorithm.imitate(DATA, 0.0)
    return [int(value) for value in seen]


def test_hg_dagger_imitates_demonstrations_and_the_human_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    algorithm = imitation()
    assert set(starts(algorithm, monkeypatch)) == {*range(9), 22, 23, 24, 25, 62, 63, 64, 65}
    np.testing.assert_allclose(algorithm.shares([8, 9]), [8 / 17, 9 / 17])  # every chunk counts alike


def test_iwr_imitates_the_policy_as_well_and_the_human_in_half_of_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    algorithm = imitation(human_share=0.5, imitate_policy=True)
    drawn = starts(algorithm, monkeypatch)
    human = [start for start in drawn if start > 9 and start % 10 >= 2]
    assert set(drawn) - set(human) == {*range(9), 20, 60}
    assert 0.45 < len(human) / len(drawn) < 0.55
    np.testing.assert_allclose(algorithm.shares([8, 9, 2]), [0.5, 0.5 * 9 / 11, 0.5 * 2 / 11])


def test_imitation_goes_on_from_the_weights_of_the_base() -> None:
    algorithm = imitation()
    assert_same(weights(algorithm.deployed.policy), weights(make_base()))
    assert [(stage.name, stage.total, stage.acts) for stage in algorithm.schedule()] == [("imitation", 2_000, False)]
    observation, chunk = torch.tensor([[64.0]]), torch.full((1, 2, 1), 0.6)
    before = algorithm.deployed.policy.bc_loss(observation, chunk).item()
    train(algorithm, "imitation", DATA, 200)
    assert algorithm.deployed.policy.bc_loss(observation, chunk).item() < before - 0.5


@pytest.mark.parametrize("share", [0.0, 1.5])
def test_impossible_shares_are_refused(share: float) -> None:
    with pytest.raises(ValueError, match=r"human_share must be in \(0, 1\]"):
        imitation(human_share=share)


def test_takeovers_without_a_success_are_refused() -> None:
    with pytest.raises(ValueError, match="none of them ended in success"):
        imitation().load_takeovers([taken_over(20, success=False)])


# -------------------------------------------------------------------------------------------------------------- RL


def rl(**settings: Any) -> TakeoverRL:
    online, trials = OnlineConfig(steps=settings.pop("steps", 0)), TrialConfig(enabled=False)
    config = TakeoverRLConfig(**(SIZES | settings), critic_width=16, candidates=1, trials=trials, online=online)
    algorithm = TakeoverRL(config, 1, 1)
    algorithm.load_base(make_base())
    algorithm.fit_critics()
    algorithm.load_takeovers([taken_over(20), taken_over(40, success=False)])
    return algorithm


def test_the_critic_sees_all_and_a_takeover_costs() -> None:
    algorithm = rl(takeover_penalty=0.5)
    batches = [algorithm.sample(DATA, 1) for _ in range(40)]
    reward = {int(o): r for b in batches for o, r in zip(b.observation[:, 0], b.reward[:, 0].tolist(), strict=True)}
    assert reward == {
        **{step: float(step == 8) for step in range(9)},
        **{20 + step: {1: -0.5, 5: 1.0}.get(step, 0.0) for step in range(6)},
        **{40 + step: {1: -0.5}.get(step, 0.0) for step in range(6)},
    }


def test_only_demonstrations_and_solved_takeovers_are_imitated() -> None:
    algorithm = rl()
    drawn = {int(o) for _ in range(40) for o in algorithm.sample(DATA, 2, imitable=True).observation[:, 0]}
    assert drawn == {*range(9), 22, 23, 24, 25}


def test_it_never_acts_and_starts_from_the_base() -> None:
    algorithm = rl()
    assert [stage.name for stage in algorithm.schedule()] == ["critic_warmup", "offline"]
    assert_same(weights(algorithm.deployed.policy), weights(make_base()))
    with pytest.raises(ValueError, match=r"online\.steps must be 0, because takeovers are learnt from offline"):
        rl(steps=10)
    with pytest.raises(ValueError, match="takeover_penalty must be a finite number, at least 0"):
        rl(takeover_penalty=-1.0)


def test_what_is_punished_is_worth_less(measured: Any) -> None:
    """At the policy's last step before the takeover, which both have in common."""
    values = []
    for penalty in (0.0, 1.0):
        torch.manual_seed(0)
        algorithm = rl(takeover_penalty=penalty)
        train(algorithm, "critic_warmup", make_data([make_episode(np.linspace(-1, 1, 9), [0.0] * 8 + [1.0])]), 300)
        chunk = torch.full((1, 1, 1, 1), 0.2)
        values.append(algorithm.critic_learner.value(torch.tensor([[21.0]]), chunk).mean().item())
    assert measured(values[0] - values[1]) > 0.2
