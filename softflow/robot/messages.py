"""What the threads of a control loop tell each other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from softflow.robot.plan import Move, Plan


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


class Wanted(NamedTuple):
    """A chunk to compute."""

    seen: Seen
    plan: Plan  # the plan that the chunk is for, which may be over before the chunk is there
    is_awaited: bool = False  # whether the control thread waits for it
