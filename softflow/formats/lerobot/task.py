"""The task of a LeRobot dataset: which features are observed, and the parts and bounds of its actions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from softflow.data.part_names import RecordedParts
from softflow.formats.json_files import read_json
from softflow.formats.lerobot.info import INFO, Feature, Info, action_range
from softflow.formats.parts import Observed, known_rate, observed_parts
from softflow.task import ActionPart, TaskSpec
from softflow.task.parts import UNNAMED, joined

ACTION = "action"
TASK = Path("meta/softflow_task.json")
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
    is_bounded_by_statistics: bool
    """Whether the bounds of actions are the extremes in the statistics of the dataset."""
    assumptions: list[str]
    """What is not certain about all this, in words."""


def recorded_task(root: Path, info: Info, wanted: TaskSpec | None) -> RecordedTask:
    """Describe a dataset as a task.

    Args:
        root: The folder of the dataset.
        info: Its description.
        wanted: The task that is to be learnt. Its parts are looked for in the dataset, its names and bounds are used.
            By default the one that the dataset was written with, if it was written by us.

    Raises:
        ValueError: The dataset has no actions or observations, or they are of a kind that cannot be read.
        TaskMismatch: A part of `wanted` is not in the dataset, or has another shape.
    """
    saved = saved_task(root)
    wanted = saved if wanted is None else wanted
    action = _action(info)
    observed, assumptions = _observed(info)
    if wanted is None:
        features = {feature.name: feature for feature in observed}
        low, high = action_range(root, action)
        task = TaskSpec(
            observation=tuple(feature.as_part() for feature in observed),
            action=tuple(_action_parts(action, low, high)),
            rate=info.fps,
            name=_text(root, info, assumptions),
        )
        assumptions.append("the bounds of actions are the extremes in its statistics, because no environment was given")
        return RecordedTask(task, features, action, list(range(action.size)), True, assumptions)
    chosen = stored_features(wanted, observed)
    features = {name: info.features[stored] for name, stored in chosen.stored.items()}
    task = replace(
        wanted,
        observation=chosen.parts,
        rate=known_rate(root, info.fps, wanted),
        success=saved.success if saved is not None else "any" if wanted.success == "any" else "last",
    )
    replace(wanted, rate=None).require_same(task, str(root))
    return RecordedTask(task, features, action, _order(wanted, action), False, assumptions + chosen.assumptions)


def save_task(root: Path, task: TaskSpec) -> None:
    """Keep a task in a dataset, with what LeRobot does not store: bounds of actions, categories, the success rule."""
    from softflow.formats.lerobot.metadata import write_json  # here, because it needs pyarrow

    write_json(root / TASK, task.describe())


def saved_task(root: Path) -> TaskSpec | None:
    """Return the task that `save_task` kept, None if there is none.

    Raises:
        ValueError: The file is damaged.
    """
    if not (root / TASK).is_file():
        return None
    described = read_json(root, TASK)
    try:
        return TaskSpec.build(described)
    except ValueError as error:
        raise ValueError(f"{TASK} is {error}: copy the dataset again, or remove this file") from error


def _text(root: Path, info: Info, assumptions: list[str]) -> str:
    """Return what the robot does, in words; an empty text if nothing or several things are said."""
    from softflow.formats.lerobot.metadata import task_texts  # here, because it needs pyarrow

    texts = set(task_texts(root, info.version).values())
    if len(texts) > 1:
        assumptions.append(f"the texts of its {len(texts)} tasks are not read")
    return texts.pop() if len(texts) == 1 else ""


def recorded_parts(info: Info) -> RecordedParts:
    """Return all features that may be observed, and the numbers of an action if they have names."""
    observed, _ = _observed(info)
    names = _names(_action(info))
    return RecordedParts(tuple(feature.as_part() for feature in observed), dict.fromkeys(names, 1) or None)


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


def stored_features(wanted: TaskSpec, observed: Sequence[Feature]) -> Observed:
    """Choose the features that a task observes. A part `wrist/left` may be `observation.images.wrist.left`.

    An image may be read in another order of axes and range of pixels than it is stored in.
    """
    chosen = observed_parts([feature.as_part() for feature in observed], wanted.observation, spellings)
    images = {part.name: part for part in wanted.observation if part.is_image}
    parts = (
        images[part.name] if part.name in images and images[part.name].packed == part.packed else part
        for part in chosen.parts
    )
    return chosen._replace(parts=tuple(parts))


def spellings(name: str) -> list[str]:
    """Return what LeRobot may call a part of an observation."""
    return [prefix + name.replace("/", ".") for prefix in PREFIXES]


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
