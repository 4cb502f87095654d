"""A folder by which robots and a learner exchange episodes and networks. Neither waits for the other.

run.json                    the learner's settings and the task, from which a robot builds the method
acting.safetensors          the networks that act, replaced as they learn, and the arms of the next episodes
episodes/NAME.rec           episodes of robots, each one whole
learnt/NAME.rec             those that a checkpoint of the learner contains

The folder may be on a file system that both share, or be copied in both directions by any program that copies whole
files. Nothing in it is executed. A learner that is away costs nothing: the robots go on with the networks that they
have, and their episodes wait.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from softflow.algos.base import Acting
from softflow.data import Episode, read_dataset
from softflow.errors import UserError, one_line
from softflow.files import read_settings, written_whole
from softflow.task import TaskSpec

RUN, ACTING = "run.json", "acting.safetensors"
EPISODES, LEARNT = "episodes", "learnt"
SUFFIX = ".rec"


class Published(NamedTuple):
    """What the learner last published."""

    acting: Acting
    arms: list[int]
    """The behaviours of the next episodes, see `Algorithm.assign`."""
    updates: int
    """Updates of the run so far."""


class Spool:
    """The folder.

    Args:
        path: The folder. It is created if its parent exists.

    Raises:
        UserError: The folder cannot be created.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            for folder in (self.path, self.path / EPISODES, self.path / LEARNT):
                folder.mkdir(exist_ok=True)
        except OSError as error:
            raise UserError(f"{path}: cannot be the folder of robots: {one_line(error)}") from error

    def describe(self, settings: Mapping[str, Any], task: TaskSpec) -> None:
        """Write what a robot needs to know once: the settings of the run, as plain values, and its task."""
        with written_whole(self.path / RUN) as file:
            file.write_text(
                json.dumps({"settings": settings, "task": task.describe()}, indent=2) + "\n", encoding="utf-8"
            )

    # -------------------------------------------------------------------------------------------------- the learner

    def publish(self, published: Published) -> None:
        """Replace the networks that act."""
        acting, arms, updates = published
        tensors = {
            f"{part}|{key}": value.contiguous()
            for part, state in acting.networks.items()
            for key, value in state.items()
        }
        about = {"candidates": acting.candidates, "arms": arms, "updates": updates}
        with written_whole(self.path / ACTING) as file:
            file.write_bytes(save(tensors, {"about": json.dumps(about)}))

    def episodes(self) -> list[str]:
        """Return the names of the episodes that no checkpoint contains, in the order of their names."""
        here, learnt = ({file.name for file in (self.path / part).glob(f"*{SUFFIX}")} for part in (EPISODES, LEARNT))
        return sorted(here - learnt)  # a program that copies the folder may bring an episode again

    def read(self, name: str) -> Episode:
        """Read an episode.

        Raises:
            UserError: The file is damaged, or has not exactly one episode.
        """
        path = self.path / EPISODES / name
        episodes = read_dataset(path, "recording").episodes
        if len(episodes) != 1:
            raise UserError(f"{path}: it has {len(episodes)} episodes, expected one: move it away")
        return episodes[0]

    def keep(self, names: Sequence[str]) -> None:
        """Move episodes that a checkpoint contains to `learnt`. Those that are there already are left alone."""
        for name in names:
            path = self.path / EPISODES / name
            if path.exists():
                path.replace(self.path / LEARNT / name)

    # --------------------------------------------------------------------------------------------------- the robots

    def described(self) -> tuple[dict[str, Any], TaskSpec]:
        """Return the settings of the run and its task.

        Raises:
            UserError: They are missing or damaged.
        """
        path = self.path / RUN
        if not path.is_file():
            raise UserError(f"{path}: no such file: start softflow-train --robots {self.path} first")
        try:
            read = json.loads(read_settings(path))
            return dict(read["settings"]), TaskSpec.build(read["task"])
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise UserError(f"{path}: damaged: {one_line(error)}") from error

    def published(self) -> Published:
        """Return what the learner last published.

        Raises:
            UserError: Nothing has been published, or the file is damaged.
        """
        path = self.path / ACTING
        if not path.is_file():
            raise UserError(
                f"{path}: no such file: start softflow-train --robots {self.path} first, and wait until robots may act"
            )
        try:
            with safe_open(path, "pt") as file:
                about = json.loads(file.metadata()["about"])
                networks: dict[str, dict[str, torch.Tensor]] = {}
                for name in file.keys():
                    part, _, key = name.partition("|")
                    networks.setdefault(part, {})[key] = file.get_tensor(name)
            return Published(Acting(networks, int(about["candidates"])), list(about["arms"]), int(about["updates"]))
        except (SafetensorError, ValueError, KeyError, TypeError, OSError) as error:
            raise UserError(f"{path}: damaged: {one_line(error)}") from error
