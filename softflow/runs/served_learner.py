"""What the policy process of `softflow-robot run` loads from the folder of a learner, and how it answers."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from softflow.algos import Acting
from softflow.console import remark
from softflow.data import Decision
from softflow.errors import UserError, one_line
from softflow.policies import ChunkGuard
from softflow.robot.plan import Proposal
from softflow.runs.assembly import make_algorithm, require_device, with_saved_weights
from softflow.runs.config import TrainConfig, class_for
from softflow.runs.served_policy import Answer, Served, share_cores
from softflow.settings.typed import from_dict
from softflow.task import TaskSpec
from softflow.training.experience import explorer
from softflow.training.random_state import seed_all
from softflow.training.spool import ACTING, RUN, Spool


def is_of_learner(folder: str) -> bool:
    """Return whether a folder is one by which robots and a learner exchange episodes and networks."""
    return (Path(folder) / RUN).is_file()


def settings_of_learner(folder: str) -> tuple[TrainConfig[Any], TaskSpec]:
    """Return the settings of the learner's run, and its task.

    Raises:
        UserError: They are missing or damaged, or of an algorithm that is not known here.
    """
    settings, task = Spool(folder).described()
    return from_dict(class_for(str(settings.get("algorithm"))), settings, str(Path(folder) / RUN)), task


def serve_learner(folder: str, device: str, guard_folder: str | None, seed: int) -> tuple[Served, _Follower]:
    """Build the method of a learner, and load the networks that it last published.

    Args:
        folder: The folder of the learner.
        device: The device of the networks, in torch's notation.
        guard_folder: A folder that `softflow-guard` wrote, whose limits of single actions apply. None for no limits.
        seed: Seeds the global random states, from which the policy draws.

    Raises:
        UserError: Something cannot be loaded, or the guard is of another task.
    """
    require_device(device)
    config, task = settings_of_learner(folder)
    share_cores(config.run.threads)
    config.run.device = device
    follower = _Follower(Spool(folder), config, task)
    limits = None
    if guard_folder is not None:
        guard = ChunkGuard.load(guard_folder, device)
        guard.require_fit(follower.deployed, "the guard")
        limits = guard.limits.of_steps()
    seed_all(seed)
    return Served(task, follower.n_action_steps, None, limits), follower


class _Follower:
    """Acts as the learner's method does for own episodes, by the newest networks from one episode to the next."""

    def __init__(self, spool: Spool, config: TrainConfig[Any], task: TaskSpec) -> None:
        self._algorithm = make_algorithm(with_saved_weights(config), task.observation_size, task.action_dim)
        self._explore = explorer(self._algorithm, config.run.device)
        self.n_action_steps, self.deployed = self._algorithm.n_action_steps, self._algorithm.deployed
        self.deployed.task = task
        self._spool, self._task = spool, task
        self._stamp: tuple[int, int] | None = None
        self._take(spool.published().acting)

    def __call__(self, row: NDArray[Any], previous: NDArray[np.floating] | None, arm: int) -> Answer:
        if previous is None:  # an episode begins
            self._refresh()
        decided = self._explore(row[None], np.array([arm]))
        if not isinstance(decided, Decision):
            decided = Decision(decided)
        if decided.record is not None:
            raise UserError("the method learns from records of its decisions, which robots do not keep")
        drawn = (decided.chunk if decided.proposed is None else decided.proposed)[0]
        return Answer(Proposal(self._task.native_actions(drawn), drawn), {})

    def _refresh(self) -> None:
        """Load the networks if they have changed. If they cannot be read, those from before go on."""
        try:
            status = os.stat(self._spool.path / ACTING)
            stamp = status.st_mtime_ns, status.st_size
            if stamp != self._stamp:
                self._take(self._spool.published().acting)
                self._stamp = stamp
        except (UserError, OSError) as error:
            remark(f"the robot goes on with the networks that it has: {one_line(error)}")

    @torch.no_grad()
    def _take(self, acting: Acting) -> None:
        try:
            self._algorithm.act_by(acting)
        except (RuntimeError, KeyError) as error:
            raise UserError(f"{self._spool.path}: its networks are of another run: {one_line(error)}") from error
