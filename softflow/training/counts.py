"""What a run has done so far, in numbers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Progress:
    """The progress of a run, which checkpoints store together with the networks."""

    stage: int = 0
    """Index of the current stage."""
    begun: bool = False
    """Whether the algorithm has begun the stage."""
    ended: bool = False
    """Whether the stage has ended, including its last evaluation. The last stage can continue if it is extended."""
    done: int = 0
    """Updates or steps done in this stage."""
    evaluated: int = 0
    """Value of `done` at the last evaluation."""
    updates: int = 0
    """Updates in the whole run."""
    steps: int = 0
    """Primitive steps in the whole run."""
    episodes: int = 0
    """Own episodes started, which sets the next training seed."""
    owed: float = 0.0
    """Updates due for steps already taken."""

    def updates_due(self, episodes: int) -> int:
        """Return the number of updates to make before the next steps. The first ones wait for the first episodes."""
        return int(self.owed) if episodes else 0
