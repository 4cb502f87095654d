"""The builder that collects the steps of one environment into episodes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from softflow.data.episodes import Episode
from softflow.data.proposals import Proposals
from softflow.task.layout import ObservationLayout


class EpisodeBuilder:
    """Collects the steps of one environment into an `Episode`. A vector environment needs a builder for each one.

    Args:
        layout: The layout of the environment's observations, if they are packed.
        arm: The `arm` of the episode.
        seed: The `seed` of the episode.
    """

    def __init__(self, layout: ObservationLayout | None = None, arm: int = 0, seed: int | None = None) -> None:
        self._layout, self.arm, self.seed = layout, arm, seed
        self._observation: list[np.ndarray] = []
        self._action: list[np.ndarray] = []
        self._reward: list[float] = []
        self._decision: list[np.ndarray] = []
        self._proposed_at: list[int] = []
        self._proposed: list[np.ndarray] = []
        self._own: list[bool] = []

    def __len__(self) -> int:
        """The number of steps appended since the last `finish`."""
        return len(self._action)

    @property
    def last_action(self) -> np.ndarray | None:
        """The action (A,) of the last step appended. None if there is none."""
        return self._action[-1] if self._action else None

    def append(self, observation: np.ndarray, action: np.ndarray, reward: float) -> None:
        """Add one step: the observation (O,) before the action, the action (A,), and its reward.

        The arrays are copied, because vector environments reuse their buffers.
        """
        self._observation.append(np.array(observation))
        self._action.append(np.array(action))
        self._reward.append(float(reward))

    def decide(self, record: np.ndarray) -> None:
        """Add the record (K,) of the decision that the next steps execute."""
        self._decision.append(np.array(record))

    def propose(self, chunk: np.ndarray, own: bool) -> None:
        """Add the chunk (H, A) that the policy proposed for the next steps, and whether it is executed as proposed."""
        self._proposed_at.append(len(self))
        self._proposed.append(np.array(chunk))
        self._own.append(bool(own))

    def state_dict(self) -> dict[str, np.ndarray]:
        """Return the steps collected so far, for a checkpoint."""
        return {name: np.array(rows) for name, rows in self._rows().items()}

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """Restore the steps that `state_dict` returned. Earlier versions stored no proposals."""
        for name, rows in self._rows().items():
            saved = state[name] if name not in _PROPOSALS else state.get(name, np.empty(0))
            rows[:] = saved.tolist() if saved.ndim == 1 else list(saved)

    def _rows(self) -> dict[str, list[Any]]:
        return {
            "observation": self._observation,
            "action": self._action,
            "reward": self._reward,
            "decision": self._decision,
            **dict(zip(_PROPOSALS, (self._proposed_at, self._proposed, self._own), strict=True)),
        }

    def finish(
        self,
        final_observation: np.ndarray,
        terminated: bool,
        truncated: bool,
        is_success: bool,
        mode: int = -1,
        outcome: Mapping[str, float] | None = None,
    ) -> Episode:
        """Return the episode that ends with `final_observation` (O,), seen before any reset, and empty the builder.

        Raises:
            ValueError: No step was appended, or the episode is not valid (see `Episode`).
        """
        if not self._action:
            raise ValueError("no step to finish: call append for every step of the episode first")
        observation = np.stack([*self._observation, np.asarray(final_observation)])
        action, reward = np.stack(self._action), np.array(self._reward)
        decision = np.stack(self._decision) if self._decision else None
        proposals = None
        if self._proposed:
            proposals = Proposals(np.array(self._proposed_at), np.stack(self._proposed), np.array(self._own))
        for rows in self._rows().values():
            rows.clear()
        ending = terminated, truncated, is_success, mode
        return Episode(
            observation,
            action,
            reward,
            *ending,
            decision,
            outcome or {},
            self._layout,
            proposals=proposals,
            arm=self.arm,
            seed=self.seed,
        )


_PROPOSALS = ("proposed_at", "proposed", "own")
"""Names of the lists in the state of an `EpisodeBuilder` that become `Episode.proposals`."""
