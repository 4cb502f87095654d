"""Checks, before a run trains, that its replay has room: for its rows on the machine, and for a whole episode."""

from __future__ import annotations

import shutil
from collections.abc import Sequence

from softflow.algos import Algorithm
from softflow.data import Episode, Replay, proposal_dtype, row_dtype
from softflow.errors import UserError, one_line
from softflow.training.config import RunConfig
from softflow.training.frames import EncodedFrames
from softflow.training.run_folder import RunFolder


def require_room(
    config: RunConfig, folder: RunFolder, episode: Episode, algorithm: Algorithm, frames: EncodedFrames | None
) -> None:
    """Raise `UserError` if a replay of this capacity does not fit in memory or on disk."""
    sizes = episode.observation_dim, episode.action_dim, episode.observation.dtype
    if frames is not None:
        sizes = frames.row_size, episode.action_dim, frames.dtype
    horizon, n_action_steps = algorithm.deployed.policy.horizon, algorithm.n_action_steps
    if config.replay_storage == "disk":
        chunk, row = proposal_dtype(horizon, episode.action_dim), row_dtype(*sizes)
        needed = config.replay_capacity * (row.itemsize + chunk.itemsize / n_action_steps)
        free = shutil.disk_usage(folder.path).free
        if needed > free and not config.resume:
            raise UserError(
                f"replay_capacity {config.replay_capacity:,}: {needed / 1e9:,.1f} GB of rows, and {folder.given} has "
                f"{free / 1e9:,.1f} GB free: set replay_capacity lower"
            )
        return
    try:
        Replay(config.replay_capacity, *sizes, horizon=horizon, n_action_steps=n_action_steps)
    except (ValueError, MemoryError) as error:
        raise UserError(f"replay_capacity {config.replay_capacity}: {one_line(error)}") from error


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
