"""Trials within SOFT-FLOW: what deploys and is saved, and where the learner goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from softflow.algos import SoftFlow
from softflow.algos.trial import Arm, Trial, TrialConfig
from softflow.data import Episode
from softflow.errors import UserError
from softflow.training.checkpoint import load_policy
from softflow.training.config import RunConfig
from softflow.training.loop import Trainer
from softflow.training.run_folder import RunFolder
from softflow.training.vector import vectorize
from tests.algos.softflow_toys import (
    assert_same,
    enter,
    make_algorithm,
    make_data,
    make_episode,
    set_gaussian,
    stage_named,
    train,
    weights,
)

BAD, GOOD = -0.5, 0.5
"""Mean actions of policies in `Sign`."""


class Sign(gymnasium.Env[np.ndarray, np.ndarray]):
    """One step; a success if its action is positive."""

    observation_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        success = bool(action[0] > 0)
        return np.zeros(1, np.float32), float(success), True, False, {"is_success": success}


def make_trials(champion: float, learner: float, std: float = 0.05, **settings: Any) -> SoftFlow:
    """A SOFT-FLOW before its online stage, which learns nothing: what imitation has left, and what came of it since."""
    trials = dict(trials=TrialConfig(fewest=5, most=10, window=60), candidates=8, temperature=1.0)
    stages = dict(imitation={"updates": 0}, warmup={"updates": 0}, offline={"updates": 0})
    online = {"steps": 150} | settings.pop("online", {})
    algorithm = make_algorithm(**stages, online=online, **(trials | settings))
    set_gaussian(algorithm.policy, champion, std)
    algorithm.freeze_imitation()
    set_gaussian(algorithm.policy, learner, std)
    return algorithm


def receive(algorithm: SoftFlow, challenger: bool, successes: int, failures: int, choice: int = 0) -> None:
    arm = Arm(trial_of(algorithm).version, challenger, choice).encode()
    outcomes = [True] * successes + [False] * failures
    algorithm.receive(
        [Episode(np.zeros((2, 1)), np.zeros((1, 1)), np.zeros(1), True, False, one, arm=arm) for one in outcomes]
    )


def trial_of(algorithm: SoftFlow) -> Trial[Any]:
    assert algorithm.trial is not None
    return algorithm.trial


def run_online(algorithm: SoftFlow, path: Path) -> Path:
    """Train in `Sign`; the last checkpoint."""
    folder = RunFolder.create(path, "sign", "softflow", seed=0)
    config = RunConfig(eval_episodes=1, collect_steps=10, eval_every=1_000)
    vectors = [vectorize([Sign] * 2, 1) for _ in range(2)]
    Trainer(algorithm, [make_episode([0.5], [1.0])], *vectors, folder, config).run()
    return folder.last_checkpoint()


# ------------------------------------------------------------------------------------------- what deploys and is saved


@pytest.mark.parametrize(("champion", "learner"), [(GOOD, BAD), (BAD, GOOD)])
def test_a_checkpoint_has_the_policy_that_own_episodes_preferred(
    champion: float, learner: float, tmp_path: Path
) -> None:
    """The imitation policy if the learner is worse, and the learner if it is better."""
    algorithm = make_trials(champion, learner)
    policy = load_policy(run_online(algorithm, tmp_path))
    assert policy.act(torch.zeros(100, 1)).min() > 0
    assert_same(weights(policy.policy), weights(trial_of(algorithm).champion))


@pytest.mark.parametrize(("sign", "candidates"), [(1, [3, 8]), (-1, [1])])
def test_a_checkpoint_has_the_choice_that_own_episodes_preferred(
    sign: int, candidates: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of the single chunks succeed. The critic chooses the largest of three or eight actions, or the smallest."""
    algorithm = make_trials(0.0, 0.0, std=0.5)
    monkeypatch.setattr(algorithm.critic, "forward", lambda _, chunk: sign * chunk[None, ..., 0, 0])
    monkeypatch.setattr(algorithm, "update_critic", lambda batch: {})
    last = run_online(algorithm, tmp_path)
    deployed = json.loads((last / "policy.json").read_text())["candidates"]
    assert deployed in candidates
    assert load_policy(last).candidates == algorithm.deployed.candidates == deployed


