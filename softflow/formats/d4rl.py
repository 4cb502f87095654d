"""The reader of D4RL's datasets. `docs/how-to/datasets.md` describes what is read and what is assumed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from softflow.console import remark
from softflow.data.damage import reading_episode
from softflow.data.demonstrations import Dataset
from softflow.data.episodes import Episode
from softflow.data.part_names import RecordedParts
from softflow.data.readers import DatasetReader
from softflow.formats.flat import (
    BOUNDS_ASSUMED,
    SUCCESS,
    column,
    recorded_whole,
    require_flags,
    require_rows,
    solved_steps,
    task_of,
)
from softflow.formats.signature import is_hdf5
from softflow.task import TaskSpec

REQUIRED = ("observations", "actions", "rewards", "terminals")
TIMEOUTS, FOLLOWING = "timeouts", "next_observations"
SAME = 1e-5
"""How far two observations may differ by rounding to count as one."""
BATCH = 2**16
"""Rows that are compared at once."""


class D4RLReader(DatasetReader):
    """Reads HDF5 files in the layout of D4RL: one array each for all steps of all episodes.

    A step with `terminals` ends an episode in a terminal state. One with `timeouts` cuts an episode off, and so does
    the end of the file, or a row of `next_observations` that is not the next row of `observations`.

    The last observation of an episode is that of `next_observations`. Without this array it is missing, and the one
    before it is used twice. A terminal state in D4RL may be a fall as well as a success. An episode succeeded if the
    last value of `infos/is_success` or `infos/success` is 1 (or any, for a task whose success rule is `any`). Without
    these arrays, a reward of 1 takes their place if all rewards of the file are 0 or 1 and both occur. Otherwise no
    episode is known as a success.
    """

    SIGN = "an HDF5 file with observations and actions"

    def recognizes(self, path: Path) -> bool:
        if not is_hdf5(path):
            return False
        from softflow.formats.hdf5 import open_hdf5  # here, because it needs h5py

        with open_hdf5(path) as file:
            return {"observations", "actions"} <= set(file)

    def recorded_parts(self, path: Path) -> RecordedParts:
        from softflow.formats.hdf5 import find_array, open_hdf5

        with open_hdf5(path) as file:
            return recorded_whole(find_array(file, "observations"))

    def read(self, path: Path, wanted: TaskSpec | None = None) -> Dataset:
        """See `DatasetReader.read`. Without a task, the bounds of actions are -1 and 1."""
        arrays = _read(path)
        require_rows(arrays)
        task = task_of(path, arrays["observations"], arrays["actions"], wanted)
        assumed: list[str] = []
        if wanted is None:
            assumed.append(BOUNDS_ASSUMED)
        episodes = _episodes(arrays, task, assumed)
        for line in assumed:
            remark(f"{path}: {line}")
        return Dataset(episodes, task)


def _read(path: Path) -> dict[str, np.ndarray]:
    from softflow.formats.hdf5 import find_array, open_hdf5, read_arrays

    with open_hdf5(path) as file:
        found = {name: find_array(file, name) for name in (*REQUIRED, TIMEOUTS, FOLLOWING, *SUCCESS)}
        if missing := [name for name in REQUIRED if found[name] is None]:
            raise ValueError(f"there is no {', '.join(missing)}: D4RL's datasets have {', '.join(REQUIRED)}")
        return read_arrays(path, {name: array for name, array in found.items() if array is not None})


def _episodes(arrays: Mapping[str, np.ndarray], task: TaskSpec, assumed: list[str]) -> list[Episode]:
    """Cut the arrays into episodes, and append whatever the file does not say to `assumed`."""
    observations, following = arrays["observations"], arrays.get(FOLLOWING)
    rewards, terminals = column("rewards", arrays["rewards"]), require_flags("terminals", arrays["terminals"])
    reached = _reached(arrays, rewards, assumed)
    ends = np.flatnonzero(_ends(arrays, terminals, assumed))
    episodes = []
    for index, (begin, end) in enumerate(zip([0, *ends[:-1] + 1], ends, strict=True)):
        steps = slice(begin, end + 1)
        observed = observations[steps]
        if following is not None:
            observed = np.concatenate([observed, following[end : end + 1]])
        with reading_episode(f"episode {index}, which starts at step {begin}"):
            episodes.append(
                Episode.from_native(
                    task,
                    {task.observation[0].name: observed},
                    arrays["actions"][steps],
                    rewards[steps],
                    terminated=bool(terminals[end]),
                    truncated=not terminals[end],
                    is_success=bool(reached[steps].any() if task.success == "any" else reached[end]),
                    final_observation_missing=following is None,
                    solved=reached[steps],
                )
            )
    return episodes


def _ends(arrays: Mapping[str, np.ndarray], terminals: np.ndarray, assumed: list[str]) -> np.ndarray:
    """Return which steps end an episode, (N,)."""
    ends = terminals.copy()
    if TIMEOUTS in arrays:
        ends |= require_flags(TIMEOUTS, arrays[TIMEOUTS])
    elif FOLLOWING not in arrays:
        if not terminals.any():
            raise ValueError(
                f"nothing says where an episode ends: add {TIMEOUTS}, 1 at the last step of each episode that was cut "
                "off"
            )
        assumed.append(f"there are no {TIMEOUTS}, so an episode ends only where terminals is 1")
    ends[-1] = True
    if FOLLOWING in arrays:
        broken = _breaks(arrays["observations"], arrays[FOLLOWING]) & ~ends[:-1]
        ends[:-1] |= broken
        if broken.any():
            assumed.append(
                f"{broken.sum()} of {ends.sum()} episodes are cut off because {FOLLOWING} is not the next row of "
                f"observations, first at step {broken.argmax()}"
            )
    return ends


def _breaks(observations: np.ndarray, following: np.ndarray) -> np.ndarray:
    """Return which steps, except the last one, are not followed by the observation that they led to, (N - 1,)."""
    if observations.shape != following.shape:
        raise ValueError(f"{FOLLOWING} has the shape {following.shape}, observations has {observations.shape}")
    broken = np.zeros(len(observations) - 1, np.bool_)
    for start in range(0, len(broken), BATCH):
        stop = min(start + BATCH, len(broken))
        expected, got = following[start:stop].astype(np.float32), observations[start + 1 : stop + 1].astype(np.float32)
        broken[start:stop] = (np.abs(got - expected) > SAME).reshape(stop - start, -1).any(1)
    return broken


def _reached(arrays: Mapping[str, np.ndarray], rewards: np.ndarray, assumed: list[str]) -> np.ndarray:
    """Return at which steps the task was solved, (N,)."""
    for name in SUCCESS:
        if name in arrays:
            return require_flags(name, arrays[name])
    solved = solved_steps([rewards], f"there is no {' or '.join(SUCCESS)}", assumed)
    return solved[0] if solved is not None else np.zeros(len(rewards), np.bool_)
