"""All demonstrated chunks, for models that compare a policy's chunks with demonstrations."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from softflow.data.episodes import Episode
from softflow.data.imitable import REWARD_TO_COME, ImitationRule
from softflow.errors import UserError


def whole_chunks(
    episodes: Sequence[Episode],
    horizon: int,
    summary: Callable[[np.ndarray], np.ndarray] = np.asarray,
    imitate: ImitationRule = REWARD_TO_COME,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the observations (N, O) and chunks (N, H, A) that start at least H steps before an episode's end.

    Chunks cut short by an episode's end are left out. Imitation pads them by repeating the last action, but a policy
    can seldom observe that an episode is about to end, so padded chunks are not examples of likely behaviour. Chunks
    that start at a step that is not worth imitating are left out as well, as in imitation.

    Args:
        episodes: The episodes.
        horizon: The number of actions in a chunk, H.
        summary: Applied to the observations of one episode at a time, (n, O) -> (n, S), so that images need not all be
            in memory. The result then has S in place of O.

    Raises:
        UserError: No chunk is left.
    """
    observations, chunks = list[np.ndarray](), list[np.ndarray]()
    for episode in episodes:
        starts = np.flatnonzero(imitate.worth(episode)[: max(0, len(episode) - horizon + 1)])
        if len(starts):
            observations.append(summary(episode.observation[starts]))
            chunks.append(episode.action[starts[:, None] + np.arange(horizon)])
    if not chunks:
        imitate.require_some(episodes)
        raise UserError(f"no episode has {horizon} steps, of which the first is worth imitating: give longer ones")
    return np.concatenate(observations), np.concatenate(chunks)
