"""The episodes of a Minari dataset, from its HDF5 file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

from softflow.console import remark
from softflow.data.damage import reading_episode
from softflow.data.demonstrations import Dataset
from softflow.data.episodes import Episode
from softflow.data.native import MAY_BE_SCALED
from softflow.errors import one_line
from softflow.formats.flat import SUCCESS, finite_column, require_action_size, require_flags, solved_steps
from softflow.formats.hdf5 import find_array, find_bytes, names_in, open_hdf5, read_arrays, require_modest
from softflow.formats.minari.metadata import METADATA, Metadata, StoredPart, data_folder, read_metadata
from softflow.formats.parts import Observed, arranged, observed_parts
from softflow.formats.pictures import decoded
from softflow.formats.room import take_room
from softflow.formats.variable_length import VariableLengthRows, variable_length_rows
from softflow.task import TaskMismatch, TaskSpec

MAIN = Path("main_data.hdf5")
ACTIONS, REWARDS, TERMINATIONS, TRUNCATIONS = "actions", "rewards", "terminations", "truncations"
SEED = b"seed"
REQUIRED = (ACTIONS, REWARDS, TERMINATIONS, TRUNCATIONS)

Arrays = Mapping[str, h5py.Dataset]
"""The arrays of an episode that are read, by their names in its group."""


class _Labels(NamedTuple):
    """What an episode of T steps says about them, (T,) each."""

    rewards: np.ndarray
    terminations: np.ndarray
    truncations: np.ndarray
    success: np.ndarray | None


def read_episodes(path: Path, wanted: TaskSpec | None) -> Dataset:
    """Read all episodes of a dataset. See `MinariReader`.

    Raises:
        ValueError: The dataset is damaged, or its actions are not those of the task `wanted`.
        TaskMismatch: The observation is not that of `wanted`, or actions have other bounds.
    """
    folder = data_folder(path)
    metadata = read_metadata(folder, is_task_known=wanted is not None)
    recorded = [stored.part for stored in metadata.observed.values()]
    observed = observed_parts(recorded, wanted.observation if wanted is not None else None)
    assumed = [f"the observation {name!r} is not made of numbers and is left out" for name in metadata.left_out]
    assumed += observed.assumptions
    task = _task(path, metadata, observed, wanted, assumed)
    if not (folder / MAIN).is_file():
        raise ValueError(f"{MAIN} is missing: copy the dataset again")
    with open_hdf5(folder / MAIN) as file, variable_length_rows(folder / MAIN) as rows:
        found = _found(file, metadata, observed)
        _require_modest(folder / MAIN, found, metadata)
        labels = dict[str, _Labels]()
        for name, arrays in found.items():
            with reading_episode(name):
                labels[name] = _labels(folder / MAIN, arrays)
        reached = _reached(labels, assumed)
        take_room(path, task, [len(one.rewards) for one in labels.values()])
        episodes = []
        for name, said in labels.items():
            with reading_episode(name):
                arrays = found[name]
                observations = _observations(folder / MAIN, arrays, metadata, observed, rows)
                [actions] = read_arrays(folder / MAIN, {ACTIONS: arrays[ACTIONS]}).values()
                episode = _episode(task, observations, actions, said, reached[name])
                episodes.append(replace(episode, seed=_seed(file, name)))
    for line in assumed:  # last, because an error is one line
        remark(f"{path}: {line}")
    return Dataset(episodes, task)


def _task(path: Path, metadata: Metadata, observed: Observed, wanted: TaskSpec | None, assumed: list[str]) -> TaskSpec:
    if wanted is None:
        if metadata.action is None:
            raise ValueError(f"{METADATA} has no finite bounds of actions: name the environment, whose bounds are used")
        return TaskSpec(observed.parts, metadata.action, name=metadata.environment)
    require_action_size(metadata.action_size, wanted)
    if metadata.action is None:
        assumed.append("the bounds of actions are those of the task, because the dataset has no finite ones")
    success = wanted.success if wanted.success == "any" else "last"
    task = replace(wanted, observation=observed.parts, success=success)
    recorded = replace(task, action=metadata.action or task.action)
    try:
        wanted.require_same(recorded, str(path))
    except TaskMismatch as error:
        if _in_unit_bounds(recorded) and not _in_unit_bounds(wanted):
            raise TaskMismatch(f"{error}; {MAY_BE_SCALED}") from error
        raise
    return task


def _in_unit_bounds(task: TaskSpec) -> bool:
    return bool((task.low == -1).all() and (task.high == 1).all())


def _found(file: h5py.File, metadata: Metadata, observed: Observed) -> Mapping[str, Arrays]:
    """Return the arrays of each episode, by its name and in the order of its number."""
    names = names_in(file)
    if len(names) != metadata.episodes:
        raise ValueError(
            f"{METADATA} claims {metadata.episodes} episodes, {MAIN} has {len(names)}: copy or record the dataset again"
        )
    stored = [metadata.observed[name] for name in observed.stored.values()]
    found = {}
    for name in (f"episode_{index}" for index in range(metadata.episodes)):
        arrays = {one.place: (find_bytes if one.is_jpeg else find_array)(file, f"{name}/{one.place}") for one in stored}
        arrays |= {column: find_array(file, f"{name}/{column}") for column in (*REQUIRED, *SUCCESS)}
        if missing := [place for place, array in arrays.items() if array is None and place not in SUCCESS]:
            raise ValueError(f"{name} of {MAIN} has no {', '.join(missing)}: copy or record the dataset again")
        found[name] = {place: array for place, array in arrays.items() if array is not None}
    first, *others = found
    for name in others:
        if different := sorted(found[first].keys() ^ found[name].keys()):
            raise ValueError(f"only one of {first} and {name} has {', '.join(different)}: record it in both or neither")
    return found


def _require_modest(path: Path, found: Mapping[str, Arrays], metadata: Metadata) -> None:
    """Check how much memory the arrays and the decoded images need before anything is read."""
    jpeg = [stored for stored in metadata.observed.values() if stored.is_jpeg]
    pixels = sum(
        len(arrays[stored.place]) * stored.part.packed.size
        for arrays in found.values()
        for stored in jpeg
        if stored.place in arrays
    )
    require_modest(path, [array for arrays in found.values() for array in arrays.values()], more=pixels)


def _labels(path: Path, arrays: Arrays) -> _Labels:
    labels = [label for label in (REWARDS, TERMINATIONS, TRUNCATIONS, *SUCCESS) if label in arrays]
    read = read_arrays(path, {label: arrays[label] for label in labels})
    steps = len(arrays[ACTIONS])
    flags = {label: require_flags(label, read[label]) for label in labels if label != REWARDS}
    for label in SUCCESS:
        if len(flags.get(label, ())) == steps + 1:
            flags[label] = flags[label][1:]  # the first one is that of the reset
    lengths = {label: len(array) for label, array in {REWARDS: read[REWARDS], **flags}.items()}
    if set(lengths.values()) != {steps} or not steps:
        raise ValueError(f"there are {steps} {ACTIONS}, but {lengths}")
    success = next((flags[label] for label in SUCCESS if label in flags), None)
    return _Labels(finite_column(REWARDS, read[REWARDS]), flags[TERMINATIONS], flags[TRUNCATIONS], success)


def _reached(labels: Mapping[str, _Labels], assumed: list[str]) -> dict[str, np.ndarray]:
    """Return at which steps of each episode the task was solved, (T,)."""
    go_on = sum(bool(one.terminations[:-1].any() or one.truncations[:-1].any()) for one in labels.values())
    if go_on:
        assumed.append(f"{go_on} of {len(labels)} episodes go on after an end, and are read to the last step")
    if all(one.success is not None for one in labels.values()):
        return {name: one.success for name, one in labels.items() if one.success is not None}
    rewards = [one.rewards for one in labels.values()]
    solved = solved_steps(rewards, f"there is no {' or '.join(SUCCESS)}", assumed, list(labels))
    return dict(zip(labels, solved or [np.zeros(len(one), np.bool_) for one in rewards], strict=True))


def _observations(
    path: Path, arrays: Arrays, metadata: Metadata, observed: Observed, rows: VariableLengthRows
) -> dict[str, np.ndarray]:
    observations = {}
    for part in observed.parts:
        stored = metadata.observed[observed.stored[part.name]]
        array = arrays[stored.place]
        if stored.is_jpeg and array.ndim == 1:
            values = _pictures(stored, rows.read(stored.place, array), len(array))
        else:
            [values] = read_arrays(path, {stored.place: array}).values()
            if stored.is_jpeg:  # all of them happen to have the same length
                values = _pictures(stored, [row.tobytes() for row in values], len(values))
        observations[part.name] = arranged(values, stored.part, part)
    return observations


def _pictures(stored: StoredPart, files: Iterator[bytes] | Sequence[bytes], count: int) -> np.ndarray:
    frames = np.empty((count, *stored.part.shape), np.uint8)
    for index, content in enumerate(files):
        try:
            frames[index] = decoded(content, stored.part.shape, ("JPEG",))
        except Exception as error:  # Pillow raises errors of many types for damaged files
            raise ValueError(f"picture {index} of {stored.place}: {one_line(error)}") from error
    return frames


def _seed(file: h5py.File, name: str) -> int | None:
    """Return the seed of the reset, an attribute of the episode's group. None if there is none that fits an `Episode`.

    Its type is looked at before it is read, because h5py may loop for ever in a damaged text.
    """
    group = file[name].id
    if not h5py.h5a.exists(group, SEED):
        return None
    attribute = h5py.h5a.open(group, SEED)
    if attribute.get_type().get_class() != h5py.h5t.INTEGER or attribute.get_space().get_simple_extent_npoints() != 1:
        return None  # a text or an empty value stands for a reset without a seed
    value = np.empty(attribute.shape, attribute.dtype)
    attribute.read(value)
    seed = int(value.reshape(()))
    return seed if 0 <= seed < 2**63 else None


def _episode(
    task: TaskSpec, observations: Mapping[str, np.ndarray], actions: np.ndarray, labels: _Labels, reached: np.ndarray
) -> Episode:
    terminated = bool(labels.terminations[-1])
    return Episode.from_native(
        task,
        observations,
        actions,
        labels.rewards,
        terminated=terminated,
        truncated=bool(labels.truncations[-1]) or not terminated,
        is_success=bool(reached.any() if task.success == "any" else reached[-1]),
        solved=reached,
    )
