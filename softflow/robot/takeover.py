"""Who acts at a step: the policy, or a person who takes over and gives back."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import NDArray

from softflow.robot.stop_signal import StopSignal


class Takeover(ABC):
    """A person, or a program in the place of one, who acts in place of the policy from time to time.

    `act` and `has_ended` are called from the control thread, `reset` and `look` from the main thread. Any method may
    raise; the robot is then stopped and the error reported.
    """

    def reset(self) -> None:  # noqa: B027 (optional)
        """Prepare for an episode, which the policy begins. The robot has just been reset."""

    @abstractmethod
    def act(self, last: NDArray[np.floating] | None) -> NDArray[np.floating] | None:
        """Return the action of the person, or None where the policy acts. It is called once at each deadline.

        This must return within the `stall` of the control loop, or the robot is stopped.

        Args:
            last: The last action that was sent, (N,) in native units. None at the first step.

        Returns:
            The action, (N,), in native units. It is limited like the policy's.
        """

    def has_ended(self) -> bool:
        """Return whether the person has ended the episode. It is called after each command."""
        return False

    def look(self, stop: StopSignal) -> None:  # noqa: B027 (optional)
        """Look after a window, in the main thread. It is called many times per second; `stop` stops the robot."""


class Nobody(Takeover):
    """Lets the policy act all the time."""

    def act(self, last: NDArray[np.floating] | None) -> None:
        return None
