"""SOFT-FLOW on recorded takeovers, in which being taken over is punished. The environment is never stepped.

    critic_warmup   the critic learns to value the chunks of the frozen base
    offline         actor and critic on demonstrations and takeovers

The losses are those of SOFT-FLOW (`softflow.py`), and takeovers take the place of own episodes in its batches. The
critic learns from all that was executed, by the policy and by the person. The reward of the policy's last step before a
takeover is lower by `takeover_penalty`. This is the reward of RLIF (arXiv 2311.12996), added to that of the task.
Demonstrated chunks, and those of the person in takeovers that ended in success, are imitated, weighted by their
advantages.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from softflow.algos.base import Data
from softflow.algos.softflow import SoftFlow
from softflow.algos.softflow_settings import SoftFlowConfig
from softflow.data import Episode, Replay, Windows
from softflow.data.takeovers import of_the_human, replay_of, with_penalty
from softflow.task.layout import ObservationSize


@dataclass
class TakeoverRLConfig(SoftFlowConfig):
    """Settings of SOFT-FLOW on takeovers."""

    base: str = field(kw_only=True)
    """Run folder, or the folder of one of its checkpoints, whose policy is improved."""
    corrections: tuple[str, ...] = field(kw_only=True)
    """Files of episodes in which a person took over from this policy or earlier ones, recorded by `softflow-demo
    --corrections`. All of them are used."""
    takeover_penalty: float = 1.0
    """Penalty for a takeover, in units of the reward. Higher values avoid more of what led to one."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.takeover_penalty < math.inf:
            raise ValueError(f"takeover_penalty must be a finite number, at least 0, got {self.takeover_penalty}")
        if self.online.steps:
            raise ValueError(
                "online.steps must be 0, because takeovers are learnt from offline: start softflow with this run as "
                "its base to go on online"
            )


class TakeoverRL(SoftFlow):
    """SOFT-FLOW on takeovers, as described in the module docstring.

    Attributes:
        takeovers: The episodes, with the penalty in their rewards.
    """

    config: TakeoverRLConfig
    takeovers: Replay

    def __init__(
        self, config: TakeoverRLConfig, observation_dim: ObservationSize, action_dim: int, device: str = "cpu"
    ) -> None:
        super().__init__(config, observation_dim, action_dim, device)

    def load_takeovers(self, episodes: Sequence[Episode]) -> None:
        horizon = self.config.horizon
        punished = [with_penalty(episode, self.config.takeover_penalty) for episode in episodes]
        self.takeovers = replay_of([of_the_human(episode, horizon) for episode in punished], horizon)

    def sample(self, data: Data, horizon: int, imitable: bool = False) -> Windows[Tensor]:
        return super().sample(replace(data, online=self.takeovers), horizon, imitable)
