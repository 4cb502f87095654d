"""What the methods share whose policy and chunk critic go on learning online, from demonstrations and own episodes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from softflow.algos.base import Algorithm, Data, Stage
from softflow.algos.chunk_critic import ChunkCriticConfig, ChunkCriticLearner
from softflow.data import Windows, sample_mixed, to_torch


@dataclass
class OnlineStageConfig:
    """Online RL."""

    steps: int = 150_000
    """Primitive environment steps."""
    updates_per_step: float = 0.03
    """Updates of all that learns for each primitive step."""
    offline_share: float = 0.5
    """Share of each batch that comes from the demonstrations."""

    def __post_init__(self) -> None:
        if not 0 < self.offline_share <= 1:
            raise ValueError(f"offline_share must be in (0, 1], got {self.offline_share}")


@dataclass
class OnlineMethodConfig(ChunkCriticConfig):
    """Settings of a method that learns online with a chunk critic."""

    online: OnlineStageConfig = field(default_factory=OnlineStageConfig)


class OnlineMethod(Algorithm):
    """A method with a stage `online`, whose critic chooses among the chunks that it deploys.

    Attributes:
        learner: what makes the critic learn.
    """

    config: OnlineMethodConfig
    device: str
    learner: ChunkCriticLearner

    def begin(self, stage: Stage) -> None:
        """The critic chooses online alone: one that has seen nothing but demonstrations cannot tell good from bad."""
        self.deployed.candidates = self.config.candidates if stage.name == "online" else 1

    def sample(self, data: Data, horizon: int, imitable: bool = False) -> Windows[Tensor]:
        """A batch of windows, `online.offline_share` of them demonstrated as soon as there are own episodes."""
        size, share = self.config.batch_size, self.config.online.offline_share
        return to_torch(sample_mixed(data.offline, data.online, size, horizon, data.rng, share, imitable), self.device)

    @abstractmethod
    def parts(self) -> Mapping[str, Any]:
        """What a checkpoint holds beside the critic, by name: anything with a `state_dict`."""

    def state_dict(self) -> dict[str, Any]:
        states = {name: part.state_dict() for name, part in self.parts().items()}
        return states | self.learner.state_dict() | {"candidates": self.deployed.candidates}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name, part in self.parts().items():
            part.load_state_dict(state[name])
        self.learner.load_state_dict(state)
        self.deployed.candidates = state["candidates"]
