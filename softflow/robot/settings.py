"""The settings of a control loop."""

from __future__ import annotations

import math
from dataclasses import dataclass

from softflow.robot.plan import Late


@dataclass(frozen=True)
class LoopSettings:
    """Settings of a control loop.

    Raises:
        ValueError: A number is out of range.
    """

    rate: float
    """Control rate in hertz."""
    n_action_steps: int
    """Number of actions to execute of each chunk."""
    late: Late = "hold"
    """What to do when the next chunk is late, or when observations stop: see `Plan`."""
    synchronous: bool = False
    """Whether to wait for each chunk instead of computing it while the last one is executed."""
    lead: int | None = None
    """Number of steps before the end of a chunk at which the next one is begun. By default it is measured."""
    max_steps: int = 1000
    """Number of steps after which an episode is cut off."""
    stall: float = 0.1
    """Seconds after which an observation that has not come is missing and, in real time, a command is blocked."""
    observe_ahead: float | None = None
    """Seconds before each deadline at which an observation is begun. By default half a period. Lower values give newer
    observations; cameras must be able to answer in this time."""
    patience: float = 1.0
    """Seconds without a chunk in time after which the robot is stopped in any case."""
    real_time: bool = True
    """Whether to wait for deadlines. If not, each step follows the one before as soon as its observation and chunk are
    there, which needs `synchronous`. This is for simulated robots whose world waits."""

    def __post_init__(self) -> None:
        for name in ("rate", "stall", "patience"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be a number above 0, got {getattr(self, name):g}")
        if self.observe_ahead is not None and not 0 < self.observe_ahead <= 1 / self.rate:
            raise ValueError(f"observe_ahead must be above 0 and at most a period, got {self.observe_ahead:g} s")
        if not self.real_time and not self.synchronous:
            raise ValueError("without real time there is nothing but to wait for each chunk: set synchronous")
        for name, lowest in (("n_action_steps", 1), ("max_steps", 1), ("lead", 0)):
            value = getattr(self, name)
            if value is not None and value < lowest:
                raise ValueError(f"{name} must be at least {lowest}, got {value}")
