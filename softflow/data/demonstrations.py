"""Demonstrations in one .npz file. docs/how-to/demonstrations.md describes the schema."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from softflow.data.archive import Field, Pieces, read_archive, write_archive
from softflow.data.damage import reading_episode
from softflow.data.episodes import Episode
from softflow.data.json_arrays import json_array, read_json, read_task
from softflow.data.proposals import Proposals
from softflow.data.row_file import rows_in_file
from softflow.errors import UserError, one_line
from softflow.task import ObservationPart, TaskSpec
from softflow.task.comparison import parts_in_order
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
    "observation_layout": Field("", "text", optional=True),  # the layout of packed observations as JSON
    "task": Field("", "text", optional=True),  # a TaskSpec as JSON
    "seed": Field("E", "integer", optional=True),  # of the reset; NOT_KNOWN if it is not known
    "solved_at": Field("E", "integer", optional=True),  # steps until the task was first solved; NOT_KNOWN if not known
    "reward_kind": Field("E", "text", optional=True),  # "dataset" if the rewards are the recorded ones
    "human": Field("N", "bool", optional=True),  # the steps at which a person acted in place of a policy
    "human_known": Field("E", "bool", optional=True),  # whether this was recorded; if absent, it was in every episode
    "proposal_step": Field("D", "integer", optional=True),  # of D proposed chunks, the step in 0 ... N - 1
    "proposal": Field("DHA", "number", optional=True),
    "proposal_own": Field("D", "bool", optional=True),  # whether it was executed as proposed
}

_OBSERVATIONS = ("observation", "final_observation")

NOT_KNOWN = -1
"""Stands for a seed or a `solved_at` of None."""


class DemonstrationError(UserError):
    """Demonstrations cannot be used. The message says in one line where and why."""


class Dataset(NamedTuple):
    """Recorded episodes and their task."""

    episodes: list[Episode]
    task: TaskSpec | None
    """The specification of observations and actions. None if the file does not contain it."""

    def __repr__(self) -> str:
        steps, solved = sum(map(len, self.episodes)), sum(one.is_success for one in self.episodes)
        task = "no task" if self.task is None else f"task {self.task.name!r}"
        return f"Dataset({len(self.episodes)} episodes with {steps:,} steps, {solved} successes, {task})"


def save_demonstrations(
    path: str | os.PathLike[str], episodes: Sequence[Episode], task: TaskSpec | None = None
) -> None:
    """Write `episodes` to `path`. An existing file is replaced only once the new one is complete.

    Args:
        path: The file.
        episodes: The episodes, at least one.
        task: The specification of observations and actions, such as `TaskSpec.from_env(env)`. It is compared with the
            environment when the file is used. By default the task that the episodes know.

    Raises:
        DemonstrationError: There are no episodes, or their dimensions differ from each other or from the task.
    """
    path = Path(path)
    if not episodes:
        raise DemonstrationError(f"{path}: no episodes to write")
    task = task_of(episodes) if task is None else task
    layout = episodes[0].layout
    check_compatible(episodes, layout or episodes[0].observation_dim, episodes[0].action_dim)
    if task is not None:
        check_compatible(episodes, task.observation_size, task.action_dim)
    last = np.cumsum([len(episode) for episode in episodes]) - 1
    terminated, truncated, start = np.zeros((3, last[-1] + 1), np.bool_)
    terminated[last] = [episode.terminated for episode in episodes]
    truncated[last] = [episode.truncated for episode in episodes]
    start[[0, *last[:-1] + 1]] = True
    arrays: dict[str, np.ndarray | Pieces] = {
        "observation": Pieces([episode.observation[:-1] for episode in episodes]),
        "action": np.concatenate([episode.action for episode in episodes]),
        "reward": np.concatenate([episode.reward for episode in episodes]),
        "terminated": terminated,
        "truncated": truncated,
        "episode_start": start,
        "final_observation": Pieces([episode.observation[-1:] for episode in episodes]),
        "is_success": np.array([episode.is_success for episode in episodes]),
        "mode": np.array([episode.mode for episode in episodes]),
    }
    if any(episode.seed is not None for episode in episodes):
        arrays["seed"] = np.array([NOT_KNOWN if one.seed is None else one.seed for one in episodes], np.int64)
    if any(episode.solved_at is not None for episode in episodes):
        arrays["solved_at"] = np.array([one.solved_at or NOT_KNOWN for one in episodes], np.int64)
    if any(episode.reward_kind != "dataset" for episode in episodes):
        arrays["reward_kind"] = np.array([episode.reward_kind for episode in episodes])
    if any(episode.human is not None for episode in episodes):
        nobody = [np.zeros(len(one), np.bool_) if one.human is None else one.human for one in episodes]
        arrays["human"] = np.concatenate(nobody)
        known = np.array([episode.human is not None for episode in episodes])
        if not known.all():
            arrays["human_known"] = known
    if any(episode.proposals is not None for episode in episodes):
        arrays |= _proposal_arrays(path, episodes)
    if layout is not None:
        arrays["observation_layout"] = json_array(layout.describe())
    if task is not None:
        arrays["task"] = json_array(task.describe())
    write_archive(path, arrays, SCHEMA_VERSION, compress=layout is not None)  # images shrink to a tenth


def _proposal_arrays(path: Path, episodes: Sequence[Episode]) -> dict[str, np.ndarray]:
    first = np.cumsum([0, *map(len, episodes)])
    given = [(one.proposals, begin) for one, begin in zip(episodes, first, strict=False) if one.proposals is not None]
    if len(horizons := {proposals.horizon for proposals, _ in given}) > 1:
        raise DemonstrationError(f"{path}: proposals have {sorted(horizons)} actions: write one file for each policy")
    return {
        "proposal_step": np.concatenate([begin + proposals.step for proposals, begin in given]),
        "proposal": np.concatenate([proposals.chunk for proposals, _ in given]),
        "proposal_own": np.concatenate([proposals.own for proposals, _ in given]),
    }


def load_demonstrations(path: str | os.PathLike[str]) -> list[Episode]:
    """Read the episodes of a file with the schema of docs/how-to/demonstrations.md. Nothing is unpickled.

    Raises:
        DemonstrationError: The file is missing, unreadable, or does not match the schema.
    """
    return load_dataset(path).episodes


def load_dataset(path: str | os.PathLike[str]) -> Dataset:
    """Read the episodes and the task of a file. Raise the same errors as `load_demonstrations`."""
    path = Path(path)
    try:
        arrays = read_archive(path, _SCHEMA, SCHEMA_VERSION, "docs/how-to/demonstrations.md", in_order=_OBSERVATIONS)
        task = read_task(arrays)
        with rows_in_file() as file:
            if "observation_layout" in arrays:
                file.require_room(sum(arrays[name].size for name in _OBSERVATIONS))
            episodes = _episodes(arrays, task)
        if task is not None:
            _require_sizes(episodes, task.observation_size, task.action_dim, "its task describes other arrays")
    except (ValueError, OSError) as error:
        raise DemonstrationError(f"{path}: {one_line(error)}") from error
    return Dataset(episodes, task)


def task_of(episodes: Sequence[Episode]) -> TaskSpec | None:
    """Return the task that all of the episodes know, or None if none of them does.

    Raises:
        DemonstrationError: They are of different tasks.
    """
    tasks = {episode.task for episode in episodes}
    if len(tasks) > 1:
        raise DemonstrationError("the episodes are of different tasks, or only some know theirs: make them of one task")
    return next(iter(tasks), None)


def in_order_of(task: TaskSpec, dataset: Dataset) -> Dataset:
    """Rearrange the rows of a dataset so that the parts of its observations stand in the order of `task`.

    A dataset without a task, or with other parts than `task`, is returned as it is.
    """
    given = dataset.task
    if given is None:
        return dataset
    ordered = parts_in_order(task.observation, given.observation)
    if ordered == tuple(given.observation):
        return dataset
    return with_columns(dataset, {part: given.columns[part.name] for part in ordered})


def with_columns(dataset: Dataset, parts: Mapping[ObservationPart, np.ndarray]) -> Dataset:
    """Return a dataset whose observations are other parts, in the order in which they are given.

    Args:
        dataset: A dataset that knows its task.
        parts: The new parts, each with its columns in the present rows.
    """
    given = dataset.task
    assert given is not None
    task = replace(given, observation=tuple(parts))
    columns = np.concatenate(list(parts.values()))

    def chosen(observation: np.ndarray) -> np.ndarray:
        rows = observation[:, columns]
        if given.layout is not None and task.layout is None:  # no image is left, so the bytes are numbers again
            rows = np.ascontiguousarray(rows).view(np.float32)
        return rows

    with rows_in_file():
        episodes = [
            replace(episode, observation=chosen(episode.observation), layout=task.layout, task=task)
            for episode in dataset.episodes
        ]
    return Dataset(episodes, task)


def check_compatible(
    episodes: Sequence[Episode],
    observation_dim: ObservationSize,
    action_dim: int,
    *,
    recorded: TaskSpec | None = None,
    expected: TaskSpec | None = None,
) -> None:
    """Check that `episodes` match an environment.

    Args:
        episodes: The episodes.
        observation_dim: The observation size O of the environment, or the layout of its packed observations.
        action_dim: The action size A of the environment.
        recorded: The task of the episodes. None if it is not known.
        expected: The task of the environment. None if it is not known.

    Raises:
        TaskMismatch: Both tasks are known and differ. The message names every difference.
        DemonstrationError: An episode has other dimensions or another layout.
    """
    if recorded is not None and expected is not None:
        expected.require_same(recorded, "the demonstrations are of another task")
    advice = "use demonstrations recorded in this environment, with the same options"
    _require_sizes(episodes, observation_dim, action_dim, advice)


def _require_sizes(episodes: Sequence[Episode], observation_dim: ObservationSize, action_dim: int, advice: str) -> None:
    layout = observation_dim if isinstance(observation_dim, ObservationLayout) else None
    size = observation_dim.size if isinstance(observation_dim, ObservationLayout) else observation_dim
    for index, episode in enumerate(episodes):
        if episode.layout != layout:
            raise DemonstrationError(
                f"observations of demonstration {index} hold {_contents(episode.layout)}, expected "
                f"{_contents(layout)}: {advice}"
            )
        for name, got, expected in (
            ("observation", episode.observation_dim, size),
            ("action", episode.action_dim, action_dim),
        ):
            if got != expected:
                raise DemonstrationError(
                    f"{name} of demonstration {index} has {got} dimensions, expected {expected}: {advice}"
                )


def _contents(layout: ObservationLayout | None) -> str:
    parts = layout.parts if layout is not None else ()
    return ", ".join(f"{part.name} {part.dtype}{list(part.shape)}" for part in parts) or "numbers alone"


def _episodes(arrays: Mapping[str, Any], task: TaskSpec | None) -> list[Episode]:
    layout = None
    if "observation_layout" in arrays:
        layout = ObservationLayout.build(read_json(arrays["observation_layout"]))
    start, is_success = arrays["episode_start"], arrays["is_success"]
    if not start[0]:
        raise ValueError("episode_start[0] is False: the first step starts an episode, set it to True")
    unknown = np.full(len(is_success), NOT_KNOWN)
    seeds, solved_at = (arrays.get(name, unknown).tolist() for name in ("seed", "solved_at"))
    kinds: list[Any] = arrays["reward_kind"].tolist() if "reward_kind" in arrays else ["dataset"] * len(is_success)
    if "human_known" in arrays and "human" not in arrays:
        raise ValueError("human_known is given without human")
    human_known = arrays["human_known"].tolist() if "human_known" in arrays else ["human" in arrays] * len(is_success)
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

    proposed = _proposals(arrays, last + 1)

    episodes = []
    for index, (begin, end) in enumerate(zip(first, last + 1, strict=True)):
        with reading_episode(f"episode {index}, which starts at step {begin}"):
            episodes.append(
                Episode(
                    observation=np.concatenate(
                        [arrays["observation"][begin:end], arrays["final_observation"][index : index + 1]]
                    ),
                    action=arrays["action"][begin:end],
                    reward=arrays["reward"][begin:end],
                    terminated=arrays["terminated"][end - 1],
                    truncated=arrays["truncated"][end - 1],
                    is_success=is_success[index],
                    mode=arrays["mode"][index],
                    layout=layout,
                    task=task,
                    seed=None if seeds[index] == NOT_KNOWN else seeds[index],
                    solved_at=None if solved_at[index] == NOT_KNOWN else solved_at[index],
                    reward_kind=kinds[index],
                    human=arrays["human"][begin:end] if human_known[index] else None,
                    proposals=_within(proposed, begin, end),
                )
            )
    return episodes


_PROPOSALS = {"proposal_step", "proposal", "proposal_own"}


def _proposals(arrays: Mapping[str, np.ndarray], ends: np.ndarray) -> Proposals | None:
    """Return the proposals of all episodes, with steps in 0 ... N - 1. None if there are none."""
    if not (given := _PROPOSALS & arrays.keys()):
        return None
    if missing := _PROPOSALS - given:
        raise ValueError(f"missing {', '.join(sorted(missing))}: proposals need all three arrays")
    proposals = Proposals(*(arrays[name] for name in ("proposal_step", "proposal", "proposal_own")))
    if proposals.step[-1] >= ends[-1]:
        raise ValueError(f"proposal_step is {proposals.step[-1]}, expected a step, 0 ... {ends[-1] - 1}")
    return proposals


def _within(proposals: Proposals | None, begin: Any, end: Any) -> Proposals | None:
    """Return the proposals at the steps `begin` ... `end - 1` of an episode. None if there are none."""
    if proposals is None:
        return None
    rows = slice(*np.searchsorted(proposals.step, [begin, end]))
    if rows.start == rows.stop:
        return None
    return Proposals(proposals.step[rows] - begin, proposals.chunk[rows], proposals.own[rows])
