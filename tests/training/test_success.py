"""Which episodes count as successes, by each rule."""

from __future__ import annotations

from typing import Any

import pytest

from softflow.boundary import MalformedStep
from softflow.training.success import EpisodeSuccess, SuccessRule

SAID = [False, True, False]
REWARDS = [1.0, 2.0, -0.5]


@pytest.mark.parametrize(
    ("rule", "verdicts"),
    [
        ("last", [False, True, False]),
        ("any", [False, True, True]),
        ("return>=3", [False, True, False]),
        ("return>=2.5", [False, True, True]),
        ("return >= -1e3", [True, True, True]),
    ],
)
def test_the_verdict_after_each_step(rule: str, verdicts: list[bool]) -> None:
    success = EpisodeSuccess(SuccessRule(rule))
    for _ in range(2):  # the second episode knows nothing of the first
        success.begin()
        said = zip(SAID, REWARDS, strict=True)
        assert [success.add({"is_success": flag}, reward) for flag, reward in said] == verdicts


@pytest.mark.parametrize("rule", ["last", "any"])
def test_who_says_nothing_has_no_success(rule: str) -> None:
    assert EpisodeSuccess(SuccessRule(rule)).add({}, 1.0) is False


def test_an_episode_in_progress_is_kept() -> None:
    for rule in ("any", "return>=3"):
        one, other = EpisodeSuccess(SuccessRule(rule)), EpisodeSuccess(SuccessRule(rule))
        one.add({"is_success": True}, 3.5)
        other.load_state_dict(one.state_dict())
        assert other.add({"is_success": False}, -0.25) is True


@pytest.mark.parametrize("value", [0.25, float("nan"), -1, "False", None])
def test_a_success_that_is_neither_true_nor_false_is_refused(value: Any) -> None:
    with pytest.raises(MalformedStep, match="is_success is"):
        EpisodeSuccess(SuccessRule("any")).add({"is_success": value}, 0.0)


@pytest.mark.parametrize(
    "text", ["", "lats", "return", "return>=", "return>=x", "return>=nan", "return>=inf", "length>=3"]
)
def test_an_unknown_rule_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"success is .*(did you mean|valid: )"):
        SuccessRule(text)
