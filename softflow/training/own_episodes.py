"""Own episodes that have ended, in the order in which they started, and moving averages of their results."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from softflow.data import Episode, Proposals
from softflow.task.layout import ObservationLayout

RECENT_EPISODES = 50
"""Number of own episodes in the moving averages of return, length and success."""


class EpisodeResult(NamedTuple):
    """The results of an own episode that enter the moving averages."""

    reward: float
    length: int
    is_success: bool


class OwnEpisodes:
    """Sorts episodes by their start. An episode is held back until all earlier ones have ended or were lost.

    Without this, the first episodes that end would be the shortest ones, which are often the successful ones. For the
    same reason there are no moving averages until as many episodes have been released as run side by side.

    Args:
        layout: The layout of packed observations. None if an observation is numbers.

    Attributes:
        released: The number of episodes that `add` has returned in the whole run.
    """

    def __init__(self, layout: ObservationLayout | None = None) -> None:
        self.released = 0
        self._layout = layout
        self._held: list[Episode] = []
        self._recent: deque[EpisodeResult] = deque(maxlen=RECENT_EPISODES)
        self._side_by_side = 0

    def add(self, ended: Sequence[Episode], running: Collection[int]) -> list[Episode]:
        """Add episodes, and return those that all earlier ones have preceded, in the order of their start.

        Args:
            ended: Episodes that have just ended. Their seeds increase in the order in which they started.
            running: The seeds of the episodes in progress.
        """
        oldest = min(running, default=None)
        self._side_by_side = len(running)
        held = sorted([*self._held, *ended], key=_seed_of)
        number = sum(oldest is None or _seed_of(episode) < oldest for episode in held)
        released, self._held = held[:number], held[number:]
        self._recent.extend(EpisodeResult(float(e.reward.sum()), len(e), e.is_success) for e in released)
        self.released += number
        return released

    def clear(self) -> None:
        """Forget the episodes held back and the moving averages, when a stage ends."""
        self._held.clear()
        self._recent.clear()

    def scalars(self) -> dict[str, float]:
        """Return the moving averages. Empty as long as there are too few episodes."""
        if len(self._recent) < max(1, min(self._side_by_side, RECENT_EPISODES)):
            return {}
        reward, length, success = np.mean(list(self._recent), axis=0).tolist()
        return {"rollout/ep_rew_mean": reward, "rollout/ep_len_mean": length, "rollout/success_rate": success}

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a checkpoint: arrays, numbers, strings and None in nested dicts and lists."""
        return {
            "released": self.released,
            "recent": [tuple(result) for result in self._recent],
            "held": [_state_of(episode) for episode in self._held],
            "side_by_side": self._side_by_side,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.released = state["released"]
        self._recent.extend(EpisodeResult(*result) for result in state["recent"])
        self._held = [self._episode_of(saved) for saved in state["held"]]
        self._side_by_side = state.get("side_by_side", 0)  # absent in older checkpoints

    def _episode_of(self, saved: Mapping[str, Any]) -> Episode:
        proposals = None if saved["proposals"] is None else Proposals(**saved["proposals"])
        return Episode(**{**saved, "proposals": proposals}, layout=self._layout)


_FIELDS = "observation action reward terminated truncated is_success mode decision outcome arm seed".split()
"""The fields of an own episode that are saved as they are. Its layout is that of the run, and its task is not known."""


def _state_of(episode: Episode) -> dict[str, Any]:
    proposals = None if episode.proposals is None else dict(vars(episode.proposals))
    return {**{name: getattr(episode, name) for name in _FIELDS}, "proposals": proposals}


def _seed_of(episode: Episode) -> int:
    assert episode.seed is not None
    return episode.seed
