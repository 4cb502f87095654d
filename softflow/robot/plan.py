"""Which action of which chunk is executed at which step, and what happens when the next chunk is late."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Late = Literal["hold", "extend", "stop"]


class NoChunk(RuntimeError):
    """There is no chunk, and the message says why. The robot is then controlled as if the chunk were late."""


class Proposal(NamedTuple):
    """A policy's answer to an observation."""

    actions: NDArray[np.floating]
    """A whole chunk, (H, N), in native units and within the bounds."""
    drawn: NDArray[np.floating] | None = None
    """The chunk as the policy drew it, (H, A) in the units of [-1, 1], before it was clipped. None if not known."""


class Chunk(NamedTuple):
    """Actions for the steps that follow an observation."""

    actions: NDArray[np.floating]
    """The whole chunk, (H, N), in native units."""
    start: int
    """The step at which the policy meant its first action: the number of commands sent before the observation."""
    seen: float
    """When the observation was taken, in seconds of the clock."""
    drawn: NDArray[np.floating] | None = None
    """See `Proposal`."""


class Move(NamedTuple):
    """What is executed at a step."""

    action: NDArray[np.floating]
    """The action, (N,), in native units."""
    chunk: Chunk | None
    """The chunk that it comes from. None if a person acts, or if it is held after a person acted."""
    is_first: bool
    """Whether it is the first action that is executed of this chunk, or the first after a person took over."""
    is_late: bool
    """Whether the next chunk should have begun, but was not there."""
    human: bool = False
    """Whether a person acts."""


def require_chunk(answer: Any, size: int) -> Proposal:
    """Return a policy's answer if it is a proposal or a chunk, (H, N). Raise `NoChunk` if it is neither."""
    actions, drawn = answer if isinstance(answer, Proposal) else (answer, None)
    chunk = np.asarray(actions)
    if chunk.dtype.kind != "f" or chunk.ndim != 2 or chunk.shape[1] != size or not len(chunk):
        raise NoChunk(f"the policy answered {chunk.dtype} {chunk.shape}, expected a chunk of floats (H, {size})")
    if not np.isfinite(chunk).all():
        raise NoChunk("the policy answered a chunk with numbers that are not finite")
    return Proposal(chunk, drawn)


class Plan:
    """Executes `n_action_steps` actions of each chunk, and then changes to the next one.

    Each action is executed at the step for which the policy meant it. If a chunk arrives d steps after its observation,
    its first d actions are skipped. A chunk that arrives after its last step is dropped.

    Args:
        n_action_steps: Number of actions to execute of each chunk.
        late: What to do when the next chunk is not there in time: `hold` repeats the last action, `extend` goes on with
            the rest of the chunk and then holds, and `stop` ends the plan.
        held: The action to repeat until the first chunk is there, whatever `late` says: the last one of a person who
            has given back. By default there must be a chunk at the first step.
    """

    def __init__(self, n_action_steps: int, late: Late, held: NDArray[np.floating] | None = None) -> None:
        self._n_action_steps, self._late = n_action_steps, late
        self._chunk: Chunk | None = None
        self._next: Chunk | None = None
        self._last = held
        self.until = 0
        """The step at which the next chunk should begin."""

    def deliver(self, chunk: Chunk) -> None:
        """Provide the next chunk. Another thread may do so."""
        self._next = chunk

    @property
    def has_next(self) -> bool:
        """Whether the next chunk is there."""
        return self._next is not None

    def move(self, step: int, is_stalled: bool = False) -> Move | None:
        """Return what to execute at a step, or None to stop. The steps must be consecutive.

        Args:
            step: The number of commands sent before this one.
            is_stalled: Whether observations have stopped. This is treated like a late chunk.
        """
        is_first = step >= self.until and self._change(step)
        if self._chunk is None:
            return None if self._last is None else Move(self._last, None, is_first=False, is_late=True)
        is_late = is_stalled or step >= self.until
        action = self._action(self._chunk, step, is_late)
        if action is None:
            return None
        self._last = action
        return Move(action, self._chunk, is_first, is_late)

    def _change(self, step: int) -> bool:
        """Change to the next chunk. Return False if there is none."""
        chunk, self._next = self._next, None
        end = 0 if chunk is None else chunk.start + len(chunk.actions)
        if end <= step:
            return False
        self._chunk, self.until = chunk, min(step + self._n_action_steps, end)
        return True

    def _action(self, chunk: Chunk, step: int, is_late: bool) -> NDArray[np.floating] | None:
        if is_late and self._late == "stop":
            return None
        index = step - chunk.start
        if (is_late and self._late == "hold" and self._last is not None) or index >= len(chunk.actions):
            return self._last
        return chunk.actions[index]
