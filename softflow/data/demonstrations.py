"""Demonstrations on disk: one .npz file, its schema in docs/demonstrations.md."""

from __future__ import annotations

import difflib
import os
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from softflow.data.episodes import Episode
from softflow.errors import UserError

SCHEMA_VERSION = 1


class _Field(NamedTuple):
    """What an array of the file must be: its axes (N steps in all, E episodes, O, A) and its kind of numbers."""

    axes: str
    kind: str

    @property
    def shape(self) -> str:
        return f"({self.axes},)" if len(self.axes) == 1 else f"({', '.join(self.axes)})"


_KINDS = {"number": "iuf", "bool": "b", "integer": "iu"}  # as numpy's dtype.kind
_SCHEMA = {
    "observation": _Field("NO", "number"),
    "action": _Field("NA", "number"),
    "reward": _Field("N", "number"),
    "terminated": _Field("N", "bool"),
    "truncated": _Field("N", "bool"),
    "episode_start": _Field("N", "bool"),
    "final_observation": _Field("EO", "number"),
    "is_success": _Field("E", "bool"),
    "mode": _Field("E", "integer"),
    "schema_version": _Field("", "integer"),
}


class DemonstrationError(UserError):
    """Demonstrations that cannot be used; the message is one line that says where and why."""


def save_demonstrations(path: str | os.PathLike[str], episodes: Sequence[Episode]) -> None:
    """Write `episodes` to `path`, replacing a file of that name only once the new one is complete.

    Raises:
        DemonstrationError: no episodes, or episodes with different dimensions.
    """
    path = Path(path)
    if not episodes:
        raise DemonstrationError(f"{path}: no episodes to write")
    check_compatible(episodes, episodes[0].observation_dim, episodes[0].action_dim)
    last = np.cumsum([len(episode) for episode in episodes]) - 1
    terminated, truncated, start = np.zeros((3, last[-1] + 1), np.bool_)
    terminated[last] = [episode.terminated for episode in episodes]
    truncated[last] = [episode.truncated for episode in episodes]
    start[[0, *last[:-1] + 1]] = True
    arrays: dict[str, Any] = {
        "observation": np.concatenate([episode.observation[:-1] for episode in episodes]),
        "action": np.concatenate([episode.action for episode in episodes]),
        "reward": np.concatenate([episode.reward for episode in episodes]),
        "terminated": terminated,
        "truncated": truncated,
        "episode_start": start,
        "final_observation": np.stack([episode.observation[-1] for episode in episodes]),
        "is_success": np.array([episode.is_success for episode in episodes]),
        "mode": np.array([episode.mode for episode in episodes]),
        "schema_version": np.array(SCHEMA_VERSION),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with unfinished.open("wb") as file:
            np.savez(file, **arrays)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def load_demonstrations(path: str | os.PathLike[str]) -> list[Episode]:
    """Read the episodes of a file in the schema of docs/demonstrations.md. Nothing is unpickled.

    Raises:
        DemonstrationError: the file is missing, unreadable, or not in the schema.
    """
    path = Path(path)
    try:
        return _episodes(_read(path))
    except ValueError as error:
        raise DemonstrationError(f"{path}: {' '.join(str(error).split())}") from error


def check_compatible(episodes: Sequence[Episode], observation_dim: int, action_dim: int) -> None:
    """Check that `episodes` have the dimensions of an environment.

    Raises:
        DemonstrationError: one of them has not.
    """
    for index, episode in enumerate(episodes):
        for name, got, expected in (
            ("observation", episode.observation_dim, observation_dim),
            ("action", episode.action_dim, action_dim),
        ):
            if got != expected:
                raise DemonstrationError(
                    f"{name} of demonstration {index} has {got} dimensions, expected {expected}: "
                    "use demonstrations recorded in this environment"
                )


def _read(path: Path) -> dict[str, np.ndarray]:
    """The arrays of the file, of whatever shape and type they are."""
    if not path.exists():
        raise ValueError("no such file")
    try:
        with path.open("rb") as file:
            signature = file.read(2)
        if not signature:
            raise ValueError("the file is empty: record it again")
        if signature != b"PK":
            raise ValueError("not an .npz file: write it with save_demonstrations or numpy.savez")
        with zipfile.ZipFile(path) as archive:
            if damaged := archive.testzip():
                raise zipfile.BadZipFile(f"bad checksum of {damaged}")
            _check_names([name.removesuffix(".npy") for name in archive.namelist()])
        with np.load(path, allow_pickle=False) as arrays:
            return {name: _array(arrays, name) for name in _SCHEMA}
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        raise ValueError(f"the file is truncated or corrupt ({error}): copy or record it again") from error
    except OSError as error:
        raise ValueError(f"cannot be read ({error.strerror or error})") from error


def _array(arrays: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    try:
        return np.asarray(arrays[name])
    except ValueError as error:  # Python objects, or a damaged header
        raise ValueError(f"{name} cannot be read ({error}): save a plain array of numbers") from error


def _check_names(names: Sequence[str]) -> None:
    for name in names:
        if name not in _SCHEMA:
            nearest = difflib.get_close_matches(name, _SCHEMA, n=1, cutoff=0)[0]
            raise ValueError(f"unknown array '{name}', the nearest known one is '{nearest}'")
    if missing := [name for name in _SCHEMA if name not in names]:
        raise ValueError(f"missing {', '.join(missing)}: docs/demonstrations.md lists the arrays of the file")


def _check_shapes(arrays: Mapping[str, np.ndarray]) -> None:
    """Kinds and axes of every array, and equal lengths along equal axes; `observation` sets O and N, and so on."""
    sizes: dict[str, tuple[int, str]] = {}
    for name, field in _SCHEMA.items():
        array = arrays[name]
        if array.dtype.kind not in _KINDS[field.kind] or array.ndim != len(field.axes):
            raise ValueError(
                f"{name} must be {field.kind}s of shape {field.shape}, got {array.dtype} of shape {array.shape}"
            )
        for axis, size in zip(field.axes, array.shape, strict=True):
            expected, source = sizes.setdefault(axis, (size, name))
            if size != expected:
                raise ValueError(f"{name} has {axis} = {size}, but {source} has {axis} = {expected}")
        if array.size == 0:
            raise ValueError(f"{name} is empty, of shape {array.shape}: record at least one step")


def _episodes(arrays: Mapping[str, np.ndarray]) -> list[Episode]:
    _check_version(arrays["schema_version"])
    _check_shapes(arrays)
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
                )
            )
        except ValueError as error:
            raise ValueError(f"episode {index}, which starts at step {begin}: {error}") from error
    return episodes


def _check_version(version: np.ndarray) -> None:
    if version.shape or version.dtype.kind not in "iu" or version != SCHEMA_VERSION:
        raise ValueError(f"schema_version is {version}, this version of softflow reads {SCHEMA_VERSION}")
