"""The reader of robomimic's datasets. `docs/your-data.md` describes what is read and what is assumed."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from softflow.console import remark
from softflow.data.demonstrations import Dataset
from softflow.data.episodes import Episode
from softflow.data.readers import DatasetReader
from softflow.errors import one_line
from softflow.formats.flat import (
    BOUNDS_ASSUMED,
    MOST_CHANNELS,
    action_parts,
    column,
    require_flags,
    solved_steps,
)
from softflow.formats.parts import Observed, arranged, observed_parts
from softflow.formats.signature import is_hdf5
from softflow.task import ObservationPart, TaskSpec

if TYPE_CHECKING:
    import h5py

DEMONSTRATION = "demo_"
OBSERVATIONS, FOLLOWING, ACTIONS, REWARDS, DONES = "obs", "next_obs", "actions", "rewards", "dones"
ENVIRONMENT = "env_args"


class RobomimicReader(DatasetReader):
    """Reads the HDF5 files of robomimic, in which each demonstration is a group `data/demo_N`.

    All demonstrations are read, in the order of their numbers; filter keys are not used. The last observation is that
    of `next_obs`. Without this group it is missing, and the one before it is used twice.

    If all rewards of the file are 0 or 1 and both occur, as with robosuite's sparse rewards, an episode succeeded if
    its last reward is 1 (or any, for a task whose success rule is `any`). Otherwise no episode is known as a success.
    `dones` is 1 at the end of every demonstration, at every success, or both, as its `done_mode` was. So an episode
    terminated if its last value is 1, unless the rewards say that the task was not solved there.
    """

    def recognizes(self, path: Path) -> bool:
        if not is_hdf5(path):
            return False
        from softflow.formats.hdf5 import names_in, open_hdf5  # here, because it needs h5py

        with open_hdf5(path) as file:
            return any(name.startswith(DEMONSTRATION) for name in names_in(file, "data"))

    def read(self, path: Path, wanted: TaskSpec | None = None) -> Dataset:
        """See `DatasetReader.read`. Without a task, the bounds of actions are -1 and 1."""
        from softflow.formats.hdf5 import names_in, open_hdf5, read_arrays, require_modest

        with open_hdf5(path) as file:
            demonstrations = _demonstrations(names_in(file, "data"))
            recorded = _recorded(file, demonstrations[0])
            observed = observed_parts(list(recorded.values()), wanted.observation if wanted is not None else None)
            found = {name: _found(file, name, observed) for name in demonstrations}
            _require_same_columns(found)
            require_modest(path, [array for arrays in found.values() for array in arrays.values()])
            read = {name: read_arrays(path, arrays) for name, arrays in found.items()}
            filters = names_in(file, "mask")
        assumed = list(observed.assumptions)
        task = _task(path, read, observed, wanted)
        if wanted is None:
            assumed.append(BOUNDS_ASSUMED)
        if filters:
            assumed.append(f"all demonstrations are read, the filter keys {', '.join(filters)} are not used")
        episodes = _episodes(read, recorded, observed, task, assumed)
        for line in assumed:
            remark(f"{path}: {line}")
        return Dataset(episodes, task)


def _demonstrations(names: list[str]) -> list[str]:
    """Return the names of the demonstrations in the order of their numbers."""
    for name in names:
        number = name.removeprefix(DEMONSTRATION)
        if number == name or not number.isascii() or not number.isdigit():
            raise ValueError(f"data/{name} is not a demonstration: name them data/{DEMONSTRATION}0, ...1 and so on")
    if not names:
        raise ValueError(f"there is no data/{DEMONSTRATION}0")
    return sorted(names, key=lambda name: (int(name.removeprefix(DEMONSTRATION)), name))


def _recorded(file: h5py.File, demonstration: str) -> dict[str, ObservationPart]:
    """Describe the observations of a demonstration by their names."""
    from softflow.formats.hdf5 import find_array, names_in

    group = f"data/{demonstration}/{OBSERVATIONS}"
    recorded = {}
    for name in names_in(file, group):
        array = find_array(file, f"{group}/{name}")
        assert array is not None
        shape = array.shape[1:]
        is_image = array.dtype == np.uint8 and len(shape) == 3 and shape[-1] <= MOST_CHANNELS
        recorded[name] = ObservationPart(name, shape, array.dtype.name, axes="HWC" if is_image else None)
    if not recorded:
        raise ValueError(
            f"there is no {group}: let robomimic's dataset_states_to_obs.py extract the observations from the states"
        )
    return recorded


def _found(file: h5py.File, demonstration: str, observed: Observed) -> dict[str, h5py.Dataset]:
    """Return the arrays of a demonstration that are read and exist, by their names in its group."""
    from softflow.formats.hdf5 import find_array

    observations = [f"{OBSERVATIONS}/{stored}" for stored in observed.stored.values()]
    following = [f"{FOLLOWING}/{stored}" for stored in observed.stored.values()]
    names = (*observations, *following, ACTIONS, REWARDS, DONES)
    found = {name: find_array(file, f"data/{demonstration}/{name}") for name in names}
    if missing := [name for name in (*observations, ACTIONS) if found[name] is None]:
        raise ValueError(f"data/{demonstration} has no {', '.join(missing)}: extract the observations again")
    return {name: array for name, array in found.items() if array is not None}


def _require_same_columns(found: Mapping[str, Mapping[str, Any]]) -> None:
    first, *others = found
    for other in others:
        if different := sorted(found[first].keys() ^ found[other].keys()):
            raise ValueError(
                f"only one of data/{first} and data/{other} has {', '.join(different)}: extract both in the same way"
            )


def _task(
    path: Path, read: Mapping[str, Mapping[str, np.ndarray]], observed: Observed, wanted: TaskSpec | None
) -> TaskSpec:
    from softflow.formats.text_attribute import text_attribute

    for demonstration, arrays in read.items():
        try:
            actions = action_parts(arrays[ACTIONS], wanted)
        except ValueError as error:
            raise ValueError(f"data/{demonstration}: {error}") from error
    text = text_attribute(path, "data", ENVIRONMENT)
    name, rate = ("", None) if text is None else _environment(text)
    if wanted is None:
        return TaskSpec(observed.parts, actions, rate, name=name)
    success = wanted.success if wanted.success == "any" else "last"
    task = replace(wanted, observation=observed.parts, rate=rate, success=success)
    replace(wanted, rate=None).require_same(task, str(path))
    return task


def _environment(text: str) -> tuple[str, float | None]:
    """Return the name of the environment and its control rate in hertz, None if it is not stored."""
    try:
        described = json.loads(text)
        name, rate = described["env_name"], described.get("env_kwargs", {}).get("control_freq")
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"the attribute {ENVIRONMENT} of data does not describe it ({one_line(error)})") from error
    is_rate = isinstance(rate, int | float) and 0 < rate < math.inf
    if not isinstance(name, str) or not (rate is None or is_rate):
        raise ValueError(f"the attribute {ENVIRONMENT} of data has the environment {name!r} with {rate!r} Hz")
    return name, rate


class _Labels(NamedTuple):
    """What a demonstration of T steps says about them, (T,) each."""

    rewards: np.ndarray
    dones: np.ndarray | None


def _episodes(
    read: Mapping[str, Mapping[str, np.ndarray]],
    recorded: Mapping[str, ObservationPart],
    observed: Observed,
    task: TaskSpec,
    assumed: list[str],
) -> list[Episode]:
    """Make episodes of the demonstrations, and append whatever the file does not say to `assumed`."""
    labels = {name: _labels(name, arrays) for name, arrays in read.items()}
    has_rewards = any(REWARDS in arrays for arrays in read.values())
    unknown = "only rewards say what a success is" if has_rewards else f"there are no {REWARDS}, and all are set to 0"
    solved = solved_steps([one.rewards for one in labels.values()], unknown, assumed)
    if go_on := sum(one.dones is not None and bool(one.dones[:-1].any()) for one in labels.values()):
        assumed.append(f"{go_on} of {len(labels)} demonstrations go on after {DONES} is 1, and are read to their end")
    episodes = []
    for index, (name, arrays) in enumerate(read.items()):
        steps = solved[index] if solved is not None else None
        try:
            episodes.append(_episode(arrays, recorded, observed, task, labels[name], steps))
        except ValueError as error:
            raise ValueError(f"data/{name}: {error}") from error
    return episodes


def _labels(demonstration: str, arrays: Mapping[str, np.ndarray]) -> _Labels:
    steps = len(arrays[ACTIONS])
    try:
        rewards = column(REWARDS, arrays[REWARDS]) if REWARDS in arrays else np.zeros(steps, np.float32)
        dones = require_flags(DONES, arrays[DONES]) if DONES in arrays else None
        lengths = {name: len(array) for name, array in arrays.items()}
        if set(lengths.values()) != {steps} or not steps:
            raise ValueError(f"the arrays hold different numbers of steps, or none: {lengths}")
    except ValueError as error:
        raise ValueError(f"data/{demonstration}: {error}") from error
    return _Labels(rewards, dones)


def _episode(
    arrays: Mapping[str, np.ndarray],
    recorded: Mapping[str, ObservationPart],
    observed: Observed,
    task: TaskSpec,
    labels: _Labels,
    solved: np.ndarray | None,
) -> Episode:
    observations = {}
    has_following = any(name.startswith(FOLLOWING) for name in arrays)
    for part in observed.parts:
        stored = observed.stored[part.name]
        rows = arranged(arrays[f"{OBSERVATIONS}/{stored}"], recorded[stored], part)
        if has_following:
            final = arranged(arrays[f"{FOLLOWING}/{stored}"][-1:], recorded[stored], part)
            rows = np.concatenate([rows, final])
        observations[part.name] = rows
    is_solved = solved is not None and bool(solved[-1])
    terminated = is_solved if labels.dones is None else bool(labels.dones[-1]) and (is_solved or solved is None)
    return Episode.from_native(
        task,
        observations,
        arrays[ACTIONS],
        labels.rewards,
        terminated=terminated,
        truncated=not terminated,
        is_success=solved is not None and bool(solved.any()) if task.success == "any" else is_solved,
        final_observation_missing=not has_following,
    )
