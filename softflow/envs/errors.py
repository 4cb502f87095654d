"""Errors that an environment may raise during an episode."""

from __future__ import annotations

from softflow.errors import EpisodeLost


class UnstableSimulationError(EpisodeLost):
    """The physics diverged. The state after this step is meaningless and was not returned.

    The episode is lost; ``reset`` (or ``set_state``) makes the environment usable again.

    Args:
        step: Index of the step within the episode; 0 is ``reset``.
        reason: How the instability was detected.
    """

    def __init__(self, step: int, reason: str) -> None:
        super().__init__(step, reason)
        self.step = step
        self.reason = reason

    def __str__(self) -> str:
        return (
            f"the simulation became unstable at step {self.step} of the episode ({self.reason}): discard this step and "
            "reset the environment; if it is frequent, move more gently while in contact"
        )
