"""The replays of a run: demonstrations and own episodes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from softflow.algos.base import Algorithm, Data, Stage
from softflow.data import Episode, ImitationRule, Replay, proposal_dtype, row_dtype
from softflow.data.takeovers import as_demonstration
from softflow.errors import UserError, one_line
from softflow.training.config import RunConfig
from softflow.training.frames import EncodedFrames, StoredRows
from softflow.training.progress import StageProgress
from softflow.training.run_folder import RunFolder


class Replays:
    """Makes the replays of a run.

    They store observations as they are. If frames are encoded, they store features of the frozen network in place of
    images, and what the whole encoder returns once it is fixed (`Stage.encoder_is_fixed`).

    Args:
        algorithm: The method.
        demonstrations: The episodes to learn from.
        config: The settings of the run.
        frames: Encodes images once, if the policy's encoder is frozen.
    """

    def __init__(
        self, algorithm: Algorithm, demonstrations: Sequence[Episode], config: RunConfig, frames: EncodedFrames | None
    ) -> None:
        self._algorithm, self._demonstrations, self._config, self._frames = algorithm, demonstrations, config, frames
        self._horizon = algorithm.deployed.policy.horizon
        self._rule = ImitationRule(config.imitate).choose(demonstrations).rule

    def data(self, held_out: Sequence[Episode], run_folder: RunFolder) -> Data:
        """Make the replays and the random generator.

        Those of demonstrations and of own episodes are empty. That of held-out demonstrations is full.
        """
        config, folder = self._config, run_folder.replay_path if self._config.replay_storage == "disk" else None
        first, n_action_steps = self._demonstrations[0], self._algorithm.n_action_steps
        rows = rows_of_own(self._algorithm, first, self._frames)
        online = Replay(
            config.replay_capacity, rows.size, first.action_dim, rows.dtype, folder, self._horizon, n_action_steps,
            imitate=self._rule, observation_rows=rows.of_own,
        )  # fmt: skip
        unlearnt = None
        if held_out:
            unlearnt = self._fixed(held_out, _rows(first, self._frames, read=False))
            for episode in held_out:
                unlearnt.add_episode(as_demonstration(episode, self._horizon))
        empty = self._fixed(self._demonstrations, _rows(first, self._frames, read=False))
        return Data(empty, online, np.random.default_rng(config.seed), unlearnt)

    def with_demonstrations(self, data: Data, stage: Stage, check: Callable[[], None]) -> Data:
        """Return data whose replay of demonstrations is full, with such rows as the stage takes.

        Where filling it takes time, because frames are encoded, the progress is shown.

        Args:
            data: The data.
            stage: The stage that begins or continues. If its encoder is fixed, its weights must be so already.
            check: Called after each episode that was encoded. It may raise an error.
        """
        read = stage.encoder_is_fixed and _reads_own(self._algorithm)
        rows = _rows(self._demonstrations[0], self._frames, read)
        if data.offline.steps and data.offline.observation_dtype == rows.dtype:
            return data
        replay = self._fixed(self._demonstrations, rows)
        if self._frames is None:
            for episode in self._demonstrations:
                replay.add_episode(as_demonstration(episode, self._horizon))
            return replace(data, offline=replay)
        with StageProgress("encoding", replay.capacity) as bar:
            for episode in self._demonstrations:
                check()
                replay.add_episode(as_demonstration(episode, self._horizon))
                bar.update(len(episode) + 1)
        return replace(data, offline=replay)

    def _fixed(self, episodes: Sequence[Episode], rows: StoredRows) -> Replay:
        capacity, action_dim = sum(len(episode) + 1 for episode in episodes), episodes[0].action_dim
        return Replay(
            capacity, rows.size, action_dim, rows.dtype, horizon=self._horizon, imitate=self._rule, fixed=True,
            observation_rows=rows.of_demonstration,
        )  # fmt: skip


def rows_of_own(algorithm: Algorithm, episode: Episode, frames: EncodedFrames | None) -> StoredRows:
    """Return what the replay of own episodes, of the sizes of `episode`, stores of their observations.

    It is the same in the whole run, because no rows can be made of rows that are stored already.
    """
    return _rows(episode, frames, _reads_own(algorithm))


def read_from(algorithm: Algorithm) -> str | None:
    """Return the name of the first stage with rows of what the encoder returns. None if there is none."""
    fixed = [stage.name for stage in algorithm.schedule() if stage.encoder_is_fixed]
    return fixed[0] if fixed and _reads_own(algorithm) else None


def _rows(episode: Episode, frames: EncodedFrames | None, read: bool) -> StoredRows:
    if frames is None:
        return StoredRows(episode.observation_dim, episode.observation.dtype)
    return frames.read if read else frames.features


def _reads_own(algorithm: Algorithm) -> bool:
    """Return whether the encoder is fixed in all stages with own episodes, which share batches with demonstrations."""
    stages = algorithm.stages()
    first = next((number for number, stage in enumerate(stages) if stage.acts), -1)
    return all(stage.encoder_is_fixed for stage in stages[first:])


def require_room(
    config: RunConfig, folder: RunFolder, episode: Episode, algorithm: Algorithm, frames: EncodedFrames | None
) -> None:
    """Raise `UserError` if there is no room for the own episodes of a run, in memory or on disk.

    Files are made for all of `replay_capacity`. Memory is only needed for the steps that the stages of the run execute.

    Args:
        config: The settings of the run.
        folder: Its folder.
        episode: An episode with the sizes of own ones.
        algorithm: The method.
        frames: Encodes images once, if the policy's encoder is frozen.
    """
    rows, capacity = rows_of_own(algorithm, episode, frames), config.replay_capacity
    sizes = rows.size, episode.action_dim, rows.dtype
    horizon, n_action_steps = algorithm.deployed.policy.horizon, algorithm.n_action_steps
    size = row_dtype(*sizes).itemsize + proposal_dtype(horizon, episode.action_dim).itemsize / n_action_steps
    if config.replay_storage == "disk":
        free = shutil.disk_usage(folder.path).free
        if size * capacity > free and not config.resume:
            raise UserError(
                f"replay_capacity {capacity:,}: {size * capacity / 1e9:,.1f} GB of rows, and {folder.given} has "
                f"{free / 1e9:,.1f} GB free: set replay_capacity lower"
            )
        return
    steps = min(capacity, sum(stage.environment_steps for stage in algorithm.stages()))
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if size * steps > memory:
        raise UserError(
            f"replay_capacity {capacity:,}: {steps:,} steps of own episodes take {size * steps / 1e9:,.1f} GB, and "
            f"there are {memory / 1e9:,.1f} GB of memory: set replay_capacity lower, or --replay-storage disk"
        )
    try:
        Replay(capacity, *sizes, horizon=horizon, n_action_steps=n_action_steps)
    except (ValueError, MemoryError) as error:
        raise UserError(f"replay_capacity {capacity}: {one_line(error)}") from error


def require_whole_episodes(
    config: RunConfig, algorithm: Algorithm, demonstrations: Sequence[Episode], limit: int | None
) -> None:
    """Raise `UserError` if the replay cannot hold the longest episode, by the time limit or else the demonstrations."""
    longest = limit or max(map(len, demonstrations))
    if longest < config.replay_capacity or not any(stage.acts for stage in algorithm.stages()):
        return
    known = "the environment's time limit is" if limit else "the longest demonstration has"
    raise UserError(
        f"replay_capacity {config.replay_capacity:,} is too small for one episode, {known} {longest:,} steps: set "
        f"--replay-capacity to {longest + 1} or more"
    )
