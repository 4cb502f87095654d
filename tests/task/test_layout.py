"""Packed observations: what goes into the bytes comes out of them, to the bit."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from softflow.task.layout import ObservationLayout, Part

SIZES = st.integers(1, 4)
IMAGES = st.tuples(st.just("uint8"), st.tuples(SIZES, SIZES, SIZES))
NUMBERS = st.tuples(st.just("float32"), st.lists(SIZES, max_size=2).map(tuple))
SPECS = st.lists(IMAGES | NUMBERS, min_size=1, max_size=5).filter(lambda specs: any(d == "uint8" for d, _ in specs))


def make_layout(specs: list[tuple[str, tuple[int, ...]]]) -> ObservationLayout:
    return ObservationLayout(tuple(Part(f"part {i}", shape, dtype) for i, (dtype, shape) in enumerate(specs)))


def draw(layout: ObservationLayout, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        part.name: rng.integers(0, 256, part.shape, np.uint8)
        if part.is_image
        else np.float32(rng.normal(size=part.shape) * 10.0 ** rng.integers(-30, 30))
        for part in layout.parts
    }


@given(specs=SPECS, seed=st.integers(0, 1000), rows=st.integers(0, 3))
def test_round_trip_is_exact(specs: list[tuple[str, tuple[int, ...]]], seed: int, rows: int) -> None:
    layout = make_layout(specs)
    observations = [draw(layout, seed + row) for row in range(rows + 1)]
    packed = np.stack([layout.pack(observation) for observation in observations])
    assert packed.dtype == np.uint8 and packed.shape == (rows + 1, layout.size)
    unpacked = layout.unpack(packed)
    assert list(unpacked) == [part.name for part in layout.parts]
    for name, array in unpacked.items():
        expected = np.stack([observation[name] for observation in observations])
        assert array.dtype == expected.dtype
        np.testing.assert_array_equal(array, expected)
    numbers = [array.reshape(rows + 1, -1) for name, array in unpacked.items() if array.dtype == np.float32]
    np.testing.assert_array_equal(layout.numbers(packed), np.hstack([np.zeros((rows + 1, 0)), *numbers]))
    assert layout.numbers(packed).shape[1] == layout.number_count
    assert ObservationLayout.build(json.loads(json.dumps(layout.describe()))) == layout


def test_bytes_by_hand() -> None:
    layout = ObservationLayout((Part("joint", (1,), "float32"), Part("eye", (1, 2, 1), "uint8")))
    packed = layout.pack({"eye": np.array([[[7], [255]]], np.uint8), "joint": [1.0]})
    assert packed.tolist() == [*np.float32(1).tobytes(), 7, 255]
    assert layout.size == 6 and layout.slices == {"joint": slice(0, 4), "eye": slice(4, 6)}


EYE, JOINT = Part("eye", (2, 2, 3), "uint8"), Part("joint", (2,), "float32")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"eye": np.zeros((2, 2, 3))}, "eye: expected uint8 of shape .*, got float64"),
        ({"eye": np.zeros((2, 3, 3), np.uint8)}, "eye: expected"),
        ({"joint": np.zeros(3)}, r"joint: expected float32 of shape \(2,\)"),
        ({"joint": np.array([0, np.nan])}, "joint: not all of its numbers are finite"),
        ({"joint": np.array([0, 1e300])}, "joint: not all of its numbers are finite as float32"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, np.ndarray], message: str) -> None:
    good = {"eye": np.zeros((2, 2, 3), np.uint8), "joint": np.zeros(2)}
    layout = ObservationLayout((EYE, JOINT))
    layout.pack(good)
    with pytest.raises(ValueError, match=message):
        layout.pack(good | change)
    with pytest.raises(ValueError, match="has no 'joint', only eye"):
        layout.pack({"eye": good["eye"]})


@pytest.mark.parametrize(
    "parts",
    [
        [EYE, EYE],
        [JOINT],
        [],
    ],
)
def test_impossible_layouts_are_refused(parts: list[Part]) -> None:
    with pytest.raises(ValueError, match=r"one name|no part is an image"):
        ObservationLayout(tuple(parts))


@pytest.mark.parametrize(
    "description",
    [
        [{"name": "eye", "shape": [2, 2], "dtype": "uint8"}],
        [{"name": "eye", "shape": [2, 0, 3], "dtype": "uint8"}],
        [{"name": "eye", "shape": [2, 2, 3], "dtype": "int64"}],
        [{"name": "eye", "shape": 3, "dtype": "uint8"}],
        [{"shape": [2, 2, 3], "dtype": "uint8"}],
        "eye",
    ],
)
def test_descriptions_are_checked(description: object) -> None:
    with pytest.raises(ValueError, match=r"image has shape|part of an observation|not the layout"):
        ObservationLayout.build(description)  # type: ignore[arg-type]
