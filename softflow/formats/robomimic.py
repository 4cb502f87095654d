"""The reader of robomimic's datasets. `docs/how-to/datasets.md` describes what is read and what is assumed."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from softflow.console import remark
from softflow.data.damage import reading_episode
from softflow.data.demonstrations import Dataset
from softflow.data.episodes import Episode
from softflow.data.part_names import RecordedParts
from softflow.data.readers import DatasetReader
from softflow.errors import one_line
from softflow.formats.flat import (
    BOUNDS_ASSUMED,
    MOST_CHANNELS,
    action_parts,
    finite_column,
    require_flags,
    solved_steps,
)
from softflow.formats.parts import Observed, arranged, known_rate, observed_parts
from softflow.formats.room import take_room
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

    SIGN = "an HDF5 file with data/demo_0"

    def recognizes(self, path: Path) -> bool:
        if not is_hdf5(path):
            return False
        from softflow.formats.hdf5 import names_in, open_hdf5  # here, because it needs h5py

        with open_hdf5(path) as file:
            return any(name.startswith(DEMONSTRATION) for name in names_in(file, "data"))

    def recorded_parts(self, path: Path) -> RecordedParts:
        from softflow.formats.hdf5 import names_in, open_hdf5

        with open_hdf5(path) as file:
            recorded, _ = _recorded(file, _demonstrations(names_in(file, "data"))[0], ())
            return RecordedParts(tuple(recorded.values()))

    def read(self, path: Path, wanted: TaskSpec | None = None) -> Dataset:
        """See `DatasetReader.read`. Without a task, the bounds of actions are -1 and 1."""
        from softflow.formats.hdf5 import names_in, open_hdf5, require_modest

        with open_hdf5(path) as file:
            demonstrations = _demonstrations(names_in(file, "data"))
            parts = wanted.observation if wanted is not None else None
            recorded, no_numbers = _recorded(file, demonstrations[0], [part.name for part in parts or ()])
            observed = observed_parts(list(recorded.values()), parts)
            found: dict[str, dict[str, h5py.Dataset]] = {}
            for name in demonstrations:
                with reading_episode(f"data/{name}"):
                    found[name] = _found(file, name, observed)
            _require_some(found)
            _require_same_columns(found)
            require_modest(path, [array for arrays in found.values() for array in arrays.values()])
            assumed = list(observed.assumptions)
            if wanted is None:
                assumed += [f"{OBSERVATIONS}/{name} is not made of numbers and is left out" for name in no_numbers]
                _require_known_axes(recorded.values())
                assumed.append(BOUNDS_ASSUMED)
            if filters := names_in(file, "mask"):
                assumed.append(f"all demonstrations are read, the filter keys {', '.join(filters)} are not used")
            steps = dict[str, _Steps]()
            for name, arrays in found.items():
                with reading_episode(f"data/{name}"):
                    steps[name] = _steps(path, arrays, wanted)
            _require_some(steps)
            task = _task(path, next(iter(steps.values())).actions, observed, wanted)
            solved = _solved(steps, assumed)
            take_room(path, task, [len(one.actions) for one in steps.values()])
            episodes = []
            for name, succeeded in zip(steps, solved, strict=True):
                with reading_episode(f"data/{name}"):
                    observations = _observations(path, found[name], recorded, observed)
                    episodes.append(_episode(task, observations, steps[name], succeeded))
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


def _recorded(
    file: h5py.File, demonstration: str, wanted: Collection[str]
) -> tuple[dict[str, ObservationPart], list[str]]:
    """Describe the observations of a demonstration by their names.

    Those that are not made of numbers, such as texts, are left out and returned by name, unless they are `wanted`.
    """
    from softflow.formats.hdf5 import find_array, holds_numbers, names_in

    group = f"data/{demonstration}/{OBSERVATIONS}"
    recorded, left_out = dict[str, ObservationPart](), list[str]()
    for name in names_in(file, group):
        if name not in wanted and not holds_numbers(file, f"{group}/{name}"):
            left_out.append(name)
            continue
        array = find_array(file, f"{group}/{name}")
        if array is None:
            raise ValueError(f"{group}/{name} cannot be read: copy or record the file again")
        shape = array.shape[1:]
        is_image = array.dtype == np.uint8 and len(shape) == 3 and shape[-1] <= MOST_CHANNELS
        recorded[name] = ObservationPart(name, shape, array.dtype.name, axes="HWC" if is_image else None)
    if not recorded:
        raise ValueError(
            f"there is no {group}: let robomimic's dataset_states_to_obs.py extract the observations from the states"
        )
    return recorded, left_out


def _require_known_axes(recorded: Iterable[ObservationPart]) -> None:
    """Refuse bytes along two or more axes that may be an image."""
    for part in recorded:
        if part.dtype == "uint8" and len(part.shape) > 1 and not part.is_image:
            raise ValueError(
                f"{OBSERVATIONS}/{part.name} is uint8 of shape {part.shape}, and it is not known which axes are an "
                "image's height and width: name the environment, which says so"
            )


def _found(file: h5py.File, demonstration: str, observed: Observed) -> dict[str, h5py.Dataset]:
    """Return the arrays of a demonstration that are read and exist, by their names in its group."""
    from softflow.formats.hdf5 import find_array

    observations = [f"{OBSERVATIONS}/{stored}" for stored in observed.stored.values()]
    following = [f"{FOLLOWING}/{stored}" for stored in observed.stored.values()]
    names = (*observations, *following, ACTIONS, REWARDS, DONES)
    found = {name: find_array(file, f"data/{demonstration}/{name}") for name in names}
    if missing := [name for name in (*observations, ACTIONS) if found[name] is None]:
        raise ValueError(f"it has no {', '.join(missing)}: extract the observations again")
    return {name: array for name, array in found.items() if array is not None}


def _require_some(whole: Collection[str]) -> None:
    """Raise `ValueError` if no demonstration is left, because all of them are damaged."""
    if not whole:
        raise ValueError("every demonstration is damaged")


def _require_same_columns(found: Mapping[str, Mapping[str, Any]]) -> None:
    first, *others = found
    for other in others:
        if different := sorted(found[first].keys() ^ found[other].keys()):
            raise ValueError(
                f"only one of data/{first} and data/{other} has {', '.join(different)}: extract both in the same way"
            )


class _Steps(NamedTuple):
    """What a demonstration of T steps says about them, apart from observations."""

    actions: np.ndarray
    """(T, A)"""
    rewards: np.ndarray | None
    """(T,)"""
    dones: np.ndarray | None
    """(T,)"""


def _steps(path: Path, arrays: Mapping[str, h5py.Dataset], wanted: TaskSpec | None) -> _Steps:
    from softflow.formats.hdf5 import read_arrays

    read = read_arrays(path, {name: arrays[name] for name in (ACTIONS, REWARDS, DONES) if name in arrays})
    action_parts(read[ACTIONS], wanted)
    rewards = finite_column(REWARDS, read[REWARDS]) if REWARDS in read else None
    dones = require_flags(DONES, read[DONES]) if DONES in read else None
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1 or not lengths[ACTIONS]:
        raise ValueError(f"the arrays hold different numbers of steps, or none: {lengths}")
    return _Steps(read[ACTIONS], rewards, dones)


def _task(path: Path, actions: np.ndarray, observed: Observed, wanted: TaskSpec | None) -> TaskSpec:
    from softflow.formats.text_attribute import text_attribute

    text = text_attribute(path, "data", ENVIRONMENT)
    name, rate = ("", None) if text is None else _environment(text)
    if wanted is None:
        return TaskSpec(observed.parts, action_parts(actions, None), rate, name=name)
    success = wanted.success if wanted.success == "any" else "last"
    task = replace(wanted, observation=observed.parts, rate=known_rate(path, rate, wanted), success=success)
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


def _solved(steps: Mapping[str, _Steps], assumed: list[str]) -> Sequence[np.ndarray | None]:
    """Return at which steps of each demonstration the task was solved, (T,). None if that is not known.

    Whatever the file does not say is appended to `assumed`.
    """
    if go_on := sum(one.dones is not None and bool(one.dones[:-1].any()) for one in steps.values()):
        assumed.append(f"{go_on} of {len(steps)} demonstrations go on after {DONES} is 1, and are read to their end")
    rewards = {f"data/{name}": one.rewards for name, one in steps.items() if one.rewards is not None}
    if not rewards:
        assumed.append(f"there are no {REWARDS}, so all are 0 and no episode is known as a success")
        return [None] * len(steps)
    solved = solved_steps(list(rewards.values()), "only rewards say what a success is", assumed, list(rewards))
    return solved if solved is not None else [None] * len(steps)


def _observations(
    path: Path, arrays: Mapping[str, h5py.Dataset], recorded: Mapping[str, ObservationPart], observed: Observed
) -> dict[str, np.ndarray]:
    """Read the parts of the observations of a demonstration, with the final one if it is stored."""
    from softflow.formats.hdf5 import read_arrays

    observations = {}
    for part in observed.parts:
        stored = observed.stored[part.name]
        rows = list(read_arrays(path, {stored: arrays[f"{OBSERVATIONS}/{stored}"]}).values())
        if (following := arrays.get(f"{FOLLOWING}/{stored}")) is not None:
            rows += read_arrays(path, {stored: following}, rows=np.s_[-1:]).values()
        observations[part.name] = np.concatenate([arranged(one, recorded[stored], part) for one in rows])
    return observations


def _episode(
    task: TaskSpec, observations: Mapping[str, np.ndarray], steps: _Steps, solved: np.ndarray | None
) -> Episode:
    count = len(steps.actions)
    is_solved = solved is not None and bool(solved[-1])
    terminated = is_solved if steps.dones is None else bool(steps.dones[-1]) and (is_solved or solved is None)
    return Episode.from_native(
        task,
        observations,
        steps.actions,
        steps.rewards if steps.rewards is not None else np.zeros(count, np.float32),
        terminated=terminated,
        truncated=not terminated,
        is_success=solved is not None and bool(solved.any()) if task.success == "any" else is_solved,
        final_observation_missing=all(len(rows) == count for rows in observations.values()),
        solved=solved,
    )
