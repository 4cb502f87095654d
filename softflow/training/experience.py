"""Where own episodes come from: environments of this process, or actors in others."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch

from softflow.algos.base import Algorithm
from softflow.data import Decision, Episode, observation_tensor
from softflow.training.rollout import Explore, Rollout


class Experience(ABC):
    """A source of own episodes."""

    why_anew: ClassVar[str]
    """Why episodes of a checkpoint begin anew."""

    @abstractmethod
    def collect(self, steps: int) -> tuple[list[Episode], int]:
        """Return the episodes that have ended since the last call, and the number of primitive steps.

        The number is at least `steps`.

        Raises:
            EnvironmentFailed: An environment failed, and the run stops after errors.
            FloatingPointError: An action, a record or a proposed chunk is not finite.
        """

    @property
    @abstractmethod
    def running_seeds(self) -> list[int]:
        """The seeds of the episodes that were started and have not been returned."""

    @abstractmethod
    def state_dict(self) -> Any:
        """Return what a checkpoint keeps of the episodes in progress: arrays, numbers and strings."""

    @abstractmethod
    def load_state_dict(self, state: Any) -> int:
        """Continue the episodes of `state_dict`, of this source or another. Return how many begin anew."""

    def next_stage(self) -> Experience | None:
        """Return what goes on in the next stage. None, the default, if that stage starts episodes of its own."""
        return None

    def checkpoint_saved(self) -> None:  # noqa: B027 (optional)
        """Note that a checkpoint contains all episodes that were returned."""

    def scalars(self) -> Mapping[str, float]:
        """Return what the log shows of the source."""
        return {}


class Publication(NamedTuple):
    """A time at which the networks are given to those who execute episodes elsewhere."""

    updates: int
    """Number of updates of the run."""
    arms_version: int
    """`Algorithm.arms_version`."""

    def is_due(self, last: Publication | None, every: int) -> bool:
        """Return whether the networks of the last time are too old: by `every` updates, or because arms mean others."""
        return last is None or self.updates - last.updates >= every or self.arms_version != last.arms_version


class LocalExperience(Experience):
    """Own episodes of environments in this process, whose unfinished episodes continue in the next round.

    Args:
        rollout: The environments.
        explore: Chooses what they execute.
    """

    why_anew = "their environment's state cannot be saved (docs/how-to/environments.md), or actors had them"

    def __init__(self, rollout: Rollout, explore: Explore) -> None:
        self._rollout, self._explore = rollout, explore

    def collect(self, steps: int) -> tuple[list[Episode], int]:
        return self._rollout.collect(self._explore, steps)

    @property
    def running_seeds(self) -> list[int]:
        return self._rollout.running_seeds

    def state_dict(self) -> list[dict[str, Any]]:
        return self._rollout.state_dict()

    def load_state_dict(self, state: Any) -> int:
        bouts = [saved for saved in state if "seeds" in saved]  # of a fleet
        seeds, arms = ([number for bout in bouts for number in bout[name]] for name in ("seeds", "arms"))
        self._rollout.begin_first(seeds, arms)
        return len(seeds) + self._rollout.load_state_dict([saved for saved in state if "seeds" not in saved])


def explorer(algorithm: Algorithm, device: str) -> Explore:
    """Return `explore` of an algorithm, from arrays to arrays."""

    def explore(observation: np.ndarray, arms: np.ndarray) -> np.ndarray | Decision[np.ndarray]:
        rows = algorithm.deployed.policy.encoded(observation_tensor(observation, device))
        decided = algorithm.explore(rows, torch.from_numpy(arms).to(device))
        if isinstance(decided, Decision):
            return Decision(*(None if part is None else part.cpu().numpy() for part in decided))
        return decided.cpu().numpy()

    return explore
