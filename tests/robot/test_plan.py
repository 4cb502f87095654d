"""Which action is executed at each step, however late the chunks arrive."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from softflow.robot.plan import Chunk, Late, Plan


def chunk(start: int, horizon: int = 4) -> Chunk:
    """Its actions are 100 * start + the step for which they are meant."""
    return Chunk(100.0 * start + np.arange(start, start + horizon)[:, None], start, 0.0)


def executed(late: Late, arrivals: dict[int, Chunk], steps: int, n: int = 2, stalled: range = range(0)) -> list[object]:
    """The numbers executed at each step, and None where the plan stops. Chunks arrive before their step."""
    plan, moves = Plan(n, late), list[object]()
    for step in range(steps):
        if step in arrivals:
            plan.deliver(arrivals[step])
        move = plan.move(step, step in stalled)
        moves.append(None if move is None else move.action.item())
    return moves


@pytest.mark.parametrize("late", ["hold", "extend", "stop"])
def test_chunks_in_time_are_executed_at_the_steps_for_which_they_are_meant(late: Late) -> None:
    arrivals = {0: chunk(0), 2: chunk(1), 4: chunk(3)}
    assert executed(late, arrivals, 6) == [0, 1, 102, 103, 304, 305]


def test_an_early_chunk_waits_for_its_turn() -> None:
    assert executed("hold", {0: chunk(0), 1: chunk(0, 8)}, 4, n=3) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("late", "expected"),
    [
        ("hold", [0, 1, 1, 1, 1, 1, 306, 307]),
        ("extend", [0, 1, 2, 3, 3, 3, 306, 307]),
        ("stop", [0, 1, None, None, None, None]),
    ],
)
def test_a_late_chunk(late: Late, expected: list[object]) -> None:
    arrivals = {0: chunk(0), 6: chunk(3, 5)}
    assert executed(late, arrivals, len(expected)) == expected


def test_a_chunk_that_arrives_after_its_end_is_dropped() -> None:
    assert executed("hold", {0: chunk(0), 5: chunk(1), 6: chunk(5)}, 7) == [0, 1, 1, 1, 1, 1, 506]


def test_a_chunk_that_is_nearly_over_asks_for_the_next_one_earlier() -> None:
    plan = Plan(4, "hold")
    plan.deliver(chunk(0))
    for step in range(3):
        plan.move(step)
    assert plan.until == 4
    plan.move(3)
    plan.deliver(chunk(1))
    plan.move(4)
    assert plan.until == 5


@pytest.mark.parametrize(("late", "expected"), [("hold", [0, 0, 0, 3]), ("extend", [0, 1, 2, 3]), ("stop", [0, None])])
def test_missing_observations_are_a_late_chunk(late: Late, expected: list[object]) -> None:
    moves = executed(late, {0: chunk(0)}, len(expected), n=4, stalled=range(1, 3))
    assert moves == expected


def test_nothing_is_executed_before_the_first_chunk() -> None:
    assert Plan(2, "hold").move(0) is None


@given(st.lists(st.booleans(), min_size=1, max_size=40), st.sampled_from(["hold", "extend"]))
def test_every_action_is_the_last_one_or_meant_for_its_step(arrives: list[bool], late: Late) -> None:
    arrivals = {step: chunk(max(step - 1, 0)) for step, does in enumerate(arrives) if does or step == 0}
    moves = executed(late, arrivals, len(arrives))
    for step, (before, now) in enumerate(zip([None, *moves], moves, strict=False)):
        assert isinstance(now, float)
        assert now == before or now % 100 == step % 100
