"""Errors that an environment may raise while it runs."""

from __future__ import annotations

from softflow.errors import EpisodeLost


class UnstableSimulationError(EpisodeLost):
    """The physics diverged: the state after this step means nothing and was not returned.

    The episode is lost; ``reset`` (or ``set_state``) makes the environment usable again.

    Args:
        step: which step of the episode it was, 0 for ``reset``.
        reason: what gave it away.
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
