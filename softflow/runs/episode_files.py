"""Episodes of a robot for a learner: each in a file of its own, kept here and brought to the learner's folder."""

from __future__ import annotations

import os
import shutil
import socket
import time
from pathlib import Path
from typing import Any

from softflow.console import remark
from softflow.data.recording import Recording
from softflow.errors import UserError, one_line
from softflow.files import written_whole
from softflow.task import TaskSpec
from softflow.training.spool import EPISODES, LEARNT, SUFFIX, Spool

UNFINISHED = ".part"


class EpisodeFiles:
    """Records like `Recording`, with a new file for each episode.

    An episode that cannot be brought to the learner, because its folder is out of reach, is brought after a later one.
    Episodes that an earlier process was recording when it was killed are brought as they are.

    Args:
        folder: Where the files are kept. It is created.
        spool: The folder of the learner.
        task: What is observed and done.

    Attributes:
        arm: The behaviour of the present episode, or of the next one while none runs.

    Raises:
        UserError: The folder cannot be created, or the learner has published nothing.
    """

    def __init__(self, folder: str, spool: Spool, task: TaskSpec) -> None:
        self._folder, self._spool, self._task = Path(folder), spool, task
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{folder}: cannot keep episodes: {one_line(error)}") from error
        self._name = f"{socket.gethostname()}-{time.time_ns():x}"  # of no other process
        self._number = 0
        self._arms = spool.published().arms
        self._file: Recording | None = None
        for left in sorted(self._folder.glob(f"*{SUFFIX}{UNFINISHED}")):
            left.replace(left.with_suffix(""))
        self._bring()

    @property
    def arm(self) -> int:
        return self._arms[self._number % len(self._arms)]

    def step(self, *args: Any, **named: Any) -> None:
        """Append a step, see `Recording.step`."""
        if self._file is None:
            self._file = Recording(f"{self._path}{UNFINISHED}", self._task, self.arm)
        self._file.step(*args, **named)

    def end(self, *args: Any, **named: Any) -> None:
        """Append the end of the episode, see `Recording.end`, and bring the episode to the learner."""
        assert self._file is not None, "an episode has steps"
        self._file.end(*args, **named)
        self._finish()

    def close(self) -> None:
        """Bring an episode that was stopped as it is."""
        if self._file is not None:
            self._finish()

    @property
    def _path(self) -> Path:
        return self._folder / f"{self._name}-{self._number:06}{SUFFIX}"

    def _finish(self) -> None:
        assert self._file is not None
        self._file.close()
        os.replace(f"{self._path}{UNFINISHED}", self._path)
        self._file = None
        self._number += 1
        self._bring()

    def _bring(self) -> None:
        """Copy all episodes that the learner's folder does not have, and read the arms of the next ones."""
        try:
            for file in sorted(self._folder.glob(f"*{SUFFIX}")):
                places = [self._spool.path / part / file.name for part in (EPISODES, LEARNT)]
                if not any(place.exists() for place in places):
                    with written_whole(places[0]) as copy:
                        shutil.copyfile(file, copy)
            self._arms = self._spool.published().arms or self._arms
        except (OSError, UserError) as error:
            remark(f"the learner's folder is out of reach, and the robot goes on without it: {one_line(error)}")
