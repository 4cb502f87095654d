"""What is stored is what happened, however an environment treats its arrays: in every way that episodes are made."""

from __future__ import annotations

import warnings
from itertools import count
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box

from softflow.training.checked_environment import CheckedEnvironment
from softflow.training.failures import EnvironmentFailed
from softflow.training.rollout import Rollout
from softflow.training.success import SuccessRule
from softflow.training.vector import ChunkExecution, VectorizationMode, closing, vectorize


class Halving(gymnasium.Env[np.ndarray, np.ndarray]):
    """Observation (1,): the number of the step. Six steps; halves the array of the action that it is given, and
    returns its rewards and observations in the same arrays at every step."""

    observation_space = Box(-np.inf, np.inf, (1,), np.float32)
    action_space = Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.seen, self.reward, self.info = np.zeros(1, np.float32), np.zeros(1), {"is_success": False}
        return self.seen, self.info

    def step(self, action: np.ndarray) -> Any:
        self.seen += 1
        self.reward[:] = action
        action *= 0.5
        self.info["is_success"] = bool(self.seen[0] == 3)
        return self.seen, self.reward, False, bool(self.seen[0] == 6), self.info


def quarters(observation: np.ndarray, arms: np.ndarray) -> np.ndarray:
    """Chunks of three actions (B, 3, 1) that tell the step that they are for."""
    return (observation[:, None] + np.arange(3, dtype=np.float32)[:, None] + 1) / 8


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_actions_and_observations_are_those_that_were_given(mode: VectorizationMode) -> None:
    with closing(vectorize([Halving] * 2, 3, mode, processes=2)) as environments:
        rollout = Rollout(environments, count())
        rollout.execute_chunks(quarters)
        assert [float(action[0]) for action in rollout.last_actions if action is not None] == [3 / 8, 3 / 8]
        episodes, _ = rollout.execute_chunks(quarters)
    assert len(episodes) == 2
    for episode in episodes:
        np.testing.assert_array_equal(episode.observation[:, 0], np.arange(7))
        np.testing.assert_array_equal(episode.action[:, 0], np.arange(1, 7) / 8)
        np.testing.assert_array_equal(episode.reward, np.arange(1, 7) / 8)


def test_what_one_records_by_hand_is_a_copy() -> None:
    environment = CheckedEnvironment(Halving())
    seen, _ = environment.reset()
    action = np.array([0.5], np.float32)
    following, reward, *_ = environment.step(action)
    environment.step(action)
    assert (seen[0], following[0], action[0], reward) == (0, 1, 0.5, 0.5)


def test_an_action_is_executed_as_it_is_stored(counting: Any) -> None:
    """A float64 is rounded to the dtype of the space before the environment sees it."""
    given = list[np.ndarray]()

    class Noting(counting):
        def step(self, action: np.ndarray) -> Any:
            given.append(action)
            return super().step(action)

    environment = CheckedEnvironment(Noting())
    environment.reset(seed=0)
    environment.step(np.array([1 / 3]))
    assert given[0].dtype == np.float32 and given[0][0] == np.float32(1 / 3)


def collect(make: Any) -> None:
    Rollout(vectorize([make], 3), count()).collect(lambda seen, arms: np.zeros((len(seen), 3, 1), np.float32), 20)


def changed_space(counting: Any) -> Any:
    class Changing(counting):
        """From its second episode on, the observation has one number, and so has the space."""

        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            if self.seeds:
                self.observation_space = Box(-np.inf, np.inf, (1,), np.float32)
            return super().reset(seed=seed, options=options)

        def _observation(self) -> np.ndarray:
            return super()._observation()[: self.observation_space.shape[0]]

    return Changing


def halves_of_an_integer_space(counting: Any) -> Any:
    class Halves(counting):
        observation_space = Box(0, 255, (2,), np.int64)

        def _observation(self) -> np.ndarray:
            return super()._observation() / 2

    return Halves


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (changed_space, r"observation is float32 of shape \(1,\), its space has shape \(2,\)"),
        (halves_of_an_integer_space, r"observation\[1\] is 0.5, not a number of its space, int64"),
    ],
)
def test_the_space_at_the_start_counts(kind: Any, message: str, counting: Any) -> None:
    with pytest.raises(EnvironmentFailed, match=message):
        collect(kind(counting))


