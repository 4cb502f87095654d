"""The replays of a run: demonstrations and own episodes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence

import numpy as np

from softflow.algos.base import Algorithm, Data
from softflow.data import Episode, ImitationRule, Replay, proposal_dtype, row_dtype
from softflow.data.takeovers import as_demonstration
from softflow.errors import UserError, one_line
from softflow.training.config import RunConfig
from softflow.training.frames import EncodedFrames
from softflow.training.progress import StageProgress
from softflow.training.run_folder import RunFolder


def make_data(
    algorithm: Algorithm,
    demonstrations: Sequence[Episode],
    held_out: Sequence[Episode],
    run_folder: RunFolder,
    config: RunConfig,
    frames: EncodedFrames | None,
) -> Data:
    """Make the replays and the random generator. With `frames` the replays store features in place of images.

    Those of demonstrations and of own episodes are empty. That of held-out demonstrations is full.
    """
    first = demonstrations[0]
    sizes = _sizes(first, frames)
    of_own: Callable[[np.ndarray], np.ndarray] = np.asarray
    of_demonstration = of_own
    if frames is not None:
        of_own, of_demonstration = frames.encode, frames.of_demonstration
    folder = run_folder.replay_path if config.replay_storage == "disk" else None
    horizon = algorithm.deployed.policy.horizon
    rule = ImitationRule(config.imitate).choose(demonstrations).rule
    n_action_steps = algorithm.n_action_steps
    online = Replay(
        config.replay_capacity, *sizes, folder, horizon, n_action_steps, imitate=rule, observation_rows=of_own
    )

    def fixed(episodes: Sequence[Episode]) -> Replay:
        rows = sum(len(episode) + 1 for episode in episodes)
        return Replay(rows, *sizes, horizon=horizon, imitate=rule, fixed=True, observation_rows=of_demonstration)

    unlearnt = None
    if held_out:
        unlearnt = fixed(held_out)
        for episode in held_out:
            unlearnt.add_episode(as_demonstration(episode, horizon))
    return Data(fixed(demonstrations), online, np.random.default_rng(config.seed), unlearnt)


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
    sizes, capacity = _sizes(episode, frames), config.replay_capacity
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


def _sizes(episode: Episode, frames: EncodedFrames | None) -> tuple[int, int, np.dtype]:
    """Return the sizes of rows of a replay: those of observations and actions, and the dtype of observations."""
    if frames is not None:
        return frames.row_size, episode.action_dim, frames.dtype
    return episode.observation_dim, episode.action_dim, episode.observation.dtype


def add_demonstrations(
    replay: Replay, demonstrations: Sequence[Episode], horizon: int, check: Callable[[], None], encodes: bool
) -> None:
    """Fill the replay of demonstrations. Where that takes time, because frames are encoded, show the progress.

    `check` is called after each episode, and may raise an error.
    """
    if not encodes:
        for episode in demonstrations:
            replay.add_episode(as_demonstration(episode, horizon))
        return
    with StageProgress("encoding", sum(len(episode) + 1 for episode in demonstrations)) as bar:
        for episode in demonstrations:
            check()
            replay.add_episode(as_demonstration(episode, horizon))
            bar.update(len(episode) + 1)
