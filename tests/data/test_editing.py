"""Merging, filtering and splitting: which episodes the results hold, in which order, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from softflow.data import Dataset, DemonstrationError, Episode, load_dataset, save_demonstrations
from softflow.data.editing import Conditions, merge, split
from softflow.errors import UserError
from softflow.task import ActionPart, ObservationPart, TaskMismatch, TaskSpec

ARM = TaskSpec(
    (ObservationPart("joints", (2,)), ObservationPart("force", (1,))), (ActionPart("torque", -2.0, 2.0),), rate=10
)


def episode(rewards: list[float], success: bool = False, task: TaskSpec | None = ARM, start: float = 0) -> Episode:
    """Joint i has the value 10 i + t + `start` at step t; the force is -t."""
    steps = len(rewards)
    time = np.arange(steps + 1.0)
    observations = {"joints": np.stack([time, 10 + time], 1) + start, "force": -time[:, None]}
    native = Episode.from_native(
        ARM if task is None else task,
        observations,
        np.zeros((steps, 1)),
        np.array(rewards),
        terminated=True,
        truncated=False,
        is_success=success,
    )
    return native if task is not None else replace(native, task=None)


def dataset(*episodes: Episode) -> Dataset:
    return Dataset(list(episodes), episodes[0].task)


EPISODES = dataset(
    episode([0, 1], success=True),  # a return of 1
    episode([0, 0, 0]),  # 0
    episode([5]),  # 5
    episode([0, 0, 0, 3], success=True),  # 3
    episode([-2, -2, 1]),  # -3
)


def indices(kept: Dataset) -> list[int]:
    """The places in `EPISODES` of the episodes kept."""
    lengths_and_returns = [(len(one), one.reward.sum()) for one in EPISODES.episodes]
    return [lengths_and_returns.index((len(one), one.reward.sum())) for one in kept.episodes]


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        (Conditions(successes=True), [0, 3]),
        (Conditions(min_length=3), [1, 3, 4]),
        (Conditions(max_length=2), [0, 2]),
        (Conditions(min_length=3, max_length=3), [1, 4]),
        (Conditions(min_return=0), [0, 1, 2, 3]),
        (Conditions(best=40), [2, 3]),
        (Conditions(best=41), [0, 2, 3]),  # rounded up
        (Conditions(best=100), [0, 1, 2, 3, 4]),
        (Conditions(best=50, successes=True), [3]),  # the best half of the successes
        (Conditions(min_length=2, best=1), [3]),
    ],
)
def test_the_episodes_that_meet_all_conditions_are_kept(conditions: Conditions, expected: list[int]) -> None:
    kept = conditions.keep(EPISODES)
    assert indices(kept) == expected and kept.task == ARM


def test_episodes_as_good_as_the_last_of_the_best_are_kept() -> None:
    equal = dataset(episode([1]), episode([0, 1]), episode([0]))
    assert [len(one) for one in Conditions(best=10).keep(equal).episodes] == [1, 2]


def test_nothing_kept_and_no_condition_are_refused() -> None:
    with pytest.raises(UserError) as caught:
        Conditions(min_length=2, successes=True, min_return=3.5).keep(EPISODES)
    assert str(caught.value) == (
        "no episode meets the conditions: there are 5 episodes, 2 successes, lengths of 1 to 4 steps, "
        "returns of -3 to 5"
    )
    with pytest.raises(UserError, match="no condition to filter by: give at least one of --successes, --min-length, "):
        Conditions().keep(EPISODES)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"min_length": 0}, "min_length must be at least 1 step, got 0"),
        ({"max_length": -1}, "max_length must be at least 1 step, got -1"),
        ({"min_length": 3, "max_length": 2}, "min_length 3 is above max_length 2"),
        ({"min_return": float("inf")}, "min_return must be a finite number, got inf"),
        ({"min_return": float("nan")}, "min_return must be a finite number, got nan"),
        ({"best": 0.0}, "best must be a percentage above 0 and up to 100, got 0"),
        ({"best": 100.5}, "best must be a percentage above 0 and up to 100, got 100.5"),
        ({"best": float("nan")}, "best must be a percentage above 0 and up to 100, got nan"),
    ],
)
def test_impossible_conditions_are_refused(values: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Conditions(**values)


def test_merged_episodes_keep_the_order_of_the_datasets(tmp_path) -> None:
    merged = merge([("a", EPISODES), ("b", dataset(episode([7])))])
    assert [one.reward.sum() for one in merged.episodes] == [1, 0, 5, 3, -3, 7] and merged.task == ARM
    save_demonstrations(tmp_path / "merged.npz", *merged)
    assert load_dataset(tmp_path / "merged.npz").task == ARM


def test_parts_in_another_order_are_rearranged() -> None:
    turned = replace(ARM, observation=ARM.observation[::-1])
    merged = merge([("a", dataset(episode([0, 0]))), ("b", dataset(episode([0, 0], task=turned, start=5)))])
    np.testing.assert_array_equal(merged.episodes[1].observation, [[5, 15, 0], [6, 16, -1], [7, 17, -2]])
    assert merged.episodes[1].task == merged.task == ARM


def test_a_rate_that_is_known_is_kept() -> None:
    unknown = replace(ARM, rate=None)
    merged = merge([("a", dataset(episode([0], task=unknown))), ("b", dataset(episode([1])))])
    assert merged.task == ARM and {one.task for one in merged.episodes} == {ARM}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rate": 20}, "b is of another task than a: the control rate is 20 Hz, expected 10 Hz"),
        (
            {"action": (ActionPart("torque", -1.0, 2.0),)},
            r"b is of another task than a: action 'torque' has .*-1 ... 2",
        ),
        ({"action": (ActionPart("force", -2.0, 2.0),)}, "action 'torque' is missing; action 'force' is not expected"),
        (
            {"observation": (ObservationPart("joint", (2,)), ARM.observation[1])},
            "observation 'joints' is missing; observation 'joint' is not expected",
        ),
    ],
)
def test_different_tasks_are_refused_by_name(changes: dict, message: str) -> None:
    other = replace(ARM, **changes)
    moved = Dataset([replace(episode([0]), task=other)], other)
    with pytest.raises(TaskMismatch, match=message):
        merge([("a", EPISODES), ("b", moved)])


def test_all_datasets_are_compared_with_each_other() -> None:
    tasks = [replace(ARM, rate=rate) for rate in (None, 10, 20)]
    named = [(name, dataset(episode([0], task=task))) for name, task in zip("abc", tasks, strict=True)]
    with pytest.raises(TaskMismatch, match="c is of another task than b: the control rate is 20 Hz, expected 10 Hz"):
        merge(named)


def test_other_datasets_that_cannot_be_one_are_refused() -> None:
    without = dataset(episode([0], task=None))
    with pytest.raises(DemonstrationError, match="b does not contain its task, a does"):
        merge([("a", EPISODES), ("b", without)])
    with pytest.raises(DemonstrationError, match="a does not contain its task, b does"):
        merge([("a", without), ("b", EPISODES)])
    any_success = replace(ARM, success="any")
    with pytest.raises(DemonstrationError, match="b counts successes by the rule 'any', a by 'last'"):
        merge([("a", EPISODES), ("b", dataset(episode([0], task=any_success)))])
    with pytest.raises(UserError, match="give at least two datasets, got 1"):
        merge([("a", EPISODES)])


def test_datasets_without_a_task_are_compared_by_their_sizes() -> None:
    without = dataset(episode([0], task=None))
    assert len(merge([("a", without), ("b", without)]).episodes) == 2
    larger = Dataset([Episode(np.zeros((2, 4)), np.zeros((1, 1)), np.zeros(1), True, False, False)], None)
    with pytest.raises(DemonstrationError, match="b has observations and actions of 4 and 1 numbers, a of 3 and 1"):
        merge([("a", without), ("b", larger)])


NUMBERED = dataset(*(episode([float(index)]) for index in range(10)))


def numbers(part: Dataset) -> list[int]:
    return [int(one.reward[0]) for one in part.episodes]


@pytest.mark.parametrize(("share", "count"), [(0.8, 8), (0.75, 8), (0.001, 1), (0.999, 9)])
def test_a_split_shares_out_every_episode_once(share: float, count: int) -> None:
    first, second = split(NUMBERED, share, seed=0)
    assert len(first.episodes) == count and first.task == second.task == ARM
    assert sorted(numbers(first) + numbers(second)) == list(range(10))
    assert numbers(first) == sorted(numbers(first)) and numbers(second) == sorted(numbers(second))


def test_the_seed_decides_the_split_and_every_episode_may_be_in_either_part() -> None:
    seconds = [tuple(numbers(split(NUMBERED, 0.5, seed)[1])) for seed in range(20)]
    assert seconds == [tuple(numbers(split(NUMBERED, 0.5, seed)[1])) for seed in range(20)]
    assert len(set(seconds)) > 10
    assert set().union(*seconds) == set(range(10)) and not set.intersection(*map(set, seconds))


@pytest.mark.parametrize("share", [0.0, 1.0, -0.5, float("nan")])
def test_impossible_splits_are_refused(share: float) -> None:
    with pytest.raises(UserError, match="share must be above 0 and below 1"):
        split(NUMBERED, share, 0)
    with pytest.raises(UserError, match="seed must be 0 or more, got -1"):
        split(NUMBERED, 0.5, -1)
    with pytest.raises(UserError, match="at least two"):
        split(dataset(episode([0])), 0.5, 0)
