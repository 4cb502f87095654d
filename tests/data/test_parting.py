"""How far replays part, by numbers computed by hand, and that the order of parts is found."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from softflow.data import parting
from softflow.data.parting import ObservationScale, best_order, disagreement, first_beyond, total
from softflow.task import ActionPart, ObservationPart, TaskSpec

ACTION = (ActionPart("action", (-1.0,), (1.0,)),)
TASK = TaskSpec((ObservationPart("arm", (2,)), ObservationPart("goal", (1,))), ACTION)
RECORDED = np.array([[0, 0, 5], [2, 4, 5], [4, 8, 5], [6, 12, 5]], np.float32)
"""The variances of the arm are 5 and 20, so its scale is the root of 12.5. The goal is constant, and its scale 1."""


def scale() -> ObservationScale:
    return ObservationScale(TASK, [RECORDED[:2], RECORDED[2:]])


def test_distances_are_in_units_of_each_parts_scale() -> None:
    other = RECORDED + np.array([3, 4, -2], np.float32)  # the root mean square of 3 and 4 is that of 12.5
    np.testing.assert_allclose(scale().distances(RECORDED, other), [[1, 2]] * 4)


def test_missed_motion_of_each_number() -> None:
    replayed = RECORDED * np.array([1, 0.5, 1], np.float32)
    missed, moved = scale().motion(RECORDED, replayed, slice(None))
    assert scale().measured == ["arm[0]", "arm[1]", "goal"]
    np.testing.assert_allclose(moved, [6 / 12.5**0.5, 12 / 12.5**0.5, 0])
    np.testing.assert_allclose(missed, [0, 6 / 12.5**0.5, 0])


def test_a_replay_that_ended_moves_no_more_and_only_some_steps_may_count() -> None:
    missed, _ = scale().motion(RECORDED, RECORDED[:2], slice(None))
    np.testing.assert_allclose(missed, [4 / 12.5**0.5, 8 / 12.5**0.5, 0])
    missed, moved = scale().motion(RECORDED, RECORDED[:2], slice(0, 1))
    np.testing.assert_allclose([missed, moved], [[0, 0, 0], [2 / 12.5**0.5, 4 / 12.5**0.5, 0]])


def test_images_are_measured_as_a_whole() -> None:
    image = ObservationPart("wrist", (16, 16, 3), "uint8", axes="HWC")
    task = TaskSpec((image, ObservationPart("x", (1,))), ACTION)
    views = np.stack([np.full((16, 16, 3), value, np.uint8) for value in (0, 20)])
    rows = task.join([views, np.array([[0.0], [2.0]])])
    darker = task.join([views // 2, np.array([[0.0], [2.0]])])
    scaled = ObservationScale(task, [rows])
    assert scaled.measured == ["wrist", "x"]
    np.testing.assert_allclose(scaled.distances(rows, darker), [[0, 0], [1, 0]])  # 10 of a deviation of 10
    np.testing.assert_allclose(scaled.motion(rows, darker, slice(None)), [[1, 0], [2, 2]])


def test_spreads_of_packed_rows_are_those_of_their_numbers() -> None:
    image = ObservationPart("wrist", (16, 16, 3), "uint8", axes="HWC")
    task = TaskSpec((image, ObservationPart("x", (1,))), ACTION)
    views = np.stack([np.full((16, 16, 3), value, np.uint8) for value in (0, 20, 100)])
    rows = task.join([views, np.array([[-1.0], [3.0], [4.0]])])
    # the means are 40 and 2; the scale is the deviation of the first two, 10 and 2
    np.testing.assert_allclose(ObservationScale(task, [rows[:2]]).spreads(rows), [6, 1.5])


def peak(work: Callable[[], object]) -> int:
    """Return the most bytes that are allocated at a time."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_images_take_no_more_memory_in_more_or_longer_recordings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parting, "BLOCK", 2**15)
    task = TaskSpec((ObservationPart("wrist", (32, 32, 3), "uint8", axes="HWC"),), ACTION)
    rows = np.random.default_rng(0).integers(0, 256, (200, 32 * 32 * 3), np.uint8)
    in_float64 = 8 * rows.size
    scaled = ObservationScale(task, [rows])
    assert peak(lambda: ObservationScale(task, [rows])) < in_float64 / 2
    assert peak(lambda: ObservationScale(task, [rows] * 2)) < in_float64 / 2
    assert peak(lambda: scaled.distances(rows, rows)) < in_float64 / 2
    assert peak(lambda: scaled.motion(rows, rows[:-1], slice(None))) < in_float64 / 2 + rows.size


@pytest.mark.parametrize("block", [1, 3, 7])
def test_blocks_change_nothing(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    replayed = RECORDED[:3] * np.array([1, 0.5, 1], np.float32)
    whole = scale().distances(RECORDED[:3], replayed), *scale().motion(RECORDED, replayed, slice(1, 3))
    monkeypatch.setattr(parting, "BLOCK", block)
    blocks = scale().distances(RECORDED[:3], replayed), *scale().motion(RECORDED, replayed, slice(1, 3))
    for one, other in zip(blocks, whole, strict=True):
        np.testing.assert_allclose(one, other)


def test_the_first_row_beyond_the_tolerance_of_its_part() -> None:
    distances = np.array([[0.1, 0.4], [0.2, 0.5], [0.0, 0.6]])
    assert first_beyond(distances, [0.3, 0.5]) == 2
    assert first_beyond(distances, [0.1, 0.5]) == 1
    assert first_beyond(distances, [0.2, 0.6]) is None


@given(st.lists(st.integers(1, 3), min_size=1, max_size=5), st.randoms(use_true_random=False))
def test_any_order_of_parts_is_found(sizes: list[int], random) -> None:
    rows = np.random.default_rng(random.randrange(100)).normal(size=(6, sum(sizes)))
    starts, order = np.cumsum([0, *sizes]), random.sample(range(len(sizes)), len(sizes))
    shuffled = np.concatenate([rows[:, starts[part] : starts[part + 1]] for part in order], 1)
    costs = disagreement(shuffled, rows, sizes)
    assert best_order(costs, sizes) == order
    assert total(costs, sizes, order) == pytest.approx(0, abs=1e-9)


def test_parts_that_cannot_be_told_apart_keep_their_order() -> None:
    rows = np.ones((4, 3))
    assert best_order(disagreement(rows, rows, [1, 1, 1]), [1, 1, 1]) == [0, 1, 2]


def test_disagreement_is_in_units_of_the_deviation_of_both() -> None:
    rows, others = np.array([[0.0], [2.0]]), np.array([[2.0], [4.0]])
    np.testing.assert_allclose(disagreement(rows, others, [1]), [[2 / 2**0.5]])  # 0, 2, 2, 4 have a variance of 2
