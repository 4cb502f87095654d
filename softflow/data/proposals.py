"""The chunks that a policy proposed in an episode."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from softflow.data.checks import kind_of, numbers


@dataclass(frozen=True, eq=False)
class Proposals:
    """D chunks that a policy proposed in an episode, whole and before they were clipped to the action bounds.

    A density is learnt from whole chunks. The executed actions are not such chunks: a window of them contains the start
    of one chunk and then the start of the next one, which was proposed independently.

    Arrays are copied and made read-only.

    Attributes:
        step: (D,) int64, the step of the episode at which each chunk was proposed, in increasing order.
        chunk: (D, H, A) float32, finite. Values may lie outside [-1, 1].
        own: (D,) bool, whether the policy's first actions were executed as proposed. False if, for instance, a human
            took over or a guard limited the chunk.

    Raises:
        ValueError: A field has the wrong shape or type, is not finite, or the steps do not increase.
    """

    step: np.ndarray
    chunk: np.ndarray
    own: np.ndarray

    def __post_init__(self) -> None:
        step, own = np.array(self.step), np.array(self.own)
        if step.ndim != 1 or step.dtype.kind not in "iu":
            raise ValueError(f"the steps of proposals must be integers of shape (D,), got {kind_of(step)}")
        if own.shape != step.shape or own.dtype.kind != "b":
            raise ValueError(f"own must be one bool for each of the {len(step)} proposals, got {kind_of(own)}")
        if not len(step) or step[0] < 0 or (np.diff(step) <= 0).any():
            raise ValueError("the steps of proposals must be at least 0 and increase: give one chunk per decision")
        chunk = numbers("proposed chunk", self.chunk, ("D", "H", "A"))
        if len(chunk) != len(step):
            raise ValueError(f"there are {len(chunk)} proposed chunks for {len(step)} steps: give one per decision")
        self._set("step", step.astype(np.int64))
        self._set("chunk", chunk)
        self._set("own", own)

    def _set(self, name: str, value: Any) -> None:
        value.flags.writeable = False
        object.__setattr__(self, name, value)

    @property
    def horizon(self) -> int:
        """The number H of actions in a chunk."""
        return self.chunk.shape[1]

    def until(self, steps: int) -> Proposals | None:
        """Return those of the first `steps` steps of the episode. None if there are none."""
        number = int(np.searchsorted(self.step, steps))
        return Proposals(self.step[:number], self.chunk[:number], self.own[:number]) if number else None

    def with_columns(self, columns: Sequence[int]) -> Proposals:
        """Return the same proposals with the numbers of their actions in another order, or with some of them."""
        return Proposals(self.step, self.chunk[..., columns], self.own)

    def require_fit(self, steps: int, action_dim: int) -> None:
        """Raise `ValueError` unless the proposals fit an episode of `steps` actions (T, A)."""
        if self.step[-1] >= steps:
            raise ValueError(f"a chunk was proposed at step {self.step[-1]}, but the episode has {steps} steps")
        if self.chunk.shape[2] != action_dim:
            raise ValueError(f"proposed chunks have actions of {self.chunk.shape[2]} numbers, the episode {action_dim}")
