"""Recordings in the native format of a robot or an environment: observations by name and actions in native units."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softflow.data.damage import REPAIR
from softflow.errors import NotFinite
from softflow.task import TaskSpec
from softflow.task.actions import ActionOutOfBounds
from softflow.task.parts import as_numbers

MAY_BE_SCALED = (
    "the actions may be scaled to [-1, 1]: see what `softflow-data check` says, and if they are, store "
    "low + (action + 1) / 2 * (high - low), with the bounds of the environment"
)
"""What to do about native actions that leave their bounds, but not [-1, 1]."""


def rows_of(task: TaskSpec, observations: Any) -> NDArray[Any]:
    """Convert the observations of an episode to rows (T, O).

    Args:
        task: The specification of observations and actions.
        observations: A sequence of single observations, or one mapping from names to arrays (T, ...). One array
            (T, ...) if the task observes a single array.

    Raises:
        ValueError: An observation does not fit the task. The message names the step and the part.
    """
    if not _is_columns(observations):
        return _stacked("observation", (_row_of(task, one) for one in observations), task.row_size)
    try:
        rows, is_batch = task.rows(observations)
    except NotFinite as error:
        raise ValueError(f"{error}, at step {error.row}: {REPAIR}") from error
    if not is_batch:
        raise ValueError("observations holds a single observation: give those of all steps, along the first axis")
    return rows


def actions_of(task: TaskSpec, actions: Any) -> NDArray[np.float32]:
    """Scale the native actions of an episode to (T, A) in [-1, 1].

    Args:
        task: The specification of observations and actions.
        actions: A sequence of single actions, each an array of any shape with N numbers or a mapping from the names of
            parts to such arrays. Or one array (T, ...), or one mapping from names to arrays (T, ...).

    Raises:
        ValueError: An action does not fit the task. The message names the step and the part.
    """
    if not _is_columns(actions):
        flat = (_each(one, _flat) for one in actions)
        return _stacked("action", (_scaled(task, one) for one in flat), task.action_dim)
    return _scaled(task, _each(actions, _flat_rows))


def _scaled(task: TaskSpec, action: Any) -> NDArray[np.float32]:
    """Return `task.unit_actions(action)`, with advice in the error if the actions may be scaled already."""
    try:
        return task.unit_actions(action)
    except ActionOutOfBounds as error:
        if not error.fits_unit:
            raise
        raise ValueError(f"{error}; {MAY_BE_SCALED}") from error


def _is_columns(values: Any) -> bool:
    """Return whether all steps are in one array, or in one array per part."""
    return isinstance(values, Mapping) or hasattr(values, "shape")


def _row_of(task: TaskSpec, observation: Any) -> NDArray[Any]:
    rows, is_batch = task.rows(observation)
    if is_batch:
        raise ValueError("it has a batch axis: give one observation for each step")
    return rows[0]


def _each(action: Any, change: Callable[[str, Any], NDArray[Any]]) -> Any:
    """Apply `change` to the array of an action, or to each of its named arrays."""
    if isinstance(action, Mapping):
        return {name: change(f"action {name!r}", value) for name, value in action.items()}
    return change("an action", action)


def _flat(name: str, value: Any) -> NDArray[Any]:
    return as_numbers(name, value).reshape(-1)


def _flat_rows(name: str, values: Any) -> NDArray[Any]:
    array = as_numbers(name, values)
    if not array.ndim:
        raise ValueError(f"{name} is a single number: give the actions of all steps, along the first axis")
    return array.reshape(len(array), math.prod(array.shape[1:]))


def _stacked(what: str, rows: Iterable[NDArray[Any]], size: int) -> NDArray[Any]:
    stacked: list[NDArray[Any]] = []
    try:
        stacked.extend(rows)
    except ValueError as error:
        raise ValueError(f"{what} of step {len(stacked)}: {error}") from error
    return np.stack(stacked) if stacked else np.zeros((0, size), np.float32)
