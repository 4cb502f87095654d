"""The description of a Minari dataset: its spaces as the parts of observations and actions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces

from softflow.errors import UserError, one_line
from softflow.files import FREE_MEMORY
from softflow.formats.json_files import parse_json, read_json
from softflow.task import ActionPart, ObservationPart
from softflow.task.spaces import action_parts, observation_parts, part_name

METADATA = Path("metadata.json")
OBSERVATIONS = "observations"
SMALLEST_JPEG = 32
"""Pixels of height and width from which on Minari stores an image as JPEG."""


class StoredPart(NamedTuple):
    """A part of an observation, and how it is stored."""

    part: ObservationPart
    place: str
    """The array in the group of an episode, such as `observations/camera`."""
    is_jpeg: bool


@dataclass(frozen=True)
class Metadata:
    """The content of `metadata.json`.

    Attributes:
        episodes: The number of episodes that the dataset claims.
        observed: The parts of an observation by name.
        left_out: The names of the parts that are not arrays of numbers, such as texts.
        action: The part of an action. None if its space has no finite bounds.
        action_size: How many numbers an action has.
        environment: The id of the environment. It is empty if it is not stored.
    """

    episodes: int
    observed: Mapping[str, StoredPart]
    left_out: Sequence[str]
    action: tuple[ActionPart, ...] | None
    action_size: int
    environment: str


def data_folder(path: Path) -> Path:
    """Return the folder with the files of a dataset: the folder `data` in its path, or the path itself."""
    return path / "data" if (path / "data" / METADATA).is_file() else path


def read_metadata(folder: Path, is_task_known: bool) -> Metadata:
    """Read and check `metadata.json`.

    Args:
        folder: The folder that holds it.
        is_task_known: Whether a task says which parts are images. Otherwise their spaces must tell.

    Raises:
        ValueError: It is missing or damaged, the format is not HDF5, or the actions are not a Box of real numbers.
    """
    # The bounds of an image space are written out, two numbers for each pixel.
    content = read_json(folder, METADATA, limit=FREE_MEMORY)
    if content.get("data_format", "hdf5") != "hdf5":
        raise ValueError(
            f"{METADATA} has the data_format {content['data_format']!r}, expected 'hdf5': create the dataset with it"
        )
    # Minari assumes JPEG, too, if nothing says it.
    episodes, has_jpeg = content.get("total_episodes"), content.get("jpeg_encoding", True)
    if type(episodes) is not int or episodes < 1:
        raise ValueError(f"{METADATA} has total_episodes {episodes!r}, expected an integer of at least 1")
    if type(has_jpeg) is not bool:
        raise ValueError(f"{METADATA} has jpeg_encoding {has_jpeg!r}, expected true or false")
    observed, left_out = {}, []
    for path, described in _leaves(_json(content, "observation_space")):
        name = part_name(path)
        space = _space(f"the observation {name!r}", described)
        if space is None:
            left_out.append(name)
        elif spaces.flatdim(space):
            place = "/".join((OBSERVATIONS, *path))
            observed[name] = StoredPart(_part(name, space, is_task_known), place, has_jpeg and _is_jpeg(space))
    if not observed:
        raise ValueError(f"{METADATA} describes no observation of numbers: softflow cannot learn without")
    action, size = _action(_json(content, "action_space"))
    environment = _json(content, "env_spec").get("id") if content.get("env_spec") is not None else None
    return Metadata(episodes, observed, left_out, action, size, environment if isinstance(environment, str) else "")


def _json(content: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Return the object that is stored as JSON in a text of the metadata."""
    text = content.get(key)
    if not isinstance(text, str):
        raise ValueError(f"{METADATA} has no {key}: copy or record the dataset again")
    value = parse_json(METADATA, text)
    if not isinstance(value, dict):
        raise ValueError(f"{METADATA} has {type(value).__name__} as {key}, expected an object: copy the dataset again")
    return value


def _leaves(described: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Mapping[str, Any]]]:
    """Yield the spaces in nested Dicts and Tuples, and the keys that lead to them in the HDF5 file."""
    kind, below = (described.get(key) if isinstance(described, dict) else None for key in ("type", "subspaces"))
    if kind == "Dict" and isinstance(below, dict):
        for key, space in below.items():
            yield from _leaves(space, (*path, key))
    elif kind == "Tuple" and isinstance(below, list):
        for index, space in enumerate(below):
            yield from _leaves(space, (*path, f"_index_{index}"))
    elif kind in ("Dict", "Tuple") or not isinstance(kind, str):
        raise ValueError(f"{METADATA} has a damaged observation_space: copy the dataset again")
    else:
        yield path, described


def _space(what: str, described: Mapping[str, Any]) -> spaces.Space[Any] | None:
    """Build the space of an array. None if it is not made of a fixed number of numbers."""
    try:
        match described["type"]:
            case "Box":
                return _box(described)
            case "Discrete":
                return spaces.Discrete(described["n"], start=described["start"])
            case "MultiDiscrete":
                return spaces.MultiDiscrete(np.array(described["nvec"]), start=np.array(described["start"]))
            case "MultiBinary":
                return spaces.MultiBinary(described["n"])
    except Exception as error:  # gymnasium and numpy raise errors of many types
        raise ValueError(f"{METADATA}: the space of {what} is damaged ({one_line(error)}): copy it again") from error
    return None


def _box(described: Mapping[str, Any]) -> spaces.Box:
    dtype = np.dtype(described["dtype"])
    if dtype.kind not in "biuf":
        raise ValueError(f"{dtype} is no dtype of numbers")
    low, high = (np.array(described[end], dtype) for end in ("low", "high"))
    shape = tuple(described["shape"])
    if low.shape != shape or high.shape != shape:
        raise ValueError(f"bounds of shape {low.shape} and {high.shape}, expected {shape}")
    return spaces.Box(low, high, shape, described["dtype"])


def _part(name: str, space: spaces.Space[Any], is_task_known: bool) -> ObservationPart:
    assert space.shape is not None and space.dtype is not None
    try:
        [part] = observation_parts(spaces.Dict({name: space}), {}, str(METADATA))
        return part
    except UserError as error:
        if not isinstance(space, spaces.Box):
            raise ValueError(one_line(error)) from error
        if not is_task_known:
            raise ValueError(
                f"it is not known whether the observation {name!r}, {space.dtype} of shape {space.shape}, is an image: "
                "name the environment, which says so"
            ) from error
        return ObservationPart(name, space.shape, space.dtype.name)


def _is_jpeg(space: spaces.Space[Any]) -> bool:
    """Return whether Minari stores arrays of a space as JPEG."""
    if not isinstance(space, spaces.Box) or space.dtype != np.uint8 or len(space.shape) not in (2, 3):
        return False
    return min(space.shape[:2]) >= SMALLEST_JPEG and bool((space.low == 0).all() and (space.high == 255).all())


def _action(described: Mapping[str, Any]) -> tuple[tuple[ActionPart, ...] | None, int]:
    """Return the part of an action, None if its bounds are not finite, and how many numbers it has."""
    space = _space("the actions", described) if described.get("type") not in ("Dict", "Tuple") else None
    if not isinstance(space, spaces.Box) or space.dtype.kind != "f" or len(space.shape) != 1:
        raise ValueError(
            f"the actions are a {described.get('type')}, {described.get('dtype')} of shape {described.get('shape')}, "
            "expected a Box of real numbers along one axis: record the dataset with such actions"
        )
    [size] = space.shape
    try:
        return action_parts(space, str(METADATA)), size
    except UserError:  # a policy needs bounds that mean something
        return None, size
