"""Own episodes that robots record, which come when they come."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from softflow.algos.base import Algorithm
from softflow.console import note, remark
from softflow.data import SUCCESS_REWARDS, Episode, RewardKind
from softflow.data.summary import count
from softflow.errors import UserError, one_line
from softflow.task import TaskSpec
from softflow.training.experience import Experience, Publication
from softflow.training.spool import Published, Spool

POLL = 0.5
"""Seconds between two looks for new episodes."""
ARMS = 100
"""Number of arms that are published at a time. A robot that needs more begins anew with the first."""


class RobotExperience(Experience):
    """Own episodes of robots, by a folder.

    Args:
        spool: The folder.
        task: The task of the episodes.
        reward: The rewards of the episodes, which follow from their success.
        seeds: One number for each episode, by which it is known.
        algorithm: Assigns the arms of episodes, and has the networks that robots need.
        updates: Returns the number of updates of the run so far.
        publish_every: The number of updates after which new networks are published. They are also published once arms
            mean other networks.
        interrupt: Raises an exception if the run was interrupted. Called while no episode comes.
    """

    def __init__(
        self,
        spool: Spool,
        task: TaskSpec,
        reward: RewardKind,
        seeds: Iterator[int],
        algorithm: Algorithm,
        updates: Callable[[], int],
        publish_every: int,
        interrupt: Callable[[], None],
    ) -> None:
        self._spool, self._task, self._rewards = spool, task, SUCCESS_REWARDS[reward]
        self._seeds, self._algorithm = seeds, algorithm
        self._updates, self._publish_every, self._interrupt = updates, publish_every, interrupt
        self._published: Publication | None = None
        self._arrived: dict[str, Episode] = {}
        self._taken: list[str] = []  # since the last checkpoint
        self._refused: set[str] = set()
        self._waits = False  # whether it was said that robots are waited for
        note(f"{len(spool.episodes())} episodes of robots wait in {spool.path}")

    def collect(self, steps: int) -> tuple[list[Episode], int]:
        """See `Experience`. Waits until robots have recorded enough."""
        self._publish()
        self._read_new()
        if not self._arrived and not self._waits:
            self._waits = True
            note(f"waiting for robots: softflow-robot run {self._spool.path} --robot ROBOT --out KEPT")
        while (executed := sum(map(len, self._arrived.values()))) < steps:
            self._interrupt()
            time.sleep(POLL)
            self._read_new()
        episodes = [replace(episode, seed=next(self._seeds)) for episode in self._arrived.values()]
        self._taken += self._arrived
        self._arrived.clear()
        return episodes, executed

    @property
    def running_seeds(self) -> list[int]:
        return []

    def state_dict(self) -> dict[str, list[str]]:
        """Return the names of the episodes that this checkpoint is the first to contain."""
        return {"taken": list(self._taken)}

    def load_state_dict(self, state: Any) -> int:
        self._spool.keep(state["taken"])
        return 0

    def next_stage(self) -> RobotExperience:
        """Go on, because the next checkpoint is the first to contain the latest episodes. Networks are published anew.

        Otherwise, the next stage would learn from them a second time.
        """
        self._published = None
        return self

    def checkpoint_saved(self) -> None:
        self._spool.keep(self._taken)
        self._taken.clear()

    def _publish(self) -> None:
        now = Publication(self._updates(), self._algorithm.arms_version)
        if now.is_due(self._published, self._publish_every):
            arms = [self._algorithm.assign() for _ in range(ARMS)]
            self._spool.publish(Published(self._algorithm.acting(), arms, now.updates))
            self._published = now

    def _read_new(self) -> None:
        known = {*self._arrived, *self._taken, *self._refused}
        for name in self._spool.episodes():
            if name in known:
                continue
            try:
                episode = self._spool.read(name)
                assert episode.task is not None
                self._task.require_same(episode.task, f"{name} is of another task")
                self._algorithm.require_arm(episode.arm, f"{name} is of another run")
            except UserError as error:
                self._refused.add(name)
                remark(f"an episode of a robot is left out: {one_line(error)}")
                continue
            self._arrived[name] = self._rewards.of(episode)
            ending = "success" if episode.is_success else "failure"
            note(f"{name}: {ending}, {count(len(episode), 'step')}, at {self._updates():,} updates")
