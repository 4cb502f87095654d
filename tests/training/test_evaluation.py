"""Evaluation: exactly the seeds asked for, and the figures of them by hand."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

from softflow.policies import GuardedPolicy
from softflow.training.evaluation import HELD_OUT_SEEDS, evaluate, evaluate_guarded, guard_shares, summarize
from softflow.training.intervals import wilson_interval
from tests.policies.guards import calibrated
from tests.training.vectors import side_by_side


def still(observation: np.ndarray, arms: np.ndarray | None = None) -> np.ndarray:
    return np.zeros((len(observation), 3, 1), np.float32)


@pytest.mark.parametrize("environments", [1, 3, 10])
def test_one_episode_for_each_seed(counting: Any, environments: int) -> None:
    envs = [counting(lambda seed: 1 + seed % 5) for _ in range(environments)]
    result, episodes = evaluate(side_by_side(envs, 3), still, episodes=7, seed=20)
    assert sorted(seed for env in envs for seed in env.seeds) == list(range(20, 27))
    assert sorted(episode.observation[0, 0] for episode in episodes) == list(range(20, 27))
    # Lengths 1 2 3 4 5 1 2 with rewards 1 + 2 + ...: returns 1 3 6 10 15 1 3; even seeds succeed: 20, 22, 24, 26.
    assert result.episodes == 7
    assert result.success_rate == pytest.approx(4 / 7)
    assert result.success_ci95 == wilson_interval(4, 7)
    assert result.mean_return == pytest.approx(39 / 7)
    assert result.mean_length == pytest.approx(18 / 7)


def test_held_out_seeds_by_default(counting: Any) -> None:
    env = counting()
    evaluate(side_by_side([env], 3), still, episodes=2)
    assert env.seeds == [HELD_OUT_SEEDS, HELD_OUT_SEEDS + 1]


def test_a_failed_simulation_is_no_success_and_no_second_try(counting: Any) -> None:
    envs = [counting(fails_at={2: 1, 3: 4}) for _ in range(2)]
    with pytest.warns(UserWarning, match="given up"):
        result, episodes = evaluate(side_by_side(envs, 2), still, episodes=4, seed=0)
    assert sorted(envs[0].seeds + envs[1].seeds) == [0, 1, 2, 3]
    assert len(episodes) == 2
    assert (result.episodes, result.success_rate, result.mean_return, result.mean_length) == (4, 0.25, 15.0, 5.0)
    assert result.success_ci95 == wilson_interval(1, 4)


def test_what_the_environment_measured_is_averaged(counting: Any) -> None:
    class Measuring(counting):
        def step(self, action: np.ndarray) -> Any:
            *result, info = super().step(action)
            said = {"turns": 0.5 * self.steps, "dropped": self.seeds[-1] == 2, "name": "x", "stages": {"a": True}}
            return *result, {**info, **(said if self.seeds[-1] else {})}

    envs = [Measuring(lambda seed: 2 + seed) for _ in range(2)]
    result, episodes = evaluate(side_by_side(envs, 3), still, episodes=4, seed=0)
    # Lengths 2, 3, 4, 5; seed 0 measures nothing.
    assert [dict(episode.outcome) for episode in sorted(episodes, key=len)] == [
        {}, {"turns": 1.5, "dropped": 0.0}, {"turns": 2.0, "dropped": 1.0}, {"turns": 2.5, "dropped": 0.0}
    ]  # fmt: skip
    assert result.outcome == {"turns": pytest.approx(2.0), "dropped": pytest.approx(1 / 3)}


def test_all_simulations_failed(counting: Any) -> None:
    result = summarize([], failures=3)
    assert (result.episodes, result.success_rate, result.mean_return, result.mean_length) == (3, 0.0, 0.0, 0.0)


def test_as_json(counting: Any) -> None:
    result, _ = evaluate(side_by_side([counting()], 3), still, episodes=2)
    read = json.loads(json.dumps(result.as_dict()))
    assert list(read) == [
        "success_rate", "success_ci95", "mean_return", "mean_length", "episodes", "errors", "lost", "outcome", "guard"
    ]  # fmt: skip
    assert (read["success_rate"], read["success_ci95"]) == (0.5, list(wilson_interval(1, 2)))


@pytest.mark.parametrize("environments", [1, 3])
def test_behind_a_guard_shares_of_chunks_are_counted_and_seams_are_limited(counting: Any, environments: int) -> None:
    # Proposed at step t of an episode: 1 in the first chunk, -1 in all others; each has two steps, both executed.
    def choose(observation: torch.Tensor) -> torch.Tensor:
        return torch.where(observation[:, 1:, None] == 0, 1.0, -1.0).expand(-1, 2, 1)

    guard = calibrated(rate=0.5)
    guard.threshold.fill_(-3.0)  # of a standard normal: (1, 1) has -2.84; (0.5, 0) and (-0.5, -1) have more
    guard.distance_threshold.fill_(1e6)
    envs = [counting(lambda seed: 2 * (1 + seed)) for _ in range(environments)]
    policy = GuardedPolicy(choose, guard, n_action_steps=2, attempts=0)
    result, episodes = evaluate_guarded(side_by_side(envs, 2), policy, episodes=3, seed=0)
    actions = [episode.action[:, 0].tolist() for episode in sorted(episodes, key=len)]
    assert actions == [[1, 1], [1, 1, 0.5, 0], [1, 1, 0.5, 0, -0.5, -1]]
    limited = [guard_shares(episode)["limited"] for episode in sorted(episodes, key=len)]
    assert limited == pytest.approx([0, 1 / 2, 2 / 3])
    assert result.outcome == {}
    assert result.guard == pytest.approx(
        {"flagged": 0, "replaced": 0, "unlikely": 0, "limited": 7 / 18, "unfamiliar": 0}
    )
    guard.threshold.fill_(0.0)
    result, _ = evaluate_guarded(side_by_side(envs, 2), policy, episodes=3, seed=0)
    assert (result.guard["flagged"], result.guard["replaced"]) == (1, 0)
