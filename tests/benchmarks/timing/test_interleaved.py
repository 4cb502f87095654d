"""The order in which calls are timed, and what counts."""

from __future__ import annotations

from benchmarks.timing.interleaved import interleaved, ratio


def test_cases_take_turns_and_the_first_rounds_do_not_count() -> None:
    now, made = 0.0, ""

    def work(name: str, seconds: float) -> None:
        nonlocal now, made
        now, made = now + seconds, made + name

    cases = {"a": lambda: work("a", len(made)), "b": lambda: work("b", 0.5)}
    times = interleaved(cases, 2, warm_up=1, repeats=2, clock=lambda: now)
    assert made == 3 * "aabb"
    assert times == {"a": [4e3, 5e3, 8e3, 9e3], "b": [500.0] * 4}


def test_a_ratio_is_the_median_of_those_within_a_round() -> None:
    assert ratio([1.0, 20.0, 300.0], [1.0, 10.0, 100.0]) == 2.0
