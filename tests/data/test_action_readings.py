"""The readings of recorded actions, by numbers computed by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from softflow.data.action_effects import Arrangement
from softflow.data.action_readings import AS_RECORDED, EARLY, LATE, readings_of, rearranged, shifted
from softflow.task import ActionPart, ObservationPart, TaskSpec


def task(low: tuple[float, ...], high: tuple[float, ...]) -> TaskSpec:
    return TaskSpec((ObservationPart("x", (1,)),), (ActionPart("action", low, high),))


def readings(action: list[list[float]], recorded: TaskSpec | None, expected: TaskSpec) -> dict[str, list]:
    found = readings_of([np.array(action, np.float32)], recorded, expected)
    return {reading.name: np.round(reading.actions[0].astype(np.float64), 5).tolist() for reading in found}


def test_numbers_without_a_task_may_be_native_or_over_the_limit() -> None:
    # bounds -0.25 ... 0.75: a native 0.5 is 2 (0.5 + 0.25) / 1 - 1 = 0.5, and 0.5 of the limit is 0.375, which is 0.25
    assert readings([[0.5], [0.0]], None, task((-0.25,), (0.75,))) == {
        AS_RECORDED: [[0.5], [0.0]],
        "native": [[0.5], [-0.5]],
        "action / limit": [[0.25], [-0.5]],
    }


def test_a_reading_beyond_the_bounds_is_impossible() -> None:
    assert list(readings([[0.5], [1.0]], None, task((-0.25,), (0.75,)))) == [AS_RECORDED, "action / limit"]


def test_bounds_of_minus_one_and_one_leave_nothing_to_read() -> None:
    one = task((-1.0,), (1.0,))
    assert list(readings([[0.5], [-1.0]], one, one)) == [AS_RECORDED]


def test_native_numbers_may_be_scaled() -> None:
    # bounds -2 ... 4: 0.0 is stored for the native 1, which is the highest action if it was scaled already
    wide = task((-2.0,), (4.0,))
    assert readings([[0.0], [-0.5]], wide, wide) == {
        AS_RECORDED: [[0.0], [-0.5]],
        "native": [[-0.33333], [-0.5]],
        "action / limit": [[-0.33333], [-1.0]],
        "scaled, not native": [[1.0], [-0.5]],
        "action / limit, not native": [[1.0], [-1.0]],
    }


def test_other_bounds_of_the_dataset_are_converted_and_clipped() -> None:
    found = readings([[0.5], [1.0]], task((-2.0,), (2.0,)), task((-1.0,), (1.5,)))
    # natively 1 and 2, of which 2 (1 + 1) / 2.5 - 1 = 0.6, and the bound
    assert found[AS_RECORDED] == [[0.6], [1.0]]
    assert found["scaled by other bounds"] == [[0.5], [1.0]]


def test_a_number_with_one_value_is_left_out() -> None:
    fixed = task((0.0, -0.25), (0.0, 0.75))
    assert readings([[0.25]], fixed, fixed)["native"] == [[0.0]]


def test_shifts_guess_the_action_that_was_not_recorded() -> None:
    recorded = readings_of([np.array([[0.1], [0.2], [0.3]], np.float32)], None, task((-1.0,), (1.0,)))[0]
    late, early = shifted(recorded)
    assert (late.name, early.name) == (LATE, EARLY)
    np.testing.assert_array_equal(late.actions[0], np.array([[0.2], [0.3], [0.3]], np.float32))
    np.testing.assert_array_equal(early.actions[0], np.array([[0.1], [0.1], [0.2]], np.float32))
    steps = np.arange(3)
    assert [steps[one.known_steps(3)].tolist() for one in (recorded, late, early)] == [[0, 1, 2], [0, 1], [1, 2]]
    assert "row t was executed in row t - 1" in late.claim and "row t + 1" in early.claim
    assert replace(late, shift=0).known_steps(3) == slice(0, 3)


def test_numbers_are_rearranged_natively_and_in_minus_one_to_one() -> None:
    # bounds -2 ... 2 and 0 ... 1: 0.5 and -0.5 are natively 1 and 0.25, which exchanged are 0.125 and 1
    expected = task((-2.0, 0.0), (2.0, 1.0))
    recorded = readings_of([np.array([[0.5, -0.5]], np.float32)], None, expected)[0]
    native, unit = rearranged(recorded, Arrangement([1, 0], [1, 1], [True, True], [[4, 5], [6]]), expected)
    np.testing.assert_allclose(native.actions[0], [[0.125, 1.0]])
    np.testing.assert_allclose(unit.actions[0], [[-0.5, 0.5]])
    assert native.claim.endswith("action[0] is action[1], action[1] is action[0] of the dataset")
    assert rearranged(recorded, Arrangement([0, 1], [1, 1], [True, True], [[4, 5], [6]]), expected) == []
    [flipped] = rearranged(recorded, Arrangement([0, 1], [-1, 1], [True, True], [[4, 5], [6]]), expected)
    np.testing.assert_allclose(flipped.actions[0], [[-0.5, -0.5]])
    assert (native.judged_by, flipped.judged_by) == ([4, 5, 6], [4, 5])
    assert flipped.claim.endswith("another sign: action[0] is -action[0] of the dataset")
