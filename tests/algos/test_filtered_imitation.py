"""Filtered imitation: its stages, what it imitates, what it forgets, and what it leaves to be deployed."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from softflow.algos import Data, FilteredImitation, FilteredImitationConfig
from softflow.algos.filtered_imitation import CollectionConfig
from softflow.algos.settings import ImitationConfig
from softflow.data import Episode, Proposals, Replay, Windows
from softflow.policies import BestOfN
from softflow.training.checkpoint import load_policy, save_policy
from softflow.training.config import RunConfig
from softflow.training.loop import Trainer
from softflow.training.run_folder import RunFolder
from softflow.training.vector import vectorize

OBSERVATION_DIM, ACTION_DIM, HORIZON, EXECUTE = 3, 2, 4, 2


def make_algorithm(updates: int = 10, ema_rate: float = 0.5, **collection: object) -> FilteredImitation:
    torch.manual_seed(0)
    config = FilteredImitationConfig(
        normalize_actions=False,
        flow="gaussian",
        flow_options={"width": 32},
        horizon=HORIZON,
        n_action_steps=EXECUTE,
        temperature=0.0,
        batch_size=20,
        ema_rate=ema_rate,
        imitation=ImitationConfig(updates, learning_rate=1e-2),
        collection=CollectionConfig(**collection),  # type: ignore[arg-type]
    )
    algorithm = FilteredImitation(config, OBSERVATION_DIM, ACTION_DIM)
    algorithm.fit_normalizer(torch.zeros(OBSERVATION_DIM), torch.ones(OBSERVATION_DIM))
    return algorithm


@pytest.mark.parametrize(
    ("imitation", "collection", "expected"),
    [
        (None, {"offline_share": 0.4}, (1_000, 2_500)),  # 640 steps, 400 times, in batches of 256
        (None, {"offline_share": 0.1}, (1_000, 8_000)),
        (None, {"offline_share": 0}, (1_000, 8_000)),
        (None, {"updates": 30}, (1_000, 30)),
        (70, {}, (70, 70)),
        (70, {"updates": 30}, (70, 30)),
    ],
)
def test_retraining_draws_each_demonstrated_step_as_often_as_imitation(
    imitation: int | None, collection: dict[str, Any], expected: tuple[int, int]
) -> None:
    config = FilteredImitationConfig(
        imitation=ImitationConfig(imitation), collection=CollectionConfig(**collection)
    ).for_demonstrations(640, 50.0)
    assert (config.full_imitation_updates, config.retraining_updates) == expected


def make_episode(action: float, is_success: bool, steps: int = 12) -> Episode:
    observation = np.random.default_rng(0).normal(size=(steps + 1, OBSERVATION_DIM))
    reward = np.zeros(steps)
    reward[-1] = is_success
    actions = np.full((steps, ACTION_DIM), action)
    return Episode(observation, actions, reward, is_success, not is_success, is_success)


def make_data() -> Data:
    data = Data(*(Replay(1_000, OBSERVATION_DIM, ACTION_DIM) for _ in range(2)), np.random.default_rng(0))
    data.offline.add_episode(make_episode(0.6, is_success=True))
    data.offline.add_episode(make_episode(0.9, is_success=False))
    return data


def weights(algorithm: FilteredImitation) -> torch.Tensor:
    return torch.cat([p.flatten() for p in algorithm.policy_learner.policy.parameters()]).clone()


def test_stages_alternate_and_a_stage_without_length_is_left_out() -> None:
    stages = make_algorithm(updates=7, rounds=2, steps=50).schedule()
    assert [(s.name, s.updates, s.environment_steps, s.updates_per_step) for s in stages] == [
        ("imitation", 7, 0, 0.0),
        ("collect_1", 0, 50, 0.0),
        ("retrain_1", 7, 0, 0.0),
        ("collect_2", 0, 50, 0.0),
        ("retrain_2", 7, 0, 0.0),
    ]
    assert [s.name for s in make_algorithm(rounds=0).schedule()] == ["imitation"]
    assert [s.name for s in make_algorithm(updates=0, rounds=1).schedule()] == ["collect_1"]


def imitated(data: Data) -> Windows[torch.Tensor]:
    """What a retraining learns from when 0.4 of it are demonstrations."""
    algorithm, batches = make_algorithm(offline_share=0.4), []
    algorithm.policy_learner.imitate = lambda batch, progress: batches.append(batch)  # type: ignore[method-assign]
    algorithm.schedule()[-1].update(data, 0.0)
    return batches[0]


def test_only_successes_are_imitated_in_the_given_share() -> None:
    data = make_data()
    data.online.add_episode(make_episode(-0.2, is_success=True))
    data.online.add_episode(make_episode(-0.9, is_success=False))
    batch = imitated(data)
    actions = batch.chunk[:, 0, 0]
    assert (actions == np.float32(0.6)).sum() == 8 and (actions == np.float32(-0.2)).sum() == 12
    assert (batch.return_to_go > 0).all()


def test_own_episodes_are_imitated_as_they_were_proposed() -> None:
    """At their decisions alone, whole and unclipped; the second decision was not executed as proposed."""
    data = make_data()
    data = replace(data, online=Replay(1_000, OBSERVATION_DIM, ACTION_DIM, horizon=HORIZON, n_action_steps=EXECUTE))
    proposals = Proposals(np.array([0, 2, 4]), np.full((3, HORIZON, ACTION_DIM), 1.2), np.array([True, False, True]))
    data.online.add_episode(replace(make_episode(-0.2, is_success=True), proposals=proposals))
    batch = imitated(data)
    assert (batch.chunk == np.float32(0.6)).flatten(1).all(1).sum() == 8
    assert (batch.chunk == np.float32(1.2)).flatten(1).all(1).sum() == 12
    assert set(batch.row[8:].tolist()) == {0, 4}


def test_without_own_successes_all_comes_from_the_demonstrations() -> None:
    data = make_data()
    data.online.add_episode(make_episode(-0.9, is_success=False))
    assert (imitated(data).chunk == np.float32(0.6)).all()


def test_retraining_forgets_the_weights_and_the_optimizer_but_not_the_statistics() -> None:
    algorithm, data = make_algorithm(), make_data()
    imitation, collect, retrain, *_ = algorithm.schedule()
    policy = algorithm.deployed.policy
    before = weights(algorithm)
    imitation.begin()
    assert torch.equal(weights(algorithm), before)
    imitation.update(data, 0.0)
    learnt = weights(algorithm)
    assert not torch.equal(learnt, before)
    collect.begin()
    assert torch.equal(weights(algorithm), learnt)
    retrain.begin()
    fresh = weights(algorithm)
    assert not torch.isclose(fresh, learnt).any() and not torch.isclose(fresh, before).any()
    assert not algorithm.policy_learner.optimizer.state
    assert torch.equal(policy.normalizer.mean, torch.zeros(OBSERVATION_DIM))
    assert algorithm.deployed.policy is policy is algorithm.policy_learner.policy


def test_the_policy_is_fitted_to_demonstrations_then_to_the_mixture(measured: Any) -> None:
    algorithm, data = make_algorithm(updates=150, offline_share=0.5), make_data()
    data.online.add_episode(make_episode(-0.2, is_success=True))
    data.online.add_episode(make_episode(-0.9, is_success=False))
    imitation, _, retrain, *_ = algorithm.schedule()
    observation = torch.tensor(make_episode(0.0, True).observation[:-HORIZON])
    for stage, mean in ((imitation, 0.6), (retrain, 0.5 * 0.6 + 0.5 * -0.2)):  # a Gaussian's likeliest mean
        stage.begin()
        for update in range(stage.updates):
            stage.update(data, update / stage.updates)
        assert measured((algorithm.deployed.act(observation).mean() - mean).abs()) < 0.08


def test_the_learning_rate_falls_along_a_cosine() -> None:
    algorithm, data = make_algorithm(), make_data()
    for progress, rate in ((0.0, 1e-2), (0.5, 0.5e-2), (2 / 3, 0.25e-2)):
        algorithm.schedule()[0].update(data, progress)
        assert algorithm.policy_learner.optimizer.param_groups[0]["lr"] == pytest.approx(rate)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_action_steps": 9}, "n_action_steps must be in 1 ... horizon = 8, got 9"),
        ({"collection": CollectionConfig(offline_share=1.5)}, r"offline_share must be in \[0, 1\], got 1.5"),
    ],
)
def test_impossible_settings_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FilteredImitationConfig(**settings)


def test_a_loaded_state_goes_on_the_same() -> None:
    def go_on(algorithm: FilteredImitation) -> torch.Tensor:
        algorithm.schedule()[0].update(make_data(), 0.5)
        return weights(algorithm)

    algorithm, other = make_algorithm(), make_algorithm()
    algorithm.schedule()[0].update(make_data(), 0.0)
    other.load_state_dict(copy.deepcopy(algorithm.state_dict()))  # as through a file
    assert torch.equal(go_on(algorithm), go_on(other))


def test_what_is_deployed_is_saved_and_loaded_without_a_critic(tmp_path: Path) -> None:
    deployed = make_algorithm().deployed
    save_policy(tmp_path, deployed)
    loaded = load_policy(tmp_path)
    observation = torch.randn(5, OBSERVATION_DIM)
    assert loaded.critic is None
    assert torch.equal(loaded.act(observation), deployed.act(observation))


def test_candidates_without_a_critic_are_refused() -> None:
    with pytest.raises(ValueError, match="candidates must be 1"):
        BestOfN(make_algorithm().policy_learner.policy, None, EXECUTE, candidates=4, temperature=0.0)


class Straight(gymnasium.Env[np.ndarray, np.ndarray]):
    """Ten steps; a success if the first action was positive."""

    observation_space = spaces.Box(-1.0, 1.0, (OBSERVATION_DIM,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (ACTION_DIM,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.steps, self.good = 0, True
        return np.zeros(OBSERVATION_DIM, np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.good &= bool(self.steps or action[0] > 0)
        self.steps += 1
        success = self.good and self.steps == 10
        observation = np.full(OBSERVATION_DIM, self.steps / 10, np.float32)
        return observation, float(success), success, self.steps == 10, {"is_success": success}


def test_the_loop_runs_every_stage(tmp_path: Path) -> None:
    algorithm = make_algorithm(rounds=2, steps=60)
    config = RunConfig(eval_episodes=2, collect_steps=20)
    folder = RunFolder.create(tmp_path, "straight", "filtered_imitation", seed=0)
    vectors = (vectorize([Straight] * 2, algorithm.n_action_steps) for _ in range(2))
    trainer = Trainer(algorithm, [make_episode(0.5, True)], *vectors, folder, config)
    evaluations = trainer.run()
    assert [one.stage for one in evaluations] == ["imitation", "collect_1", "retrain_1", "collect_2", "retrain_2"]
    assert trainer.progress.updates == 30 and trainer.progress.steps >= 120
    assert trainer.progress.episodes >= 10 and trainer.data.online.steps == 10 * trainer.progress.episodes
    assert load_policy(folder.last_checkpoint()).critic is None
    assert trainer.data.online.imitable_steps == trainer.data.online.proposals  # nothing but what was proposed
