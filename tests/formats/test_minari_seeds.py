"""The seeds of episodes in Minari's datasets."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from softflow.data import read_dataset

GENUINE = Path(__file__).resolve().parents[1] / "data" / "formats" / "minari"


@pytest.mark.parametrize(
    ("stored", "seed"),
    [(2**63 - 1, 2**63 - 1), (np.uint64(2**63), None), (-1, None), ("None", None), (1.0, None), ([1, 2], None)],
)
def test_only_what_can_be_a_seed_is_one(stored: Any, seed: int | None, tmp_path: Path) -> None:
    path = Path(shutil.copytree(GENUINE / "toy-hdf5-v0", tmp_path / "toy"))
    with h5py.File(path / "data/main_data.hdf5", "a") as file:
        file["episode_1"].attrs["seed"] = stored
        del file["episode_2"].attrs["seed"]
    assert [episode.seed for episode in read_dataset(path).episodes] == [0, seed, None]


def test_the_seeds_that_minari_wrote_are_read() -> None:
    assert [episode.seed for episode in read_dataset(GENUINE / "toy-hdf5-v0").episodes] == [0, 1, 2]
