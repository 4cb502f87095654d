"""The task of a LeRobot dataset: which features are observed, and the parts and bounds of its actions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from softflow.data.part_names import PartNames
from softflow.formats.lerobot.info import INFO, Feature, Info, action_range
from softflow.task import ActionPart, ObservationPart, TaskSpec
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
    action = _action(info)
    observed, assumptions = _observed(info)
    if wanted is None:
        features = {feature.name: feature for feature in observed}
        low, high = action_range(root, action)
        task = TaskSpec(
            observation=tuple(_part(name, feature) for name, feature in features.items()),
            action=tuple(_action_parts(action, low, high)),
            rate=info.fps,
        )
        assumptions.append("the bounds of actions are the extremes in its statistics, because no task was given")
        return RecordedTask(task, features, action, list(range(action.size)), assumptions)
    features = _features_of(wanted, observed, assumptions)
    task = replace(
        wanted,
        observation=tuple(_part(name, feature, _named(wanted, name)) for name, feature in features.items()),
        rate=info.fps,
        success=wanted.success if wanted.success == "any" else "last",
    )
    replace(wanted, rate=None).require_same(task, str(root))
    return RecordedTask(task, features, action, _order(wanted, action), assumptions)


def part_names(info: Info) -> PartNames:
    """Return the names of all features that may be observed, and those of the numbers of an action."""
    observed, _ = _observed(info)
    return PartNames(tuple(feature.name for feature in observed), _names(_action(info)))


def _action(info: Info) -> Feature:
    action = info.features.get(ACTION)
    if action is None or not action.is_numbers or len(action.shape) != 1:
        raise ValueError(f"{INFO} has no feature {ACTION!r} of numbers along one axis: softflow cannot learn without")
    return action


def _names(action: Feature) -> tuple[str, ...]:
    """Return the names of all numbers of an action. Empty if some have none, or two have the same one."""
    names = action.names or ()
    return names if len(set(names)) == len(names) == action.size else ()


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


def _named(task: TaskSpec, name: str) -> ObservationPart | None:
    return next((part for part in task.observation if part.name == name), None)


def _features_of(wanted: TaskSpec, observed: list[Feature], assumptions: list[str]) -> dict[str, Feature]:
    """Return the feature of each part of `wanted`, by name. Parts that are not found leave all other features in.

    The only image of the task, or its only part that is no image, may have another name if it is the only such feature
    as well; this is added to `assumptions`.
    """
    by_name = {feature.name: feature for feature in observed}
    found: dict[str, Feature] = {}
    for part in wanted.observation:
        name = part.name.replace("/", ".")
        feature = next((by_name[prefix + name] for prefix in PREFIXES if prefix + name in by_name), None)
        if feature is None:
            parts = [other for other in wanted.observation if other.is_image == part.is_image]
            features = [other for other in observed if other.is_image == part.is_image]
            if len(parts) == len(features) == 1:
                [feature] = features
                assumptions.append(f"{feature.name} is taken for the observation {part.name!r}")
        if feature is not None:
            found[part.name] = feature
    for name, feature in found.items():
        if other := next((one for one, its in found.items() if its is feature and one != name), None):
            raise ValueError(f"{feature.name} would be two parts of the task, {name!r} and {other!r}: name both")
    if len(found) < len(wanted.observation):
        taken = {feature.name for feature in found.values()}
        found |= {name: feature for name, feature in by_name.items() if name not in taken}
    return found


def _part(name: str, feature: Feature, wanted: ObservationPart | None = None) -> ObservationPart:
    """Describe a feature as the part `wanted` if it can be read as such, and else as it is stored."""
    if feature.is_image:
        axes = wanted.axes if wanted is not None and wanted.axes is not None else "HWC"
        if sorted(axes) != ["C", "H", "W"]:  # stacked or without channels
            axes = "HWC"
        sizes = dict(zip("HWC", feature.frame_shape, strict=True))
        return ObservationPart(name, tuple(sizes[axis] for axis in axes), "uint8", axes=axes)
    if wanted is not None and not wanted.is_image and feature.shape in (wanted.shape, (*wanted.shape, 1)):
        return wanted  # LeRobot stores a single number as one along an axis
    return ObservationPart(name, feature.shape, feature.dtype)


def _action_parts(action: Feature, low: tuple[float, ...], high: tuple[float, ...]) -> list[ActionPart]:
    if not (names := _names(action)):
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
    if not (names := _names(action)):
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
