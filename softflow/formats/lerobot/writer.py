"""Writing of LeRobot datasets. `docs/how-to/lerobot.md` describes what is written."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softflow.console import remark
from softflow.data.demonstrations import Dataset, check_compatible, task_of
from softflow.data.episodes import Episode
from softflow.errors import UserError
from softflow.files import written_whole
from softflow.formats.lerobot.episodes import DONE, REWARD, SUCCESS, TERMINATED, TRUNCATED
from softflow.formats.lerobot.features import OBSERVATION, action_feature, described, observed_features
from softflow.formats.lerobot.files import EPISODE_INDEX, FRAME_INDEX, Recording
from softflow.formats.lerobot.info import DATA_PATH, INFO, STATS, Feature
from softflow.formats.lerobot.metadata import (
    TASK_INDEX,
    require_new_folder,
    write_episode_list,
    write_json,
    write_task_text,
)
from softflow.formats.lerobot.statistics import DatasetStatistics
from softflow.formats.lerobot.step_tables import FILE_SIZE, FILES_PER_FOLDER, write_steps
from softflow.formats.lerobot.tables import open_table
from softflow.formats.lerobot.task import save_task
from softflow.task import ActionPart, ObservationPart, TaskSpec
from softflow.task.parts import UNNAMED

TIMESTAMP, INDEX = Feature("timestamp", "float32", (1,), None), Feature("index", "int64", (1,), None)
SLOWEST, FASTEST = 1e-3, 1e6
"""Control rates in hertz whose times float32 can tell apart."""
STEP_FEATURES = (
    Feature(REWARD, "float32", (1,), None),
    *(Feature(name, "bool", (1,), None) for name in (SUCCESS, TERMINATED, TRUNCATED, DONE)),
    *(TIMESTAMP, FRAME_INDEX, EPISODE_INDEX, INDEX, TASK_INDEX),  # these five are in every dataset of LeRobot
)
"""What is stored of a step besides observation and action."""


def write_lerobot(
    target: str | os.PathLike[str], dataset: Dataset, rate: float | None = None, text: str | None = None
) -> None:
    """Write a dataset to a folder of LeRobot, version 3.0, with images as PNG in its tables.

    `read_dataset` returns the same task and episodes, apart from what LeRobot does not store: the final observation of
    an episode, its `mode` and seed, and its steps at which a person acted (`human`). A remark says so.

    Args:
        target: A folder that does not exist yet.
        dataset: At least one episode.
        rate: The control rate in hertz, if the task does not contain it.
        text: What the robot does, in words, for language-conditioned policies. By default the name of the task.

    Raises:
        UserError: The target exists; the control rate is missing, or not the one of the task; or LeRobot cannot store
            the dataset.
        WriteError: The folder cannot be written.
    """
    target = Path(target)
    require_new_folder(target)
    try:
        task = _task_of(dataset, rate)
        observed, action = observed_features(task), action_feature(task)
        with written_whole(target) as folder:
            _write(folder, dataset.episodes, task, observed, action, task.name if text is None else text)
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"{target}: {error}") from error
    lost = ["the observation after the last action of an episode"]
    lost += ["its mode"] * any(episode.mode != -1 for episode in dataset.episodes)
    lost += ["the seed of its reset"] * any(episode.seed is not None for episode in dataset.episodes)
    lost += ["at which steps a person acted, so every step may be imitated"] * any(
        episode.human is not None for episode in dataset.episodes
    )
    remark(f"{target}: LeRobot does not store {', nor '.join(lost)}")


def _task_of(dataset: Dataset, rate: float | None) -> TaskSpec:
    """Return the task of a dataset with its control rate."""
    if not dataset.episodes:
        raise ValueError("no episodes to write")
    task = dataset.task or task_of(dataset.episodes) or _unnamed_task(dataset.episodes[0])
    check_compatible(dataset.episodes, task.observation_size, task.action_dim)
    return with_rate(task, rate)


def with_rate(task: TaskSpec, rate: float | None) -> TaskSpec:
    """Return a task with a control rate in hertz, which is given if the task does not contain it.

    Raises:
        ValueError: The rate is missing, is not the one of the task, or cannot be stored.
    """
    if task.rate is None and rate is None:
        raise ValueError("the control rate is not known: LeRobot needs it, so give it in hertz, as --rate 20")
    if task.rate is not None and rate not in (None, task.rate):
        raise ValueError(f"the control rate of the dataset is {task.rate:g} Hz, so {rate:g} Hz cannot be given")
    task = task if rate is None else replace(task, rate=rate)
    assert task.rate is not None
    if not SLOWEST <= task.rate <= FASTEST:
        raise ValueError(f"the control rate is {task.rate:g} Hz, LeRobot's times allow {SLOWEST:g} to {FASTEST:g} Hz")
    return task


def _unnamed_task(episode: Episode) -> TaskSpec:
    """Describe an episode that does not know its task. Its actions are taken to be in native units."""
    observation: tuple[ObservationPart, ...] = (ObservationPart(OBSERVATION, (episode.observation_dim,)),)
    if episode.layout is not None:
        observation = tuple(
            ObservationPart(part.name, part.shape, part.dtype, axes="HWC" if part.is_image else None)
            for part in episode.layout.parts
        )
    size = episode.action_dim
    return TaskSpec(observation, (ActionPart(UNNAMED, (-1.0,) * size, (1.0,) * size),))


def _write(
    root: Path, episodes: Sequence[Episode], task: TaskSpec, observed: Mapping[str, Feature], action: Feature, text: str
) -> None:
    rate = task.rate
    assert rate is not None
    features = [*observed.values(), action, *STEP_FEATURES]
    statistics = DatasetStatistics(features)
    places = write_steps(root, features, statistics.collect(_columns(episodes, task, observed, action)))
    for place in sorted(set(places)):
        open_table(root, place, features)  # raises for pictures that compress more than can be read again
    recordings = [
        Recording(index, len(episode), place, {})
        for index, (episode, place) in enumerate(zip(episodes, places, strict=True))
    ]
    (root / INFO).parent.mkdir()
    write_task_text(root, text)
    write_episode_list(root, recordings, rate, [[text]] * len(episodes), statistics.episodes)
    write_json(root / STATS, statistics.total())
    write_json(root / INFO, _description(features, rate, recordings))
    save_task(root, task)


def _solved(episode: Episode) -> NDArray[np.bool_]:
    """Return after which steps the task is solved, (T,), as far as it is known: the first of them, and the last."""
    solved = np.zeros(len(episode), np.bool_)
    if episode.solved_at is not None:
        solved[episode.solved_at - 1] = True
    solved[-1] = episode.is_success
    return solved


def _columns(
    episodes: Sequence[Episode], task: TaskSpec, observed: Mapping[str, Feature], action: Feature
) -> Iterator[dict[str, NDArray[Any]]]:
    """Yield the values (T, *shape) of each feature, episode by episode."""
    assert task.rate is not None
    first = 0
    for index, episode in enumerate(episodes):
        steps = len(episode)
        frame, is_last = np.arange(steps), np.arange(steps) == steps - 1
        columns = {
            action.name: task.native_actions(episode.action, action.dtype),
            REWARD: episode.reward,
            SUCCESS: _solved(episode),
            TERMINATED: is_last & episode.terminated,
            TRUNCATED: is_last & episode.truncated,
            DONE: is_last,
            TIMESTAMP.name: (frame / task.rate).astype(np.float32),
            FRAME_INDEX.name: frame,
            EPISODE_INDEX.name: np.full(steps, index),
            INDEX.name: first + frame,
            TASK_INDEX.name: np.zeros(steps, np.int64),
        }
        packed = task.split(episode.observation[:-1])
        for part in task.observation:
            feature, values = observed[part.name], packed[part.name]
            try:
                columns[feature.name] = values if part.is_image else part.unpack(values)
            except ValueError as error:
                raise ValueError(f"episode {index}: {error}") from error
        shapes = {feature.name: feature.shape for feature in (*observed.values(), action, *STEP_FEATURES)}
        yield {name: values.reshape(steps, *shapes[name]) for name, values in columns.items()}
        first += steps


def _description(features: Sequence[Feature], rate: float, recordings: Sequence[Recording]) -> dict[str, Any]:
    """The content of `meta/info.json`."""
    return {
        "codebase_version": "v3.0",
        "fps": int(rate) if rate == int(rate) else rate,
        "features": {feature.name: described(feature) for feature in features},
        "total_episodes": len(recordings),
        "total_frames": sum(one.length for one in recordings),
        "total_tasks": 1,
        "chunks_size": FILES_PER_FOLDER,
        "data_files_size_in_mb": FILE_SIZE,
        "data_path": DATA_PATH[3],
        "video_path": None,
        "robot_type": None,
        "splits": {"train": f"0:{len(recordings)}"},
    }
