"""Observations as a robot gives them become rows, in the order of the parts, or an error that names the part."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from softflow.task import ObservationPart, TaskSpec
from tests.task.specs import GRIPPER, IMAGES, NUMBERS, OBSERVED, PICTURE, ROW, SEEN

FLAT = {"robot/joints": OBSERVED["robot"]["joints"], **{k: v for k, v in OBSERVED.items() if k != "robot"}}  # type: ignore[index]


def one(*parts: ObservationPart) -> TaskSpec:
    return TaskSpec(parts, (GRIPPER,))


def test_an_observation_becomes_a_row() -> None:
    for observation in (OBSERVED, FLAT, {**OBSERVED, "battery": "full"}):
        rows, is_batch = NUMBERS.rows(observation)
        assert rows.dtype == np.float32 and not is_batch
        np.testing.assert_array_equal(rows, [ROW])
    assert NUMBERS.row_size == NUMBERS.observation_size == len(ROW)


@given(st.permutations(list(FLAT)))
def test_the_order_of_the_keys_does_not_matter(names: list[str]) -> None:
    np.testing.assert_array_equal(NUMBERS.rows({name: FLAT[name] for name in names})[0], [ROW])


def test_a_batch_becomes_rows() -> None:
    batch = {name: np.stack([np.asarray(value)] * 3) for name, value in FLAT.items()}
    batch["force"][1] = -1
    rows, is_batch = NUMBERS.rows(batch)
    assert is_batch
    np.testing.assert_array_equal(rows, [ROW, [*ROW[:-1], -1], ROW])


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int32, ">f4", torch.float32, torch.float64, torch.int8])
def test_numbers_come_in_any_dtype(dtype: Any) -> None:
    task = one(ObservationPart("a", (2,)))
    value = torch.tensor([3, -2], dtype=dtype) if isinstance(dtype, torch.dtype) else np.array([3, -2], dtype)
    rows, _ = task.rows({"a": value})
    assert rows.dtype == np.float32
    np.testing.assert_array_equal(rows, [[3, -2]])
    np.testing.assert_array_equal(task.rows(value)[0], rows)  # a task of one part takes the array itself


def test_images_and_numbers_are_packed() -> None:
    assert IMAGES.layout is not None and IMAGES.row_size == IMAGES.layout.size == 24 + 12 + 8
    rows, _ = IMAGES.rows(SEEN)
    assert rows.dtype == np.uint8
    unpacked = IMAGES.layout.unpack(rows[0])
    np.testing.assert_array_equal(unpacked["wrist"], np.moveaxis(PICTURE, 0, -1))
    np.testing.assert_array_equal(unpacked["depth"], np.full((3, 4, 1), 64))  # 255 * (1 - 0.5) / (2.5 - 0.5) = 63.75
    np.testing.assert_array_equal(unpacked["joints"], [1.5, 2.5])
    batch, is_batch = IMAGES.rows({name: np.stack([value] * 2) for name, value in SEEN.items()})
    assert is_batch
    np.testing.assert_array_equal(batch, np.concatenate([rows, rows]))


def test_every_axis_but_height_and_width_becomes_a_channel() -> None:
    frames = np.arange(2 * 3 * 4 * 5, dtype=np.uint8).reshape(2, 4, 5, 3)
    task = one(ObservationPart("eye", frames.shape, "uint8", axes="KHWC"))
    assert task.layout is not None
    [picture] = task.layout.unpack(task.rows(frames)[0])["eye"]
    np.testing.assert_array_equal(picture, np.concatenate(list(frames), -1))


def test_pixels_somewhat_out_of_range_are_clipped_and_far_out_refused() -> None:
    task = one(ObservationPart("eye", (1, 3), axes="HW", value_range=(0.0, 1.0)))
    assert task.layout is not None
    row, _ = task.rows(np.array([[-0.1, 0.2, 1.1]]))
    np.testing.assert_array_equal(row, [[0, 51, 255]])
    with pytest.raises(ValueError, match=r"'eye' has pixels far outside of 0 \.\.\. 1: scale it"):
        task.rows(np.array([[0.0, 100.0, 255.0]]))
    with pytest.raises(ValueError, match="'eye' has pixels that are not finite"):
        task.rows(np.array([[0.0, np.nan, 1.0]]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gear": None}, "the observation has no 'gear'"),
        ({"robot": {"joint": np.zeros(2)}}, "the observation has no 'robot/joints': did you mean 'robot/joint'?"),
        ({"robot/joints": np.zeros(2)}, "the observation has 'robot/joints' twice, nested and not"),
        ({"buttons": np.zeros(3)}, "is float64 of shape (3,), expected int8 of shape (2,), or of a batch (B, 2)"),
        ({"force": np.zeros((2, 2))}, "'force' is float64 of shape (2, 2), expected float64 of shape ()"),
        ({"force": "7"}, "'force' is <U1 of shape (), expected numbers"),
        ({"buttons": [[1], [1, 2]]}, "'buttons' cannot be read as an array"),
        ({"robot": {"joints": [0, np.nan]}}, "observation robot/joints[1] is nan, not a finite float32"),
        ({"force": 1e39}, "observation force is 1e+39, not a finite float32"),
        ({"gear": 0}, "'gear' is 0, expected 1 ... 3"),
        ({"gear": 1.5}, "'gear' is 1.5, expected 1 ... 3"),
        ({"grid": [0, 3]}, "'grid' is 3, expected 0 ... 2"),
        ({"force": [1.0, 2.0]}, "batch sizes (robot/joints: none, gear: none, buttons: none, grid: none, force: 2)"),
    ],
)
def test_what_does_not_fit_is_named(changes: dict[str, Any], message: str) -> None:
    observation = {name: value for name, value in {**OBSERVED, **changes}.items() if value is not None}
    with pytest.raises(ValueError, match=re.escape(message)):
        NUMBERS.rows(observation)


def test_an_array_in_place_of_a_mapping_is_refused() -> None:
    with pytest.raises(ValueError, match="a mapping with the keys robot/joints, gear, buttons, grid, force"):
        NUMBERS.rows(np.zeros(13))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (PICTURE.astype(np.float32), "'wrist' is an image of float32, expected uint8 in 0 ... 255"),
        (PICTURE.transpose(1, 2, 0), "expected uint8 of shape (2, 3, 4)"),
    ],
)
def test_an_image_of_another_kind_is_refused(image: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        IMAGES.rows({**SEEN, "wrist": image})
    with pytest.raises(ValueError, match=r"'depth' is an image of uint8, expected float32 in 0\.5 \.\.\. 2\.5"):
        IMAGES.rows({**SEEN, "depth": np.zeros((3, 4), np.uint8)})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(shape=(0,)), "a shape of positive sizes"),
        (dict(shape=(2,), dtype="int33"), "'int33' is no dtype"),
        (dict(shape=(2,), dtype="U3"), "no dtype of numbers"),
        (dict(shape=(2,), value_range=(0, 1)), "only an image has one"),
        (dict(shape=(2, 2), dtype="uint8", axes="HC"), "do not fit the shape"),
        (dict(shape=(2, 2), dtype="uint8", axes="HWC"), "do not fit the shape"),
        (dict(shape=(2, 2), dtype="uint8", axes="HH"), "do not fit the shape"),
        (dict(shape=(2, 2), axes="HW"), "if, and only if, it is not uint8"),
        (dict(shape=(2, 2), dtype="uint8", axes="HW", value_range=(0, 255)), "if, and only if, it is not uint8"),
        (dict(shape=(2, 2), axes="HW", value_range=(1, 1)), "no range of values"),
        (dict(shape=(2,), categories=(3,)), "number of values of each of its 2 numbers"),
        (dict(shape=(), categories=(0,)), "number of values of each of its 1 numbers"),
        (dict(shape=(2,), starts=(0, 0)), "lowest value of each of its 2 categorical numbers"),
        (dict(shape=(), categories=(3,), starts=(0.5,)), "lowest value of each"),
    ],
)
def test_impossible_parts_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"observation 'a'.*{message}"):
        ObservationPart("a", **options)


# ----------------------------------------------------------------------------------------------------------- and back


def test_rows_become_the_arrays_of_their_parts_again() -> None:
    for task, seen in ((NUMBERS, FLAT), (IMAGES, SEEN)):
        packed = task.split(task.rows(seen)[0])
        assert list(packed) == [part.name for part in task.observation]
        for part in task.observation:
            assert packed[part.name].shape == (1, *part.packed.shape)
            arrays = part.unpack(packed[part.name])
            assert arrays.dtype == part.dtype and arrays.shape == (1, *part.shape)
            tolerance = 2 / 255 / 2 if part.name == "depth" else 0  # half of a step between black and white
            np.testing.assert_allclose(arrays[0], seen[part.name], rtol=0, atol=tolerance)


@given(
    st.permutations("HWCK"),
    st.sampled_from([("float32", -1.0, 3.0), ("float64", 0.0, 1e-3), ("uint16", 0, 65535), ("int16", 5, 105)]),
    st.integers(0, 9),
)
def test_images_come_back_to_the_bit(axes: list[str], pixels: tuple[str, float, float], seed: int) -> None:
    dtype, low, high = pixels
    part = ObservationPart("a", (2, 3, 4, 1), dtype, axes="".join(axes), value_range=(low, high))
    brightness = np.random.default_rng(seed).integers(0, 256, (2, *part.shape))
    packed = part.pack((low + brightness / 255 * (high - low)).round(0 if dtype.endswith("16") else 12).astype(dtype))
    np.testing.assert_array_equal(part.pack(part.unpack(packed)), packed)


def test_what_no_dtype_or_category_packs_to_is_not_unpacked() -> None:
    gear = ObservationPart("gear", (), "int64", categories=(3,))
    for part, packed in (
        (gear, [[0, 0.5, 0.5]]),
        (gear, [[0, 0, 0]]),
        (ObservationPart("count", (1,), "int8"), [[0.5]]),
        (ObservationPart("count", (1,), "int8"), [[300]]),
        (ObservationPart("on", (1,), "bool"), [[2]]),
    ):
        with pytest.raises(
            ValueError, match=rf"observation '{part.name}' of step 1 holds values that are not {part.dtype}"
        ):
            part.unpack(np.array([[1, 0, 0] if part is gear else [1], *packed], np.float32))
