"""What the threads of a control loop tell each other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from softflow.data.recording import Recorder
from softflow.robot.plan import Move, Plan
from softflow.task import TaskSpec


class Ending(NamedTuple):
    """How an episode ended."""

    steps: int
    is_success: bool


class Seen(NamedTuple):
    """An observation."""

    observation: Mapping[str, Any]
    row: NDArray[Any]  # (O,)
    step: int  # the number of commands sent before it
    time: float


class Sent(NamedTuple):
    """A command to record."""

    before: Seen
    action: NDArray[np.floating]  # (N,), as it was sent
    move: Move
    step: int  # the number of commands sent so far
    observe_at: float  # when to take the observation after it

    def record(self, recording: Recorder, task: TaskSpec, is_limited: bool) -> None:
        """Append the step to a recording. `is_limited` is whether a guard may have changed chunk and action."""
        move, unit = self.move, task.unit_actions
        chunk = move.chunk
        drawn = None if chunk is None else chunk.drawn
        is_unchanged = not is_limited if drawn is None else np.array_equal(self.action, move.action)
        as_proposed = is_unchanged and not (move.human or move.is_late)
        proposed = None
        if move.is_first and chunk is not None:
            proposed = chunk.start, unit(chunk.actions) if drawn is None else drawn
        recording.step(self.before.row, unit(self.action), move.human, as_proposed, proposed)


class Wanted(NamedTuple):
    """A chunk to compute."""

    seen: Seen
    plan: Plan  # the plan that the chunk is for, which may be over before the chunk is there
    is_awaited: bool = False  # whether the control thread waits for it


def no_last_observation(seconds: float, steps: int, recorded: int | None) -> str:
    """Return why the robot was stopped if the last observation of an episode did not come within some seconds.

    Args:
        seconds: How long it was waited for.
        steps: The number of steps of the episode.
        recorded: How many of them are recorded. None if there is no recording.
    """
    what = "" if recorded is None else f"; {recorded} of its {steps} steps are recorded, not as a success"
    return (
        f"the last observation of the episode did not come within {seconds:.3g} s of the last command, so the episode "
        f"of {steps} steps is not counted{what}"
    )
