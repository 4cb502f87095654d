"""What the windows of teleoperation and takeovers show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto

import numpy as np
from numpy.typing import NDArray


class Phase(Enum):
    """The phase of an episode."""

    READY = auto()
    RECORDING = auto()
    PAUSED = auto()
    ENDED = auto()
    """The environment has ended the episode, and the person decides whether to keep it."""


@dataclass(frozen=True)
class Moved:
    """What a person moves.

    Attributes:
        task: The name of the task.
        names: The name of each number of the action, (A,).
        labels: What moves it, (A,).
        action: The action of the last step, (A,), in [-1, 1].
        settings: The settings of the device.
        hints: Its keys and their meanings.
    """

    task: str
    names: Sequence[str]
    labels: Sequence[str]
    action: NDArray[np.floating]
    settings: str
    hints: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Status(Moved):
    """What the panel of a recording shows.

    Attributes:
        episodes: The number of episodes to record.
        kept: The number of episodes recorded so far.
        successes: The number of successes among them.
        steps: The number of steps of this episode.
        earned: The sum of its rewards.
        rate: The control rate in hertz.
        reached: The rate that the episode reaches.
        is_late: Whether this is too low.
        phase: The phase of the episode.
        is_success: Whether the episode would be a success if it ended here.
        is_judged: Whether the environment decides that, and not the person.
    """

    episodes: int
    kept: int
    successes: int
    steps: int
    earned: float
    rate: float
    reached: float
    is_late: bool
    phase: Phase
    is_success: bool
    is_judged: bool
