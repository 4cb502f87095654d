"""The reader of Minari's datasets. `docs/how-to/datasets.md` describes what is read and what is assumed."""

from __future__ import annotations

from pathlib import Path

from softflow.data.demonstrations import Dataset
from softflow.data.part_names import RecordedParts
from softflow.data.readers import DatasetReader
from softflow.formats.minari.metadata import METADATA, data_folder, read_metadata
from softflow.task import TaskSpec

START = 4096
"""Bytes of `metadata.json` that tell it from other files of this name."""


class MinariReader(DatasetReader):
    """Reads the folders of Minari 0.5 that store HDF5, with plain or JPEG-encoded images.

    The observations and the bounds of actions are those of the spaces in `metadata.json`.

    The last values of `terminations` and `truncations` say how an episode ended. If both are 0, it was cut off. A
    terminal state may be a fall as well as a success. An episode succeeded if the last value of `infos/is_success` or
    `infos/success` is 1 (or any, for a task whose success rule is `any`). Without these arrays, a reward of 1 takes
    their place if all rewards of the dataset are 0 or 1 and both occur. Otherwise no episode is known as a success.
    """

    SIGN = "a folder with data/metadata.json"

    def recognizes(self, path: Path) -> bool:
        described = data_folder(path) / METADATA
        if not described.is_file():
            return False
        with described.open("rb") as start:
            return b'"total_episodes"' in start.read(START)

    def recorded_parts(self, path: Path) -> RecordedParts:
        observed = read_metadata(data_folder(path), is_task_known=True).observed
        return RecordedParts(tuple(stored.part for stored in observed.values()))

    def read(self, path: Path, wanted: TaskSpec | None = None) -> Dataset:
        """See `DatasetReader.read`. The path is the folder of the dataset, or the folder `data` in it."""
        from softflow.formats.minari.episodes import read_episodes  # here, because it needs h5py and pillow

        return read_episodes(path, wanted)
