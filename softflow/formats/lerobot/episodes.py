"""The episodes of a LeRobot dataset, from its tables and videos."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np

from softflow.console import remark
from softflow.data.damage import reading_episode
from softflow.data.demonstrations import Dataset
from softflow.data.episodes import Episode
from softflow.formats.flat import require_flags
from softflow.formats.lerobot.files import Recording, episode_tables, read_recordings, require_modest_video
from softflow.formats.lerobot.info import IncompleteError, Info, read_info
from softflow.formats.lerobot.repair import advice
from softflow.formats.lerobot.tables import numbers, pictures
from softflow.formats.lerobot.task import RecordedTask, recorded_task
from softflow.formats.lerobot.video import CameraFrames
from softflow.formats.parts import arranged
from softflow.formats.room import take_room
from softflow.task import TaskSpec
from softflow.task.actions import ActionOutOfBounds

REWARD, SUCCESS, DONE = "next.reward", "next.success", "next.done"
TERMINATED, TRUNCATED = "next.terminated", "next.truncated"
ASSUMED = {REWARD: "all rewards are 0", SUCCESS: "no episode is known as a success"}
"""What is assumed where a column is missing."""


def read_episodes(root: Path, wanted: TaskSpec | None) -> Dataset:
    """Read all episodes of a dataset. See `LeRobotReader`.

    Raises:
        ValueError: The dataset is damaged, incomplete or not of the task `wanted`.
    """
    info = read_info(root)
    try:
        # first, because an interrupted recording may have no statistics either
        recordings = read_recordings(root, info)
        recorded = recorded_task(root, info, wanted)
        episodes = _episodes(root, info, recordings, recorded)
    except IncompleteError as error:
        raise ValueError(f"{error}: {advice(root, info)}") from error
    missing = [f"there is no {name}, so {assumed}" for name, assumed in ASSUMED.items() if name not in info.features]
    for assumption in recorded.assumptions + missing:  # last, because an error is one line
        remark(f"{root}: {assumption}")
    return Dataset(episodes, recorded.task)


def _episodes(root: Path, info: Info, recordings: Sequence[Recording], recorded: RecordedTask) -> list[Episode]:
    used = {feature.name: feature for feature in recorded.features.values()}
    labels = [info.features[name] for name in (REWARD, SUCCESS, DONE, TERMINATED, TRUNCATED) if name in info.features]
    for label in labels:
        if not label.is_numbers or label.size != 1:
            raise ValueError(
                f"{label.name} is {label.dtype} of shape {list(label.shape)}, expected one number per step"
            )
    columns = [*(one for one in used.values() if one.dtype != "video"), recorded.action, *labels]
    episodes = []
    with ExitStack() as opened:
        cameras = {}
        for camera in (one for one in used.values() if one.dtype == "video"):
            require_modest_video(root, camera, recordings)
            cameras[camera.name] = opened.enter_context(closing(CameraFrames(root, camera, info.fps)))
        take_room(root, recorded.task, [recording.length for recording in recordings])
        for recording, table in zip(recordings, episode_tables(root, recordings, columns), strict=True):
            with reading_episode(f"episode {recording.index}"):
                arrays = {}
                for name, feature in used.items():
                    if name in cameras:
                        arrays[name] = cameras[name].read(*recording.videos[name], recording.length)
                    else:
                        arrays[name] = (pictures if feature.is_image else numbers)(recording.data, table, feature)
                said = {label.name: numbers(recording.data, table, label).reshape(-1) for label in labels}
                action = numbers(recording.data, table, recorded.action)[:, recorded.order]
                episodes.append(_episode(recorded, arrays, action, said))
    return episodes


def _episode(
    recorded: RecordedTask, arrays: Mapping[str, np.ndarray], action: np.ndarray, said: Mapping[str, np.ndarray]
) -> Episode:
    task, steps = recorded.task, len(action)
    observations = {}
    for part in task.observation:
        feature = recorded.features[part.name]
        array = arrays[feature.name]
        if part.is_image:
            observations[part.name] = part.unpack(array)
        else:
            observations[part.name] = arranged(array, feature.as_part(), part)
    if recorded.is_bounded_by_statistics and np.isfinite(action).all():
        try:
            task.unit_actions(action)
        except ActionOutOfBounds as error:
            raise ValueError(
                f"{error}, the extremes in the statistics of the dataset: compute these with lerobot, or name the "
                "environment, whose bounds are then used"
            ) from error
    flags = {name: require_flags(name, values) for name, values in said.items() if name != REWARD}
    reached = flags.get(SUCCESS, np.zeros(steps, np.bool_))
    terminated, truncated = _ending({name: bool(values[-1]) for name, values in flags.items()})
    return Episode.from_native(
        task,
        observations,
        action,
        said.get(REWARD, np.zeros(steps, np.float32)),
        terminated=terminated,
        truncated=truncated,
        is_success=bool(reached.any() if task.success == "any" else reached[-1]),
        final_observation_missing=True,
        solved=reached,
    )


def _ending(last: Mapping[str, bool]) -> tuple[bool, bool]:
    """Return whether an episode terminated and whether it was truncated, from the flags of its last step."""
    if TERMINATED in last:
        return last[TERMINATED], last.get(TRUNCATED, False) or not last[TERMINATED]
    solved = last.get(SUCCESS, DONE in last)
    terminated = last.get(DONE, True) and solved and not last.get(TRUNCATED, False)
    return terminated, not terminated
