"""The task of a LeRobot dataset: which features are observed, and the parts and bounds of its actions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from softflow.formats.lerobot.info import INFO, Feature, Info, action_range
from softflow.formats.parts import observed_parts
from softflow.task import ActionPart, TaskSpec
from softflow.task.parts import UNNAMED, joined

ACTION = "action"
PREFIXES = ("", "observation.", "observation.images.")
"""What LeRobot may put before the name of a part of an observation."""


class RecordedTask(NamedTuple):
    """What a dataset observes and does, and where it is stored."""

    task: TaskSpec
    features: dict[str, Feature]
    """The feature that holds each part of an observation, by the name of the part."""
    action: Feature
    order: list[int]
    """For each number of an action of the task, its index in the dataset's action."""
    assumptions: list[str]
    """What is not certain about all this, in words."""


def recorded_task(root: Path, info: Info, wanted: TaskSpec | None) -> RecordedTask:
    """Describe a dataset as a task.

    Args:
        root: The folder of the dataset.
        info: Its description.
        wanted: The task that is to be learnt. Its parts are looked for in the dataset, its names and bounds are used.

    Raises:
        ValueError: The dataset has no actions or observations, or they are of a kind that cannot be read.
        TaskMismatch: A part of `wanted` is not in the dataset, or has another shape.
    """
    action = info.features.get(ACTION)
    if action is None or not action.is_numbers or len(action.shape) != 1:
        raise ValueError(f"{INFO} has no feature {ACTION!r} of numbers along one axis: softflow cannot learn without")
    observed, assumptions = _observed(info)
    recorded = [feature.as_part() for feature in observed]
    if wanted is None:
        features = {feature.name: feature for feature in observed}
        low, high = action_range(root, action)
        task = TaskSpec(
            observation=tuple(recorded),
            action=tuple(_action_parts(action, low, high)),
            rate=info.fps,
        )
        assumptions.append("the bounds of actions are the extremes in its statistics, because no task was given")
        return RecordedTask(task, features, action, list(range(action.size)), assumptions)
    chosen = observed_parts(recorded, wanted.observation, _spellings)
    features = {name: info.features[stored] for name, stored in chosen.stored.items()}
    task = replace(
        wanted,
        observation=chosen.parts,
        rate=info.fps,
        success=wanted.success if wanted.success == "any" else "last",
    )
    replace(wanted, rate=None).require_same(task, str(root))
    return RecordedTask(task, features, action, _order(wanted, action), assumptions + chosen.assumptions)


def _observed(info: Info) -> tuple[list[Feature], list[str]]:
    """Return the features that may be observed, and in words which ones are left out."""
    observed, left_out = [], []
    for name, feature in info.features.items():
        if name.partition(".")[0] == "observation" and (feature.is_image or feature.is_numbers):
            if feature.is_depth:
                left_out.append(f"{name} is a depth map, which is not read")
            else:
                observed.append(feature)
    if not observed:
        raise ValueError(f"{INFO} has no feature that is called observation or observation.*: rename what is observed")
    return observed, left_out


def _spellings(name: str) -> list[str]:
    """Return what LeRobot may call a part of an observation."""
    return [prefix + name.replace("/", ".") for prefix in PREFIXES]


def _action_parts(action: Feature, low: tuple[float, ...], high: tuple[float, ...]) -> list[ActionPart]:
    names = action.names or ()
    if len(set(names)) != action.size or len(names) != action.size:
        return [ActionPart(UNNAMED, low, high)]
    return [ActionPart(name, (low[i],), (high[i],)) for i, name in enumerate(names)]


def _order(wanted: TaskSpec, action: Feature) -> list[int]:
    """Return where each number of an action of `wanted` is in the dataset: by name if all are named, else as it is.

    Raises:
        ValueError: There is another number of numbers, or a name stands elsewhere.
    """
    size = joined(wanted.action).size
    if action.size != size:
        raise ValueError(
            f"{ACTION} has {action.size} numbers, the task has {size}: choose the environment it was made in"
        )
    names = action.names or ()
    if len(names) != action.size or len(set(names)) != len(names):
        return list(range(size))
    places: Mapping[str, int] = {name: index for index, name in enumerate(names)}
    if {part.name for part in wanted.action} == set(names):
        return [places[part.name] for part in wanted.action]
    starts = np.cumsum([0, *(part.size for part in wanted.action)]).tolist()
    for part, start in zip(wanted.action, starts, strict=False):
        if places.get(part.name, start) != start:
            raise ValueError(
                f"the number {part.name!r} of {ACTION} has the index {places[part.name]} in the dataset and {start} in "
                f"the task: give all numbers the names of the task in {INFO}, so that they can be put in order"
            )
    return list(range(size))
