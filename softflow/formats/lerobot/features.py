"""The features as which a task is stored in a LeRobot dataset."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from softflow.formats.lerobot.info import Feature
from softflow.formats.lerobot.task import ACTION, spellings
from softflow.formats.pictures import MODES
from softflow.task import ObservationPart, TaskSpec
from softflow.task.parts import UNNAMED

OBSERVATION, STATE, IMAGES = "observation", "observation.state", "observation.images"
LARGEST_NUMBER_OF_AXES = 5
"""LeRobot has no type for numbers along more axes."""
LARGEST_NUMBER = 8
"""Bytes of the largest number."""


def observed_features(task: TaskSpec) -> dict[str, Feature]:
    """Return the feature of each part of an observation, by the name of the part.

    A name below `observation` is kept, and dots take the place of slashes. An image `wrist` becomes
    `observation.images.wrist`. If one part alone is numbers, it becomes `observation.state`, which LeRobot's policies
    look for. An image is stored as uint8 (height, width, channels), and a single number along one axis.

    Raises:
        ValueError: LeRobot cannot store a part, or the part would not be found again by its name.
    """
    features = {part.name: _feature(part, _feature_name(task, part)) for part in task.observation}
    counts = Counter(feature.name for feature in features.values())
    for name, feature in features.items():
        found = next((spelling for spelling in spellings(name) if spelling in counts), feature.name)
        if counts[feature.name] > 1 or found != feature.name:
            raise ValueError(
                f"the observation {name!r} cannot be told from others as the feature {feature.name}: rename it"
            )
    return features


def action_feature(task: TaskSpec) -> Feature:
    """Return the feature of an action: native units, the numbers of all parts in order.

    It is float64 if an action would otherwise be rounded between its bounds and [-1, 1].
    """
    names: list[str] = []
    for part in task.action:
        names += [part.name] if part.size == 1 else [f"{part.name}[{index}]" for index in range(part.size)]
    is_unit = bool(((task.low == -1) & (task.high == 1)).all())
    unnamed = [part.name for part in task.action] == [UNNAMED]
    return Feature(ACTION, "float32" if is_unit else "float64", (len(names),), None if unnamed else tuple(names))


def described(feature: Feature) -> dict[str, Any]:
    """Return a feature as `meta/info.json` has it."""
    names = None if feature.names is None else list(feature.names)
    return {"dtype": feature.dtype, "shape": list(feature.shape), "names": names}


def _feature_name(task: TaskSpec, part: ObservationPart) -> str:
    name = part.name.replace("/", ".")
    if name.partition(".")[0] == OBSERVATION and name != OBSERVATION:
        return name
    if part.is_image:
        return f"{IMAGES}.{name}"
    others = [other for other in task.observation if other != part]
    is_state = all(other.is_image and other.name != "state" for other in others)
    return STATE if is_state else f"{OBSERVATION}.{name}"


def _feature(part: ObservationPart, name: str) -> Feature:
    what = f"the observation {part.name!r}"
    if "\\" in name:
        raise ValueError(f"{what} has a backslash in its name: rename it")
    shape = part.packed.shape
    if part.is_image:
        if shape[2] not in MODES:
            raise ValueError(f"{what} has {shape[2]} channels, LeRobot's images have {', '.join(map(str, MODES))}")
        return Feature(name, "image", shape, ("height", "width", "channels"))
    if len(part.shape) > LARGEST_NUMBER_OF_AXES:
        raise ValueError(f"{what} has {len(part.shape)} axes, LeRobot's numbers have {LARGEST_NUMBER_OF_AXES} at most")
    if np.dtype(part.dtype).itemsize > LARGEST_NUMBER:
        raise ValueError(f"{what} is {part.dtype}, LeRobot's numbers have {8 * LARGEST_NUMBER} bits at most")
    return Feature(name, part.dtype, part.shape or (1,), part.names)
