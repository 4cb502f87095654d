"""Errors that an environment may raise while it runs."""

from __future__ import annotations


class UnstableSimulationError(RuntimeError):
    """The physics diverged: the state after this step is meaningless and was not returned.

    The episode is lost; ``reset`` (or ``set_state``) makes the environment usable again.
    """

    def __init__(self, step: int, reason: str) -> None:
        super().__init__(step, reason)
        self.step = step
        self.reason = reason

    def __str__(self) -> str:
        return (
            f"the simulation became unstable at step {self.step} of the episode ({self.reason}); reset the environment "
            "and discard this step. If it is frequent, look for actions that jump between the bounds at every step."
        )
