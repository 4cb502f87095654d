"""Every chunk that was demonstrated, for whoever judges by demonstrations rather than learns from them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from softflow.data.episodes import Episode
from softflow.errors import UserError


def whole_chunks(episodes: Sequence[Episode], horizon: int) -> tuple[np.ndarray, np.ndarray]:
    """What was seen and done wherever an episode goes on for H steps: observations (N, O) and chunks (N, H, A).

    Chunks cut short by an episode's end are left out: imitation learns them with the last action held, but when an
    episode will end is seldom to be seen, and held ends are no example of what is likely. So are, as in imitation,
    those that no reward comes after.

    Raises:
        UserError: no chunk is left.
    """
    observations, chunks = list[np.ndarray](), list[np.ndarray]()
    for episode in episodes:
        return_to_go = np.cumsum(episode.reward[::-1], dtype=np.float64)[::-1]
        starts = np.flatnonzero(return_to_go[: max(0, len(episode) - horizon + 1)] > 0)
        observations.append(episode.observation[starts])
        chunks.append(episode.action[starts[:, None] + np.arange(horizon)])
    if not any(map(len, chunks)):
        raise UserError(
            f"no episode has {horizon} steps with reward after them: give demonstrations that earn some, for instance "
            "1 on the step that succeeded"
        )
    return np.concatenate(observations), np.concatenate(chunks)
