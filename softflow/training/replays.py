"""The replays of a run: demonstrations and own episodes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from softflow.algos.base import Algorithm, Data
from softflow.data import Episode, ImitationRule, Replay
from softflow.data.takeovers import as_demonstration
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
    sizes = first.observation_dim, first.action_dim, first.observation.dtype
    of_own: Callable[[np.ndarray], np.ndarray] = np.asarray
    of_demonstration = of_own
    if frames is not None:
        sizes = frames.row_size, first.action_dim, frames.dtype
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

    unlearnt = fixed(held_out) if held_out else None
    for episode in held_out:
        assert unlearnt is not None
        unlearnt.add_episode(as_demonstration(episode, horizon))
    return Data(fixed(demonstrations), online, np.random.default_rng(config.seed), unlearnt)


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
