"""What the training loop sees of an algorithm: a list of stages, and what to do in each."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from softflow.data import Corrections, Decision, Episode, Replay
from softflow.policies import BestOfN, ChunkPolicy
from softflow.task.layout import ObservationSize


@dataclass(frozen=True)
class Stage:
    """A part of the training.

    A stage with `environment_steps` acts and learns in turns, `updates_per_step` updates for each primitive step;
    any other makes `updates` updates on the data there are.
    """

    name: str
    updates: int = 0
    environment_steps: int = 0
    updates_per_step: float = 0.0

    @property
    def acts(self) -> bool:
        """Whether the environment runs."""
        return self.environment_steps > 0

    @property
    def total(self) -> int:
        """Length of the stage in the unit of its x axis: primitive steps if it acts, else updates."""
        return self.environment_steps if self.acts else self.updates


@dataclass(frozen=True)
class Data:
    """What an update draws its batches from."""

    offline: Replay
    """Demonstrations."""
    online: Replay
    """The policy's own episodes."""
    rng: np.random.Generator


class Algorithm(ABC):
    """One method of learning. Holds the policy and everything that trains it.

    Args:
        config: settings. A subclass annotates it with a dataclass; that becomes part of a run's configuration, with a
            flag for every field.
        observation_dim: O, or the layout of packed observations; a `FlowPolicy` takes either.
        action_dim: A.
        device: where the networks live.

    Attributes:
        deployed: what acts as well as the method can, and is saved to be used.
        n_action_steps: steps of each chunk that are executed.
    """

    deployed: BestOfN
    n_action_steps: int

    @abstractmethod
    def __init__(self, config: Any, observation_dim: ObservationSize, action_dim: int, device: str = "cpu") -> None: ...

    @property
    def imitates(self) -> bool:
        """Whether demonstrated chunks need a density under the policy."""
        return True

    @abstractmethod
    def stages(self) -> Sequence[Stage]:
        """The stages, in order; their names are unique."""

    @abstractmethod
    def begin(self, stage: Stage) -> None:
        """Called once before a stage's first update."""

    @abstractmethod
    def update(self, stage: Stage, data: Data, progress: float) -> dict[str, torch.Tensor]:
        """One update of everything that `stage` trains; `progress` in [0, 1) is how far the stage has come.

        Returns:
            scalars worth logging, named as `train/actor_loss`, not yet read from the device.
        """

    def diagnose(self, stage: Stage, data: Data) -> dict[str, torch.Tensor]:
        """Further scalars, worth their cost only now and then; they leave the random states as they were."""
        return {}

    def explore(self, observation: torch.Tensor) -> torch.Tensor | Decision[torch.Tensor]:
        """Chunks to execute in order to learn from them, (B, O) -> (B, n_action_steps, A): as deployed, unless
        overridden.

        A method that must know later how it came to them returns them in a `Decision`.
        """
        return self.deployed.act(observation)

    def receive(self, episodes: Sequence[Episode]) -> None:
        """Own episodes that have just ended, before the updates that they pay for. The replay has them already; this
        is for methods that learn from their latest episodes alone. Some of them began under an older policy."""
        return

    def load_base(self, policy: ChunkPolicy) -> None:
        """Start from a policy that was trained before. Called once, before training, if the setting `base` names one.

        Raises:
            ValueError: the method trains its own, or the policy is not one that it can start from.
        """
        raise ValueError("this method starts from no policy that was trained before")

    def load_corrections(self, corrections: Corrections) -> None:
        """Learn from corrections of the base. Called once, before training, if the setting `corrections` names a file.

        Raises:
            ValueError: the method learns from none, or they are not of its base.
        """
        raise ValueError("this method learns from no corrections")

    @abstractmethod
    def fit_normalizer(self, mean: torch.Tensor, std: torch.Tensor) -> None:
        """Set the observation statistics (O,), of packed observations (K,), of the policy and of every copy of it.
        Called once, before training."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Everything that resuming needs beyond the policy: networks, optimisers, counters."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave."""
