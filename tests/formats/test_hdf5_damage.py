"""Damage of HDF5 files of Minari and robomimic that their library loops in, crashes of, or unpacks without a limit."""

from __future__ import annotations

import random
import re
import resource
import struct
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from softflow.data import DemonstrationError, read_dataset
from softflow.formats import text_attribute
from tests.damage import flip
from tests.formats import test_minari, test_robomimic

MAIN = Path("data/main_data.hdf5")
FIRST_OBJECT = 16
"""Where the first object of a global heap collection begins."""
HEADER = struct.Struct("<H6xQ")
"""The number of an object in its collection, and its size."""


def collections(content: bytes) -> list[int]:
    """Where global heap collections begin."""
    return [found.start() for found in re.finditer(b"GCOL\1", content)]


def put(offset: int, values: bytes) -> Callable[[bytearray, int], None]:
    """Overwrite bytes at an offset in a collection."""

    def damage(content: bytearray, collection: int) -> None:
        content[collection + offset : collection + offset + len(values)] = values

    return damage


ENDLESS = put(FIRST_OBJECT, HEADER.pack(0, 0))
"""The library walks over an object without size for ever."""
LARGER = put(FIRST_OBJECT + 8, struct.pack("<Q", 2**40))
SMALLER = put(FIRST_OBJECT + 8, struct.pack("<Q", 8))
OTHER_NUMBER = put(FIRST_OBJECT, struct.pack("<H", 999))
DAMAGES = {"endless": ENDLESS, "larger": LARGER, "smaller": SMALLER, "other number": OTHER_NUMBER}
HEAP_DAMAGES = DAMAGES | {
    "signature": put(0, b"GCOM"),
    "size": put(8, struct.pack("<Q", 2**60)),
    "no size": put(8, struct.pack("<Q", 0)),
}


@pytest.mark.parametrize("name", HEAP_DAMAGES)
def test_damaged_rows_of_variable_length(name: str, tmp_path: Path) -> None:
    root = test_minari.copy_of("toy-hdf5-v0", tmp_path)
    content = bytearray((root / MAIN).read_bytes())
    for collection in collections(content):
        HEAP_DAMAGES[name](content, collection)
    (root / MAIN).write_bytes(content)
    with pytest.raises(
        DemonstrationError,
        match=r"episode_0: (the heap collection at byte \d+ is damaged|row 0 of observations/camera is not where)",
    ):
        read_dataset(root)


def test_collections_that_overlap_are_refused(tmp_path: Path) -> None:
    """Reading each of them as far as it claims would take time that grows with the square of the file."""
    root = test_minari.copy_of("toy-hdf5-v0", tmp_path)
    content = bytearray((root / MAIN).read_bytes())
    for collection in collections(content):
        content[collection + 8 : collection + 16] = struct.pack("<Q", len(content) - collection)
    (root / MAIN).write_bytes(content)
    with pytest.raises(DemonstrationError, match=r"the heap collection at byte .* is damaged"):
        read_dataset(root)


def test_compressed_references_are_refused(tmp_path: Path) -> None:
    root = test_minari.copy_of("toy-hdf5-v0", tmp_path)
    with h5py.File(root / MAIN, "r+") as file:
        rows = file["episode_0/observations/camera"][()]
        del file["episode_0/observations/camera"]
        dtype = h5py.vlen_dtype(np.uint8)
        file["episode_0/observations"].create_dataset(
            "camera", data=rows, dtype=dtype, chunks=(13,), compression="gzip"
        )
    with pytest.raises(DemonstrationError, match="observations/camera is compressed or not in chunks"):
        read_dataset(root)


def largest_child() -> int:
    """The memory of the largest process that this one has started and waited for, in kilobytes."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_text_attribute(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_attribute, "PROCESSOR_SECONDS", 1)
    path = test_robomimic.copy_to(tmp_path)
    content = bytearray(path.read_bytes())
    DAMAGES[name](content, collections(content)[-1])  # that of `env_args`; the others hold the models
    path.write_bytes(content)
    before = largest_child()
    with pytest.raises(DemonstrationError, match="the attribute env_args of data cannot be read: copy or record the"):
        read_dataset(path, wanted=test_robomimic.SPEC)
    assert largest_child() <= max(before, 10**6)


def test_a_text_attribute_that_is_too_long(tmp_path: Path) -> None:
    path = test_robomimic.describe(test_robomimic.copy_to(tmp_path), "x" * 100_001)
    with pytest.raises(DemonstrationError, match="the attribute env_args of data is not a text of at most 100,000"):
        read_dataset(path, wanted=test_robomimic.SPEC)


def test_a_flipped_bit_or_a_missing_end_never_crashes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Reading the attribute takes a process; how it fails is tested above.
    monkeypatch.setattr(text_attribute, "text_attribute", lambda path, group, name: None)
    minari, robomimic = test_minari.copy_of("toy-hdf5-v0", tmp_path), test_robomimic.copy_to(tmp_path)
    for file, root, format in (
        (minari / MAIN, minari, "minari"),
        (minari / "data/metadata.json", minari, "minari"),
        (robomimic, robomimic, "robomimic"),
    ):
        content, rng = file.read_bytes(), random.Random(0)
        damaged = [content[: rng.randrange(len(content))] for _ in range(5)]
        damaged += [flip(content, rng) for _ in range(15)]
        heaps = collections(content)
        for _ in range(20 if heaps else 0):  # the bits of collections are few, but most dangerous
            place = rng.choice(heaps) + rng.randrange(FIRST_OBJECT + HEADER.size)
            damaged.append(content[:place] + rng.randbytes(1) + content[place + 1 :])
        refused = 0
        for one in damaged:
            file.write_bytes(one)
            try:
                read_dataset(root, format=format)
            except DemonstrationError as error:
                assert "\n" not in str(error) and "Reader fails" not in str(error), error
                refused += 1
        file.write_bytes(content)
        assert refused >= 5  # the missing ends
