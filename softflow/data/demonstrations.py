"""Demonstrations on disk: one .npz file, its schema in docs/demonstrations.md."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from softflow.data.archive import Field, read_archive, write_archive
from softflow.data.episodes import Episode
from softflow.errors import UserError, one_line
from softflow.task import TaskSpec
from softflow.task.layout import ObservationLayout, ObservationSize

SCHEMA_VERSION = 1

_SCHEMA = {  # axes: N steps in all, E episodes, O, A
    "observation": Field("NO", "number"),
    "action": Field("NA", "number"),
    "reward": Field("N", "number"),
    "terminated": Field("N", "bool"),
    "truncated": Field("N", "bool"),
    "episode_start": Field("N", "bool"),
    "final_observation": Field("EO", "number"),
    "is_success": Field("E", "bool"),
    "mode": Field("E", "integer"),
    "task": Field("", "text", optional=True),  # the TaskSpec, as JSON
    "observation_layout": Field("", "text", optional=True),  # of packed observations without a TaskSpec, as JSON
}


class DemonstrationError(UserError):
    """Demonstrations that cannot be used; the message is one line that says where and why."""


class Dataset(NamedTuple):
    """Demonstrations, and what is known of their task."""

    episodes: list[Episode]
    task: TaskSpec | None
    """Names, shapes, units and bounds; None in a file that does not say them."""


def save_demonstrations(
    path: str | os.PathLike[str], episodes: Sequence[Episode], task: TaskSpec | None = None
) -> None:
    """Write `episodes` to `path`, replacing a file of that name only once the new one is complete.

    Args:
        path: The file.
        episodes: At least one.
        task: What their rows and actions mean.

    Raises:
        DemonstrationError: There are no episodes, or they differ in their dimensions or from the task.
    """
    path = Path(path)
    if not episodes:
        raise DemonstrationError(f"{path}: no episodes to write")
    layout = episodes[0].layout
    sizes = (layout or episodes[0].observation_dim, episodes[0].action_dim)
    check_compatible(episodes, *(sizes if task is None else (task.observation_size, task.action_dim)))
    last = np.cumsum([len(episode) for episode in episodes]) - 1
    terminated, truncated, start = np.zeros((3, last[-1] + 1), np.bool_)
    terminated[last] = [episode.terminated for episode in episodes]
    truncated[last] = [episode.truncated for episode in episodes]
    start[[0, *last[:-1] + 1]] = True
    arrays = {
        "observation": np.concatenate([episode.observation[:-1] for episode in episodes]),
        "action": np.concatenate([episode.action for episode in episodes]),
        "reward": np.concatenate([episode.reward for episode in episodes]),
        "terminated": terminated,
        "truncated": truncated,
        "episode_start": start,
        "final_observation": np.stack([episode.observation[-1] for episode in episodes]),
        "is_success": np.array([episode.is_success for episode in episodes]),
        "mode": np.array([episode.mode for episode in episodes]),
    }
    if task is not None:
        arrays["task"] = np.array(json.dumps(task.describe()))
    elif layout is not None:
        arrays["observation_layout"] = np.array(json.dumps(layout.describe()))
    write_archive(path, arrays, SCHEMA_VERSION, compress=layout is not None)  # pictures shrink to a tenth


def load_demonstrations(path: str | os.PathLike[str]) -> list[Episode]:
    """Read the episodes of a file that `save_demonstrations` wrote. Nothing is unpickled.

    Raises:
        DemonstrationError: The file is missing, unreadable, or not in the schema of docs/demonstrations.md.
    """
    return load_dataset(path).episodes


def load_dataset(path: str | os.PathLike[str]) -> Dataset:
    """Read the episodes and the task of a file that `save_demonstrations` wrote. Nothing is unpickled.

    Raises:
        DemonstrationError: The file is missing, unreadable, or not in the schema of docs/demonstrations.md.
    """
    path = Path(path)
    try:
        arrays = read_archive(path, _SCHEMA, SCHEMA_VERSION, "docs/demonstrations.md")
        task = TaskSpec.build(json.loads(str(arrays["task"]))) if "task" in arrays else None
        episodes = _episodes(arrays, _layout(arrays, task))
        if task is not None:
            check_compatible(episodes, task.observation_size, task.action_dim)
    except (ValueError, OSError) as error:
        raise DemonstrationError(f"{path}: {one_line(error)}") from error
    return Dataset(episodes, task)


def check_compatible(episodes: Sequence[Episode], observation_dim: ObservationSize, action_dim: int) -> None:
    """Check that `episodes` have the dimensions, or the layout, of an environment's observations, and its actions'.

    Raises:
        DemonstrationError: one of them has not.
    """
    layout = observation_dim if isinstance(observation_dim, ObservationLayout) else None
    size = observation_dim.size if isinstance(observation_dim, ObservationLayout) else observation_dim
    for index, episode in enumerate(episodes):
        if episode.layout != layout:
            raise DemonstrationError(
                f"observations of demonstration {index} hold {_contents(episode.layout)}, expected "
                f"{_contents(layout)}: use demonstrations recorded in this environment, with the same options"
            )
        for name, got, expected in (
            ("observation", episode.observation_dim, size),
            ("action", episode.action_dim, action_dim),
        ):
            if got != expected:
                raise DemonstrationError(
                    f"{name} of demonstration {index} has {got} dimensions, expected {expected}: "
                    "use demonstrations recorded in this environment"
                )


def _contents(layout: ObservationLayout | None) -> str:
    parts = layout.parts if layout is not None else ()
    return ", ".join(f"{part.name} {part.dtype}{list(part.shape)}" for part in parts) or "numbers alone"


def _layout(arrays: Mapping[str, np.ndarray], task: TaskSpec | None) -> ObservationLayout | None:
    if task is not None:
        return task.layout
    if "observation_layout" in arrays:
        return ObservationLayout.build(json.loads(str(arrays["observation_layout"])))
    return None


def _episodes(arrays: Mapping[str, np.ndarray], layout: ObservationLayout | None) -> list[Episode]:
    start, is_success = arrays["episode_start"], arrays["is_success"]
    if not start[0]:
        raise ValueError("episode_start[0] is False: the first step starts an episode, set it to True")
    first = np.flatnonzero(start)
    if len(first) != len(is_success):
        raise ValueError(f"episode_start marks {len(first)} episodes, but is_success has {len(is_success)}")
    last = np.append(first[1:], len(start)) - 1
    for name in ("terminated", "truncated"):
        inside = arrays[name].copy()
        inside[last] = False
        if inside.any():
            step = int(inside.argmax())
            raise ValueError(f"{name}[{step}] is True inside an episode: set episode_start[{step + 1}] to True")

    episodes = []
    for index, (begin, end) in enumerate(zip(first, last + 1, strict=True)):
        try:
            episodes.append(
                Episode(
                    observation=np.vstack([arrays["observation"][begin:end], arrays["final_observation"][index]]),
                    action=arrays["action"][begin:end],
                    reward=arrays["reward"][begin:end],
                    terminated=arrays["terminated"][end - 1],
                    truncated=arrays["truncated"][end - 1],
                    is_success=is_success[index],
                    mode=arrays["mode"][index],
                    layout=layout,
                )
            )
        except ValueError as error:
            raise ValueError(f"episode {index}, which starts at step {begin}: {error}") from error
    return episodes
