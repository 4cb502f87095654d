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

    def fraction(self, total: int, updates_per_step: float = 0.0) -> float:
        """Return the completed fraction of a stage before its next update, in [0, 1).

        A round acts before it learns, so steps whose updates are still to be made do not count. Otherwise the whole
        last round would learn at the learning rate of the end of the stage, which is zero.

        Args:
            total: The length of the stage. A stage that acts may go beyond it by less than a chunk per environment.
            updates_per_step: The number of updates per step of a stage that acts. 0 for any other.
        """
        not_learnt = self.owed / updates_per_step if updates_per_step else 0.0
        return max(self.done - not_learnt, 0.0) / max(total, self.done)
