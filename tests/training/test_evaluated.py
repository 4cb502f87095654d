"""Which policy of a run is the best, what is said about it, and the file that its folder holds."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from softflow.errors import UserError
from softflow.training.checkpoint_folders import EVALUATION
from softflow.training.evaluated import (
    Evaluated,
    best_of,
    compare_latest,
    decline,
    describe_best,
    most_successful,
    read_evaluation,
    write_evaluation,
)
from softflow.training.evaluation import Evaluation
from softflow.training.intervals import wilson_interval


def evaluations(*successes: int, episodes: int = 50, kept_from: int = 0) -> list[Evaluated]:
    return [
        Evaluated(
            number,
            "online",
            25_000 * (number + 1),
            "steps",
            stage_ended=False,
            result=Evaluation(count / episodes, wilson_interval(count, episodes), 0.0, 10.0, episodes),
            is_kept=number >= kept_from,
        )
        for number, count in enumerate(successes)
    ]


@pytest.mark.parametrize(
    ("successes", "best"),
    [
        ([41], 0),
        ([41, 32], 0),  # 0.82, then 0.64: one-sided at 0.8 it is worse
        ([41, 39], 1),  # 0.82, then 0.78: this is chance
        ([41, 39, 37, 35], 1),  # a slow decline is measured from its top
        ([41, 32, 45], 2),
        ([0, 0, 0], 2),  # where nothing succeeds, the latest
    ],
)
def test_the_best_is_the_latest_that_is_not_worse_than_the_most_successful(successes: list[int], best: int) -> None:
    found = best_of(evaluations(*successes))
    assert found is not None and found.number == best


def test_policies_that_were_not_kept_cannot_be_the_best() -> None:
    assert best_of(evaluations(50, 10, kept_from=2)) is None
    found = best_of(evaluations(50, 10, 20, kept_from=1))
    assert found is not None and found.number == 2


@given(st.integers(2, 60).flatmap(lambda n: st.tuples(st.lists(st.integers(0, n), min_size=1), st.just(n))))
def test_the_best_stays_or_is_the_new_one(drawn: tuple[list[int], int]) -> None:
    successes, episodes = drawn
    done = evaluations(*successes, episodes=episodes)
    best = None
    for count in range(1, len(done) + 1):
        now = best_of(done[:count])
        assert now is not None and now in (best, done[count - 1])
        assert not now.is_worse_than(most_successful(done[:count]))
        best = now


def result(count: int, episodes: int = 50) -> Evaluation:
    return Evaluation(count / episodes, wilson_interval(count, episodes), 0.0, 10.0, episodes)


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), min_size=1, max_size=12))
def test_the_latest_is_compared_on_further_episodes(drawn: list[tuple[int, int]]) -> None:
    """Only if it seems worse, and each policy once. In the end it is the best, or worse on all episodes."""
    done: list[Evaluated] = []
    asked = list[int]()

    def run_further(one: Evaluated) -> Evaluation:
        asked.append(one.number)
        return result(drawn[one.number][1])

    for latest in evaluations(*(first for first, _ in drawn)):
        before, seems_worse = len(asked), latest.is_worse_than(most_successful([*done, latest]))
        done = compare_latest([*done, latest], run_further)
        assert seems_worse or len(asked) == before
        [*_, latest] = done
        assert best_of(done) == latest or (latest.further and most_successful(done).further)
    assert len(set(asked)) == len(asked) and {one.number for one in done if one.further} == set(asked)
    assert all(one.counts == (sum(both), 100) for one, both in zip(done, drawn, strict=True) if one.further)


def test_luck_is_told_from_success() -> None:
    """In a run from 0.50 to 0.75 whose offline stage had 37 of 50 by chance, and 24 of 50 others."""
    done = compare_latest(evaluations(25, 37, 32), lambda one: result({1: 24, 2: 43}[one.number]))
    assert [one.counts for one in done] == [(25, 50), (61, 100), (75, 100)] and best_of(done) == done[2]
    assert decline(done) is None


def test_a_decline_is_told_with_its_numbers() -> None:
    assert decline([]) is None and decline(evaluations(41, 39)) is None
    assert decline(evaluations(41, 32)) == (
        "warning: the last policy (50,000 steps of online, success 0.64 [0.50, 0.76] on 50 held-out episodes) is "
        "probably worse than an earlier one (25,000 steps of online, success 0.82 [0.69, 0.90] on 50 held-out "
        "episodes): difference -0.18, 95 % interval [-0.34, -0.01]"
    )
    assert decline(evaluations(41, 32, kept_from=1)) is not None  # although the earlier policy is lost
    assert decline(evaluations(41, 33)) is None  # the interval contains 0: [-0.32, +0.01]
    one_failure = evaluations(8, 7, episodes=8)
    assert one_failure[1].is_worse_than(one_failure[0]) and decline(one_failure) is None
    assert decline(evaluations(8, 3, episodes=8)) is not None
    first, last = evaluations(41, 32)
    text = "best checkpoint: 25,000 steps of online, success 0.82 [0.69, 0.90] on 50 held-out episodes"
    assert describe_best(first, last) == f"{text}; the last one has 0.64"
    assert describe_best(last, last).endswith(
        "success 0.64 [0.50, 0.76] on 50 held-out episodes; it is the last one evaluated"
    )


def test_an_evaluation_is_read_as_it_was_written(tmp_path: Path) -> None:
    one = replace(evaluations(7)[0], further=result(9))
    write_evaluation(tmp_path, one)
    assert read_evaluation(tmp_path).as_dict() == json.loads(json.dumps(one.as_dict()))
    assert str(read_evaluation(tmp_path)) == str(one)


@pytest.mark.parametrize(
    "change",
    [
        {"stage": 3},
        {"unit": "hours"},
        {"done": "many"},
        {"number": None},
        {"result": {}},
        {"result": {"success_rate": 0.5}},
        {"result": {"success_rate": 0.5, "success_ci95": [0.1], "mean_return": 0, "mean_length": 0, "episodes": 2}},
        {"further": {"success_rate": 0.5}},
        {"colour": "red"},
    ],
)
def test_a_damaged_evaluation_is_refused(change: dict[str, object], tmp_path: Path) -> None:
    file = tmp_path / EVALUATION
    file.write_text(json.dumps({**evaluations(7)[0].as_dict(), **change}))
    with pytest.raises(UserError, match=r"evaluation.json: not the evaluation of a policy: "):
        read_evaluation(tmp_path)
    file.write_text("[")
    with pytest.raises(UserError, match=r"evaluation.json: not the evaluation of a policy: "):
        read_evaluation(tmp_path)
