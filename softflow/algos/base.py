"""What the training loop sees of a method: its stages, the policy it deploys, and the parts a checkpoint holds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from softflow.data import Corrections, Decision, Episode, Replay
from softflow.policies import BestOfN, ChunkPolicy, ObservationNormalizer
from softflow.task.layout import ObservationSize


@dataclass(frozen=True)
class Data:
    """What an update draws its batches from."""

    offline: Replay
    """Demonstrations."""
    online: Replay
    """The policy's own episodes."""
    rng: np.random.Generator


Scalars = dict[str, torch.Tensor]
"""Scalars worth logging, named as in `train/actor_loss`, not yet read from the device."""


def _learn_nothing(data: Data, progress: float) -> Scalars:
    return {}


def _nothing() -> None:
    return


@dataclass(frozen=True)
class Stage:
    """One stage of a method: what it learns, for how long, and how it begins.

    A stage with `environment_steps` acts and learns in turns and makes `updates_per_step` updates per primitive step.
    Any other stage makes `updates` updates on the data there are. A stage of length zero is left out.

    Attributes:
        name: A name of its own in the method.
        update: One update of everything that the stage trains, `update(data, progress)`; `progress` in [0, 1) says how
            far the stage has come.
        updates: The number of updates of a stage that does not act.
        environment_steps: The number of primitive environment steps of a stage that acts.
        updates_per_step: The number of updates per primitive step of a stage that acts.
        candidates: How many chunks are proposed for each one that is executed; the critic chooses.
        begin: Called once before the first update.
        end: Called once before the next stage begins.
        diagnose: Further scalars that are worth their cost only now and then. It leaves the random states as they were.

    Raises:
        ValueError: The stage makes updates, but has no `update`.
    """

    name: str
    update: Callable[[Data, float], Scalars] = _learn_nothing
    updates: int = 0
    environment_steps: int = 0
    updates_per_step: float = 0.0
    candidates: int = 1
    begin: Callable[[], None] = _nothing
    end: Callable[[], None] = _nothing
    diagnose: Callable[[Data], Scalars] = lambda data: {}

    def __post_init__(self) -> None:
        if self.update is _learn_nothing and (self.updates or self.updates_per_step):
            raise ValueError(f"stage {self.name!r} makes updates: say what they are, Stage({self.name!r}, update=...)")

    @property
    def acts(self) -> bool:
        """Whether the environment runs."""
        return self.environment_steps > 0

    @property
    def total(self) -> int:
        """Length of the stage in the unit of its x axis: primitive steps if it acts, else updates."""
        return self.environment_steps if self.acts else self.updates


class Algorithm(ABC):
    """A method: a policy and everything that trains it.

    A method writes its constructor, `stages` and `parts`, and one function for each update that its stages name.

    Args:
        config: Settings. A subclass annotates it with a dataclass, whose fields become settings of the run with a flag
            each.
        observation_dim: O, or the layout of packed observations; a `FlowPolicy` takes either.
        action_dim: A.
        device: Where the networks live.

    Attributes:
        deployed: What acts as well as the method can, and is saved to be used.
    """

    deployed: BestOfN

    @abstractmethod
    def __init__(self, config: Any, observation_dim: ObservationSize, action_dim: int, device: str = "cpu") -> None: ...

    @abstractmethod
    def stages(self) -> Sequence[Stage]:
        """Return the stages in order."""

    @abstractmethod
    def parts(self) -> Mapping[str, Any]:
        """Return everything that is learnt or remembered, by name: anything with a `state_dict`, or mappings of such.

        A checkpoint holds their states, and the policies among them get the observation statistics.
        """

    def schedule(self) -> list[Stage]:
        """Return the stages that have a length: those that are run."""
        return [stage for stage in self.stages() if stage.total > 0]

    @property
    def n_action_steps(self) -> int:
        """The number of actions of each chunk that are executed."""
        return self.deployed.n_action_steps

    @property
    def imitates(self) -> bool:
        """Whether the policy learns the likelihood of demonstrated chunks, which must then have a density."""
        return True

    def explore(self, observation: torch.Tensor) -> torch.Tensor | Decision[torch.Tensor]:
        """Choose the chunks that own episodes execute, (B, O) -> (B, n_action_steps, A): those of `deployed`, unless
        overridden.

        A method that must know later how it chose them returns a `Decision`.
        """
        return self.deployed.act(observation)

    def receive(self, episodes: Sequence[Episode]) -> None:
        """Take note of own episodes that have just ended, before the updates that they pay for.

        The replay has them already; this is for methods that learn from their latest episodes alone. Some of the
        episodes began under an older policy.
        """
        return

    def load_base(self, policy: ChunkPolicy) -> None:
        """Start from a policy that was trained before. Called before training if the setting `base` names one.

        Raises:
            ValueError: The method trains its own policy, or cannot start from this one.
        """
        raise ValueError("this method starts from no policy that was trained before")

    def load_corrections(self, corrections: Corrections) -> None:
        """Learn from corrections of the base. Called before training if the setting `corrections` names a file.

        Raises:
            ValueError: The method learns from none, or these are not of its base.
        """
        raise ValueError("this method learns from no corrections")

    def fit_normalizer(self, mean: torch.Tensor, std: torch.Tensor) -> None:
        """Give the observation statistics (O,), or (K,) of packed observations, to every policy among the parts.

        Called once, before training.
        """
        for part in _leaves(self.parts()):
            for module in part.modules() if isinstance(part, nn.Module) else ():
                if isinstance(module, ObservationNormalizer):
                    module.fit(mean, std)

    def state_dict(self) -> dict[str, Any]:
        """Return the states of all parts: what resuming needs beyond the policy."""
        return _states(self.parts())

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        _load_states(self.parts(), {EARLIER_NAMES.get(name, name): value for name, value in state.items()})


EARLIER_NAMES = {"imitator": "policy_learner"}
"""Parts in checkpoints of earlier versions, and what they are called now."""


def _leaves(parts: Mapping[str, Any]) -> Iterator[Any]:
    for part in parts.values():
        if isinstance(part, Mapping):
            yield from _leaves(part)
        else:
            yield part


def _states(parts: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _states(part) if isinstance(part, Mapping) else part.state_dict() for name, part in parts.items()}


def _load_states(parts: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    for name, part in parts.items():
        if isinstance(part, Mapping):
            _load_states(part, state[name])
        else:
            part.load_state_dict(state[name])
