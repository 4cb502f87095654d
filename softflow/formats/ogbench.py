"""The reader of OGBench's datasets. `docs/how-to/datasets.md` describes what is read and what is assumed."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from softflow.console import remark
from softflow.data.archive import VERSION, read_foreign_arrays
from softflow.data.demonstrations import Dataset
from softflow.data.episodes import Episode
from softflow.data.native import actions_of
from softflow.data.ogbench import ogbench_episodes
from softflow.data.part_names import RecordedParts
from softflow.data.readers import DatasetReader
from softflow.formats.flat import recorded_whole, require_flags, require_rows, task_of
from softflow.task import TaskSpec

REQUIRED = ("observations", "actions", "terminals")
FOLLOWING, MASKS, COMPACT = "next_observations", "masks", "valids"


class OGBenchReader(DatasetReader):
    """Reads the .npz files of OGBench, and the arrays that `ogbench.make_env_and_datasets` returns, saved by numpy.

    In OGBench's own files the last row of a recording, where `terminals` is 1, is its final observation, and the action
    there was never executed. In the arrays that were loaded, `next_observations` holds the final one.

    Single-task arrays have `masks`, which are 0 where a step starts in a solved state. `ogbench_episodes` cuts the
    recordings there: an episode that solves the task is terminated and a success, with reward 1 at its end. Their own
    rewards, such as -1 per step, are not read. Play data has no task: every recording is one truncated episode without
    reward, and no success.
    """

    SIGN = "an .npz file with observations, actions and terminals"

    def recognizes(self, path: Path) -> bool:
        if not path.is_file() or not zipfile.is_zipfile(path):
            return False
        with zipfile.ZipFile(path) as archive:
            names = set(archive.namelist())
        return {f"{name}.npy" for name in REQUIRED} <= names and f"{VERSION}.npy" not in names

    def recorded_parts(self, path: Path) -> RecordedParts:
        return recorded_whole(read_foreign_arrays(path, REQUIRED).get("observations"))

    def read(self, path: Path, wanted: TaskSpec | None = None) -> Dataset:
        """See `DatasetReader.read`. Without a task, the bounds of actions are -1 and 1, as in all of OGBench."""
        arrays = read_foreign_arrays(path, (*REQUIRED, FOLLOWING, MASKS, COMPACT))
        if missing := [name for name in REQUIRED if name not in arrays]:
            raise ValueError(f"there is no {', '.join(missing)}: OGBench's datasets have {', '.join(REQUIRED)}")
        if COMPACT in arrays:
            raise ValueError("it was loaded with compact_dataset: load it without, and save it again")
        if MASKS not in arrays:
            _require_play(path, has_following=FOLLOWING in arrays)
        require_rows(arrays)
        task = task_of(path, arrays["observations"], arrays["actions"], wanted)
        arrays |= {name: require_flags(name, arrays[name]) for name in ("terminals", MASKS) if name in arrays}
        if FOLLOWING not in arrays:
            arrays = _transitions(arrays)
        elif arrays[FOLLOWING].shape != arrays["observations"].shape:
            raise ValueError(
                f"{FOLLOWING} has the shape {arrays[FOLLOWING].shape}, observations has {arrays['observations'].shape}"
            )
        for name in ("observations", FOLLOWING):
            arrays[name], _ = task.rows({task.observation[0].name: arrays[name]})
        arrays["actions"] = actions_of(task, arrays["actions"])
        if MASKS in arrays:
            episodes = ogbench_episodes(arrays, task)
            solved = sum(episode.is_success for episode in episodes)
            remark(f"{path}: {solved} of {len(episodes)} episodes end where {MASKS} is 0, with reward 1; all else is 0")
        else:
            episodes = _recordings(arrays, task)
            remark(f"{path}: there are no {MASKS} of a task, so {len(episodes)} recordings are read without reward")
        return Dataset(episodes, task)


def _require_play(path: Path, has_following: bool) -> None:
    """Refuse arrays without masks that OGBench's play data do not have, because their last row is no step."""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    others = ("timeouts",) if has_following else ("timeouts", "rewards")  # loaded arrays may have rewards
    if found := [name for name in others if f"{name}.npy" in names]:
        raise ValueError(
            f"it has {' and '.join(found)} but no {MASKS}, so it is not a dataset of OGBench: if its arrays are laid "
            "out as those of D4RL, save them in an HDF5 file (docs/how-to/datasets.md#d4rl)"
        )


def _transitions(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the steps of recordings whose last row is the final observation, as `ogbench.load_dataset` does."""
    terminals = arrays["terminals"]
    if not terminals[-1]:
        raise ValueError("terminals is 0 in the last row, so the last recording is not complete: copy the file again")
    if terminals[0] or (alone := terminals[1:] & terminals[:-1]).any():
        row = 0 if terminals[0] else int(alone.argmax()) + 1
        raise ValueError(f"the recording that starts at row {row} has no step: {FOLLOWING} is missing, or drop the row")
    steps = np.flatnonzero(~terminals)
    return {
        **{name: array[steps] for name, array in arrays.items()},
        FOLLOWING: arrays["observations"][steps + 1],
        "terminals": terminals[steps + 1],
    }


def _recordings(arrays: dict[str, np.ndarray], task: TaskSpec) -> list[Episode]:
    last = arrays["terminals"].copy()
    last[-1] = True
    ends = np.flatnonzero(last)
    return [
        Episode(
            observation=np.concatenate([arrays["observations"][begin : end + 1], arrays[FOLLOWING][end : end + 1]]),
            action=arrays["actions"][begin : end + 1],
            reward=np.zeros(end + 1 - begin, np.float32),
            terminated=False,
            truncated=True,
            is_success=False,
            layout=task.layout,
            task=task,
        )
        for begin, end in zip([0, *ends[:-1] + 1], ends, strict=True)
    ]
