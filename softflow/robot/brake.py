"""Brings the robot to rest, and says so loudly if that cannot be done."""

from __future__ import annotations

import threading

from softflow.errors import described
from softflow.robot.robot import Robot
from softflow.robot.stop_signal import StopSignal

ATTEMPTS = 2
"""How often `stop` of the robot is called if it raises an error."""


class Brake:
    """Calls `stop` of a robot in a thread of its own, so that one that hangs does not hang the program.

    Args:
        robot: The robot.
        signal: The signal that is told if the robot could not be stopped.
        patience: Seconds that a call may take.
    """

    def __init__(self, robot: Robot, signal: StopSignal, patience: float) -> None:
        self._robot, self._signal, self._patience = robot, signal, patience

    def __call__(self) -> None:
        """Stop the robot. The thread that calls this waits until it is done, and no longer than for `patience`."""
        trouble = ""
        for _ in range(ATTEMPTS):
            errors = list[BaseException]()
            call = threading.Thread(target=self._stop, args=(errors,), name="stop", daemon=True)
            call.start()
            call.join(self._patience)
            if call.is_alive():
                trouble = f"its stop has not returned for {self._patience:g} s"
                break
            if not errors:
                return
            trouble = f"its stop failed: {described(errors[0])}"
        self._signal.set_not_stopped(trouble)

    def _stop(self, errors: list[BaseException]) -> None:
        try:
            self._robot.stop()
        except BaseException as error:
            errors.append(error)
