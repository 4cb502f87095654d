"""Environments that misbehave: what stops the run says where, what goes on has dropped and counted the episode."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from softflow.data import Episode
from softflow.errors import UserError
from softflow.training import checked_environment
from softflow.training.evaluation import evaluate
from softflow.training.failures import ERRORS_IN_A_ROW, EnvironmentErrors, EnvironmentFailed
from softflow.training.rollout import Rollout
from softflow.training.vector import vectorize


def still(observation: np.ndarray, arms: np.ndarray | None = None) -> np.ndarray:
    return np.zeros((len(observation), 3, 1), np.float32)


def raised() -> Any:
    raise ZeroDivisionError("a bug")


WRONG: dict[str, tuple[Callable[[], Any], str]] = {
    "raises": (raised, r"ZeroDivisionError: a bug \(test_failures.py:\d+, in raised\)"),
    "nan": (lambda: (np.array([0, np.nan], np.float32), 0.0), r"observation\[1\] is nan, not a finite float32"),
    "too large": (lambda: (np.array([1e39, 0]), 0.0), r"observation\[0\] is 1e\+39, not a finite float32"),
    "shape": (lambda: (np.zeros(3), 0.0), r"observation is float64 of shape \(3,\), its space has shape \(2,\)"),
    "kind": (lambda: ("ab", 0.0), "observation is <U2"),
    "reward nan": (lambda: (np.zeros(2), np.nan), "the reward is nan"),
    "reward inf": (lambda: (np.zeros(2), -np.inf), "the reward is -inf"),
    "rewards": (lambda: (np.zeros(2), [1.0, 2.0]), r"the reward is float64 of shape \(2,\), not one number"),
}
"""What comes of a step, and what is said of it."""


def misbehaving(counting: Any, wrong: Callable[[], Any], step: int, seeds: Callable[[int], bool]) -> Any:
    """A toy that does something wrong in this step of the episodes of these seeds, in its reset if that is 0, and is of
    no use from then on."""

    class Misbehaving(counting):
        made = 0

        def __init__(self) -> None:
            super().__init__()
            Misbehaving.made += 1
            self.broken = False

        def _observation(self) -> np.ndarray:
            self.broken |= self.steps == step and seeds(self.seeds[-1])
            return wrong()[0] if self.broken else super()._observation()

        def step(self, action: np.ndarray) -> Any:
            observation, reward, *rest = super().step(action)
            return observation, wrong()[1] if self.broken else reward, *rest

    return Misbehaving


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_wrong_in_a_step_is_named(kind: str, counting: Any) -> None:
    wrong, message = WRONG[kind]
    make = misbehaving(counting, wrong, 4, lambda seed: seed == 1)
    rollout = Rollout(vectorize([make] * 2, 3), count())
    where = "environment 1, step 4 of the episode with seed 1"
    with pytest.raises(EnvironmentFailed, match=f"^{where}: {message}.*--on-env-error restart"):
        rollout.collect(still, 20)


@pytest.mark.parametrize("kind", ["raises", "nan", "shape"])
def test_what_is_wrong_in_a_reset_is_named(kind: str, counting: Any) -> None:
    wrong, message = WRONG[kind]
    rollout = Rollout(vectorize([misbehaving(counting, wrong, 0, lambda seed: seed == 0)], 3), count())
    with pytest.raises(EnvironmentFailed, match=f"^environment 0, the reset of the episode with seed 0: {message}"):
        rollout.collect(still, 20)


@pytest.mark.filterwarnings("ignore:an episode was dropped")
@pytest.mark.parametrize("kind", WRONG)
@pytest.mark.parametrize("step", [0, 1, 4])
def test_or_the_episode_is_dropped_and_its_environment_made_anew(kind: str, step: int, counting: Any) -> None:
    if step == 0 and kind.startswith("reward"):
        pytest.skip("a reset has none")
    make = misbehaving(counting, WRONG[kind][0], step, lambda seed: seed % 4 == 1)
    errors = EnvironmentErrors("restart")
    result, episodes = evaluate(vectorize([make] * 3, 3), still, 12, seed=0, errors=errors)
    assert sorted(int(episode.observation[0, 0]) for episode in episodes) == [0, 2, 3, 4, 6, 7, 8, 10, 11]
    for episode in episodes:
        np.testing.assert_array_equal(episode.observation[:, 1], np.arange(6))
    assert (result.episodes, result.errors, errors.count) == (12, 3, 3)
    assert make.made == 3 + (3 if step == 0 else 2)  # for the last in error no seed was left
    assert result.success_rate == pytest.approx(6 / 12)  # even seeds succeed; what was dropped counts as no success


def test_many_errors_without_a_good_episode_stop_all_the_same(counting: Any, tmp_path: Path) -> None:
    log = tmp_path / "errors.txt"
    errors = EnvironmentErrors("restart", log)
    rollout = Rollout(vectorize([misbehaving(counting, raised, 3, lambda seed: seed >= 4)] * 2, 3), count(), errors)
    message = f"{ERRORS_IN_A_ROW} errors without one good episode, the last in environment"
    with pytest.warns(UserWarning, match="was dropped"), pytest.raises(EnvironmentFailed, match=message):
        rollout.collect(still, 1000)
    assert errors.count == rollout.failures == ERRORS_IN_A_ROW
    assert log.read_text().count("ZeroDivisionError: a bug") == ERRORS_IN_A_ROW


def test_an_episode_that_never_ends_is_an_error_without_a_time_limit(
    counting: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gymnasium.wrappers import TimeLimit

    monkeypatch.setattr(checked_environment, "LONGEST_EPISODE", 20)
    rollout = Rollout(vectorize([lambda: counting(lambda seed: 10**9)], 3), count())
    with pytest.raises(
        EnvironmentFailed, match=r"step 20 .* has not ended after 20 steps: .*--env-options.max-episode"
    ):
        rollout.collect(still, 100)
    limited = Rollout(vectorize([lambda: TimeLimit(counting(lambda seed: 10**9), 30)], 3), count())
    [episode], _ = limited.collect(still, 30)
    assert len(episode) == 30 and episode.truncated


def test_episodes_of_one_step_are_in_order(counting: Any) -> None:
    episodes, steps = Rollout(vectorize([lambda: counting(lambda seed: 1)] * 2, 3), count()).collect(still, 6)
    assert steps == len(episodes) == 6 and all(len(episode) == 1 for episode in episodes)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_action_that_is_not_finite_is_the_policys(value: float, counting: Any) -> None:
    def act(observation: np.ndarray, arms: np.ndarray) -> np.ndarray:
        chunks = still(observation)
        chunks[(observation[:, 0] == 1) & (observation[:, 1] == 3), 1] = value
        return chunks

    rollout = Rollout(vectorize([counting] * 2, 3), count(), EnvironmentErrors("restart"))
    where = "environment 1, step 5 of the episode with seed 1"
    with pytest.raises(FloatingPointError, match=rf"action\[0\] of the policy is {value} in {where}"):
        rollout.collect(act, 20)


def test_input_that_is_refused_in_a_step_is_not_the_environments_error(counting: Any) -> None:
    def refuse() -> Any:
        raise UserError("leave the option out")

    make = misbehaving(counting, refuse, 2, lambda seed: True)
    rollout = Rollout(vectorize([make], 3), count(), EnvironmentErrors("restart"))
    with pytest.raises(UserError, match=r"^leave the option out$"):
        rollout.collect(still, 20)


@pytest.mark.filterwarnings("ignore:an episode was")
def test_processes_that_die_or_hang_cost_what_was_in_them(counting: Any) -> None:
    import os
    import time

    class Deadly(counting):
        def step(self, action: np.ndarray) -> Any:
            seed, step = self.seeds[-1], self.steps + 1
            if (seed, step) == (2, 4):
                os._exit(7)
            if (seed, step) == (5, 2):
                time.sleep(60)
            return super().step(action)

    errors = EnvironmentErrors("restart")
    environments = vectorize([Deadly] * 3, 3, "async", 2, time_limit=0.5)
    result, episodes = evaluate(environments, still, 9, seed=0, errors=errors)
    environments.close()
    done = {int(episode.observation[0, 0]) for episode in episodes}
    assert errors.count == result.errors == 2 and result.episodes == 9
    assert result.lost == 9 - len(episodes)
    assert not done & {2, 5} and len(done) >= 5  # of the others, two may have shared the processes
    for episode in episodes:
        assert isinstance(episode, Episode) and len(episode) == 5


@pytest.mark.parametrize(
    ("seconds", "mode", "message"), [(1.0, "sync", "needs vectorization_mode async"), (0.0, "async", "above 0, got 0")]
)
def test_a_time_limit_that_cannot_be_kept_is_refused(seconds: float, mode: Any, message: str, counting: Any) -> None:
    with pytest.raises(UserError, match=message):
        vectorize([counting], 3, mode, time_limit=seconds)