def test_without_trials_the_newest_policy_deploys_with_all_candidates(tmp_path: Path) -> None:
    algorithm = make_trials(GOOD, BAD, trials=TrialConfig(enabled=False))
    policy = load_policy(run_online(algorithm, tmp_path))
    assert policy.candidates == 8 and policy.act(torch.zeros(100, 1)).max() < 0


def test_the_imitation_policy_deploys_until_own_episodes_say_otherwise() -> None:
    algorithm = make_trials(BAD, GOOD)
    enter(algorithm, "online")
    assert algorithm.deployed.policy is trial_of(algorithm).champion and algorithm.deployed.candidates == 1
    assert algorithm.deployed.act(torch.zeros(100, 1)).max() < 0
    receive(algorithm, challenger=True, successes=5, failures=0)
    assert algorithm.deployed.policy is trial_of(algorithm).champion and algorithm.deployed.candidates == 1
    assert algorithm.deployed.act(torch.zeros(100, 1)).min() > 0


# ------------------------------------------------------------------------------------------ where the learner goes on


def test_after_a_worse_challenger_the_learner_returns_to_the_champion() -> None:
    algorithm = make_trials(GOOD, BAD, online={"nll_weight": 1.0, "learning_rate": 1e-3})
    data = make_data([make_episode([-0.5] * 9, np.ones(9))])
    train(algorithm, "online", data, 3)
    learner, rate = algorithm.policy_learner, algorithm.policy_learner.optimizer.param_groups[0]["lr"]
    assert learner.optimizer.state
    receive(algorithm, challenger=False, successes=8, failures=0)
    receive(algorithm, challenger=True, successes=0, failures=8)
    trial = trial_of(algorithm)
    for policy in (learner.actor, learner.policy, trial.challenger):
        assert_same(weights(policy), weights(trial.champion))
        assert policy.greedy(torch.zeros(1, 1)).item() == pytest.approx(GOOD)
    assert not learner.optimizer.state and learner.optimizer.param_groups[0]["lr"] == rate > 0
    assert trial.version == 2


def test_after_any_other_verdict_the_learner_goes_on_as_it_was() -> None:
    """A challenger that could not show that it is as good, and one that replaces the champion."""
    algorithm = make_trials(GOOD, BAD)
    enter(algorithm, "online")
    trial, learnt = trial_of(algorithm), weights(algorithm.policy)
    for successes, mean in ((4, GOOD), (10, BAD)):
        version = trial.version
        receive(algorithm, challenger=False, successes=6, failures=4)
        receive(algorithm, challenger=True, successes=successes, failures=10 - successes)
        assert trial.version == version + 1
        for policy in (algorithm.actor, algorithm.policy, trial.challenger):
            assert_same(weights(policy), learnt)
        assert trial.champion.greedy(torch.zeros(1, 1)).item() == pytest.approx(mean)


def test_the_kl_is_measured_from_the_champion_with_its_caution() -> None:
    algorithm = make_trials(GOOD, BAD, online={"kl_weight": 2.0})
    data = make_data([make_episode([0.0] * 9, np.ones(9))])
    scalars = train(algorithm, "online", data, 1)
    assert scalars["flow/kl_to_anchor"] == pytest.approx((GOOD - BAD) ** 2 / (2 * 0.05**2), rel=0.05)
    torch.testing.assert_close(scalars["train/actor_loss"], 2 * scalars["flow/kl_to_anchor"])
    receive(algorithm, challenger=True, successes=5, failures=0)  # the champion is where the learner was
    scalars = stage_named(algorithm, "online").update(data, 0.0)
    assert abs(scalars["flow/kl_to_anchor"]) < 1
    torch.testing.assert_close(scalars["train/actor_loss"], 2 / 1.5 * scalars["flow/kl_to_anchor"])


def test_arms_of_a_run_with_more_choices_are_refused() -> None:
    few, none = make_trials(BAD, GOOD), make_trials(BAD, GOOD, trials=TrialConfig(enabled=False))
    assert few.trial is not None
    for choice in range(3):
        few.require_arm(Arm(9, True, choice).encode(), "episode")  # of any version
    for algorithm, choice in ((few, 3), (none, 1)):
        with pytest.raises(UserError, match="episode is of another run: no episode has arm"):
            algorithm.require_arm(Arm(9, True, choice).encode(), "episode is of another run")
    none.require_arm(none.assign(), "episode")
