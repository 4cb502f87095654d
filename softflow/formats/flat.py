"""Shared checks of arrays with a row for each step, for formats that describe no task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from softflow.data.damage import REPAIR
from softflow.data.part_names import RecordedParts
from softflow.task import ActionPart, ObservationPart, TaskSpec
from softflow.task.parts import UNNAMED, joined

if TYPE_CHECKING:
    import h5py

WHOLE = "observation"
"""The name of the one part of an observation that is an array without names."""
MOST_CHANNELS = 4
SUCCESS = ("infos/is_success", "infos/success")
"""The arrays that say at which steps the task is solved; the first one that exists counts."""
MOSTLY = 0.5
"""Share of other rewards than 0 and 1 up to which rewards of 1 may be meant as successes."""
BOUNDS_ASSUMED = "the bounds of actions are -1 and 1, because no environment was given"


def recorded_whole(observations: np.ndarray | h5py.Dataset | None) -> RecordedParts:
    """Return the one part of an observation that is an array without names, (N, ...).

    Raises:
        ValueError: There is no array.
    """
    if observations is None:
        raise ValueError("there is no observations")
    return RecordedParts((ObservationPart(WHOLE, observations.shape[1:], observations.dtype.name),))


def require_rows(arrays: Mapping[str, np.ndarray]) -> None:
    """Check that all arrays have as many rows, and that their numbers are finite.

    Raises:
        ValueError: They are not. The message names the array and the place.
    """
    lengths = {name: len(array) if array.ndim else None for name, array in arrays.items()}
    if len(set(lengths.values())) > 1 or None in lengths.values():
        raise ValueError(f"the arrays hold different numbers of steps: {lengths}")
    if not lengths["observations"]:
        raise ValueError("the arrays are empty: record at least one step")
    for name, array in arrays.items():
        if array.dtype.kind not in "biuf":
            raise ValueError(f"{name} is {array.dtype} of shape {array.shape}, expected numbers")
        if array.dtype.kind == "f" and not (finite := np.isfinite(array)).all():
            place = tuple(np.argwhere(~finite)[0].tolist())
            raise ValueError(f"{name}{list(place)} is {array[place]}: repair or drop the episode")


def require_flags(name: str, array: np.ndarray) -> np.ndarray:
    """Return an array (N,) or (N, 1) of 0 and 1 as bools (N,).

    Raises:
        ValueError: It has another shape or other values.
    """
    flags = column(name, array)
    if wrong := sorted(set(np.unique(flags).tolist()) - {0, 1}):
        raise ValueError(f"{name} has the value {wrong[0]:g}, expected 0 and 1 alone: write 1 for true and 0 for false")
    return flags != 0


def finite_column(name: str, array: np.ndarray) -> np.ndarray:
    """Return an array (N,) or (N, 1) of an episode as (N,).

    Rewards of all episodes together say what a success is, so those of a damaged one must not be among them.

    Raises:
        ValueError: It has another shape, or a number that is not finite.
    """
    numbers = column(name, array)
    if not (finite := np.isfinite(numbers)).all():
        step = int(finite.argmin())
        raise ValueError(f"{name}[{step}] is {numbers[step]}, not finite: {REPAIR}")
    return numbers


def column(name: str, array: np.ndarray) -> np.ndarray:
    """Return an array (N,) or (N, 1) as (N,).

    Raises:
        ValueError: It has another shape.
    """
    if array.shape not in ((len(array),), (len(array), 1)):
        raise ValueError(f"{name} has the shape {array.shape}, expected one number per step")
    return array.reshape(-1)


def task_of(path: Path, observations: np.ndarray, actions: np.ndarray, wanted: TaskSpec | None) -> TaskSpec:
    """Describe arrays as a task.

    Args:
        path: The file, for errors.
        observations: All observations, (N, ...).
        actions: All actions, (N, A).
        wanted: The task that is to be learnt, whose names, bounds and control rate are used. By default, actions are in
            [-1, 1].

    Raises:
        ValueError: The arrays have other shapes or units.
        TaskMismatch: The observation is not that of `wanted`.
    """
    action = action_parts(actions, wanted)
    shape, dtype = observations.shape[1:], observations.dtype.name
    if wanted is None:
        return TaskSpec(observation=(_part(shape, dtype),), action=action)
    [part, *others] = wanted.observation
    is_same = part.shape == shape and (part.dtype == dtype or not part.is_image)
    if others or not is_same:
        part = ObservationPart(WHOLE if others else part.name, shape, dtype)
    task = replace(wanted, observation=(part,), success=wanted.success if wanted.success == "any" else "last")
    wanted.require_same(task, str(path))
    return task


def action_parts(actions: np.ndarray, wanted: TaskSpec | None) -> tuple[ActionPart, ...]:
    """Describe actions (N, A): those of the task `wanted`, or by default A numbers in [-1, 1].

    Raises:
        ValueError: The array has another shape, or exceeds [-1, 1] without a task.
    """
    if actions.ndim != 2:
        raise ValueError(f"actions has the shape {actions.shape}, expected one row of numbers per step")
    size = actions.shape[1]
    if wanted is None:
        if (largest := float(np.abs(actions.astype(np.float64)).max(initial=0))) > 1 + 1e-6:
            raise ValueError(
                f"actions reach {largest:g}, beyond the bounds -1 ... 1 that are assumed without a task: name the "
                "environment, whose bounds are then used, or describe the robot with a TaskSpec "
                "(docs/start/your-data.md)"
            )
        return (ActionPart(UNNAMED, (-1.0,) * size, (1.0,) * size),)
    require_action_size(size, wanted)
    return wanted.action


def require_action_size(size: int, wanted: TaskSpec) -> None:
    """Raise `ValueError` unless an action of the task has this many numbers."""
    if size != (expected := joined(wanted.action).size):
        raise ValueError(
            f"actions has {size} numbers per step, the task has {expected}: choose the environment it was made in"
        )


def solved_steps(
    rewards: Sequence[np.ndarray], unknown: str, assumed: list[str], names: Sequence[str] = ()
) -> list[np.ndarray] | None:
    """Return at which steps the rewards of a dataset, which says nothing else of it, show that the task was solved.

    A reward of 1 is a success if all rewards are 0 or 1 and both occur.

    Args:
        rewards: The rewards of each episode, (T,).
        unknown: What the dataset does not say, in words.
        assumed: A list, to which an assumption about it is appended.
        names: What the episodes are called. Without them, the rewards are one array of all steps.

    Returns:
        Bools (T,) for each episode. None if the rewards show nothing.
    """
    values = np.concatenate(rewards)
    if set(np.unique(values).tolist()) == {0, 1}:
        assumed.append(f"{unknown}, so a reward of 1, where others are 0, is a success")
        return [one == 1 for one in rewards]
    assumed.append(f"{unknown}, so no episode is known as a success{_why_unknown(rewards, values, names)}")
    return None


def _why_unknown(rewards: Sequence[np.ndarray], values: np.ndarray, names: Sequence[str]) -> str:
    """Say what is in the way if some rewards are 1, so that they may be meant as successes."""
    is_other = ~np.isin(values, (0, 1))
    if not (values == 1).any() or is_other.mean() > MOSTLY:
        return ""
    if not is_other.any():
        return ": all rewards are 1"
    step, episode = int(is_other.argmax()), 0
    while step >= len(rewards[episode]):
        step, episode = step - len(rewards[episode]), episode + 1
    place = f"step {step} of {names[episode]}" if names else f"step {step}"
    return (
        f": for that, all rewards must be 0 or 1, but {is_other.sum():,} of {len(values):,} are not; the first is "
        f"{rewards[episode][step]:g}, at {place}. If rewards of 1 mark successes, correct the others"
    )


def _part(shape: tuple[int, ...], dtype: str) -> ObservationPart:
    if dtype != "uint8" or len(shape) < 2:
        return ObservationPart(WHOLE, shape, dtype)
    if len(shape) == 3 and shape[-1] <= MOST_CHANNELS:
        return ObservationPart(WHOLE, shape, dtype, axes="HWC")
    raise ValueError(
        f"observations are uint8 of shape {shape}, and it is not known which axes are an image's height and width: "
        "name the environment, which says so"
    )