def test_one_made_anew_must_have_the_same_spaces(counting: Any) -> None:
    class Failing(counting):
        def step(self, action: np.ndarray) -> Any:
            raise ZeroDivisionError("a bug")

    class Narrow(counting):
        observation_space = Box(-np.inf, np.inf, (1,), np.float32)

    kinds = iter([Failing, Narrow])
    environment = ChunkExecution(lambda: next(kinds)(), 3)
    environment.reset(seed=0)
    assert "a bug" in environment.step(np.zeros((3, 1)))[-1]["failure"].message
    failure = environment.reset(seed=1)[1]["failure"]
    assert "made anew, the environment has another observation space" in failure.message


@pytest.mark.parametrize("name", ["terminated", "truncated", "is_success"])
def test_flags_are_true_or_false(name: str, counting: Any) -> None:
    class Odd(counting):
        def step(self, action: np.ndarray) -> Any:
            observation, reward, terminated, truncated, _ = super().step(action)
            flags = {"terminated": terminated, "truncated": truncated, "is_success": False, name: "False"}
            return observation, reward, flags["terminated"], flags["truncated"], {"is_success": flags["is_success"]}

    with pytest.raises(EnvironmentFailed, match=f"{name} is 'False', expected true or false") as caught:
        collect(Odd)
    assert "--on-env-error" not in str(caught.value)  # which would not help


@pytest.mark.parametrize(("rule", "successes"), [("last", 0), ("any", 1), ("return>=2.625", 1), ("return>=2.7", 0)])
@pytest.mark.parametrize("mode", ["sync", "async"])
def test_success_by_each_rule(rule: str, successes: int, mode: VectorizationMode) -> None:
    """Success is said in the third step of six alone; the return is 21 / 8."""
    with closing(vectorize([Halving] * 2, 3, mode, 2, success=SuccessRule(rule))) as environments:
        episodes, _ = Rollout(environments, count()).collect(quarters, 12)
    assert [episode.is_success for episode in episodes] == [bool(successes)] * 2


def test_a_success_that_the_rule_overlooks_is_pointed_out() -> None:
    def run(rule: str) -> None:
        environment = CheckedEnvironment(Halving(), SuccessRule(rule))
        environment.reset()
        while not environment.step(np.ones(1, np.float32))[3]:
            pass

    with pytest.warns(UserWarning, match="said success, but not at its last step: --success any"):
        run("last")
    with warnings.catch_warnings(action="error"):
        run("any")
        run("return>=9")


def test_twelve_thousand_steps_are_an_episode(counting: Any) -> None:
    environment = CheckedEnvironment(counting(lambda seed: 12_000))
    environment.reset(seed=0)
    with warnings.catch_warnings(action="error"):
        ends = [any(environment.step(np.zeros(1, np.float32))[2:4]) for _ in range(12_000)]
    assert ends.index(True) == 11_999


def test_exit_is_an_error_of_the_environment(counting: Any) -> None:
    class Leaving(counting):
        def step(self, action: np.ndarray) -> Any:
            raise SystemExit(0)

    with pytest.raises(EnvironmentFailed, match=r"SystemExit: 0 \(test_checked_environment.py:\d+, in step\)"):
        collect(Leaving)


@pytest.mark.parametrize("error", [ZeroDivisionError("a bug"), SystemExit(0)])
@pytest.mark.parametrize("mode", ["sync", "async"])
def test_close_that_fails_is_a_warning(error: BaseException, mode: VectorizationMode, counting: Any) -> None:
    closed = list[Any]()

    class Unclosable(counting):
        def close(self) -> None:
            closed.append(self)
            raise error

    with pytest.warns(UserWarning, match=f"closing an environment failed: {type(error).__name__}: "):
        with closing(vectorize([Unclosable] * 3, 3, mode, processes=1)):
            pass
    assert len(closed) == 3
    with pytest.warns(UserWarning), pytest.raises(KeyError, match="the real one"):
        with closing(vectorize([Unclosable], 3, mode)):
            raise KeyError("the real one")
