"""The reader of LeRobot datasets. `docs/how-to/lerobot.md` describes what is read and what is assumed."""

from __future__ import annotations

from pathlib import Path

from softflow.data.demonstrations import Dataset
from softflow.data.part_names import RecordedParts
from softflow.data.readers import DatasetReader
from softflow.formats.lerobot.info import read_info
from softflow.formats.lerobot.task import recorded_parts
from softflow.task import TaskSpec


class LeRobotReader(DatasetReader):
    """Reads the folders that LeRobot writes, of the versions 2.0, 2.1 and 3.0, with images or videos.

    LeRobot stores no observation after the last action, so the last one is used twice. Rewards are those of
    `next.reward`, or 0. An episode succeeded if the last value of `next.success` is True (or any, for a task whose
    success rule is `any`); without this column, nothing says that it did, and `is_success` is False.

    The end of an episode is read from `next.terminated` and `next.truncated` where they exist. LeRobot's own
    `next.done` does not tell a terminal state from a time limit: an episode that is done counts as terminated, unless
    `next.truncated` or a missing success says that it was cut off. Without `next.done`, an episode that succeeded is
    terminated. Any other recording just stopped, and is truncated.
    """

    SIGN = "a folder with meta/info.json"

    def recognizes(self, path: Path) -> bool:
        return (path / "meta" / "info.json").is_file()

    def recorded_parts(self, path: Path) -> RecordedParts:
        return recorded_parts(read_info(path))

    def read(self, path: Path, wanted: TaskSpec | None = None) -> Dataset:
        """See `DatasetReader.read`. Without a task, it is the one with which softflow wrote the dataset.

        If softflow did not write it, the bounds of actions are the extremes in `meta/stats.json`.
        """
        from softflow.formats.lerobot.episodes import read_episodes  # here, because it needs pyarrow and av

        return read_episodes(path, wanted)
