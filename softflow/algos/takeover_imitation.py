"""Imitation of a person who took over from a policy, which goes on from the weights of that policy.

    imitation   maximum likelihood on the chunks of demonstrations and takeovers

Two presets differ in how often each kind of chunk is drawn:

    hg_dagger   Demonstrated chunks and the person's, all alike; nothing that the policy did (HG-DAgger, arXiv
                1810.02890).
    iwr         The person's chunks are half of each batch. The other half is drawn from demonstrated chunks and the
                policy's own, all alike (intervention-weighted regression, arXiv 2012.06733).

Unlike in both papers, only takeovers that ended in success are imitated, and the policy is not trained from scratch
after each round. `softflow.data.takeovers` says which chunks are whose.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from softflow.algos.base import Algorithm, Data, Scalars, Stage
from softflow.algos.policy_learner import PolicyLearner
from softflow.algos.settings import ImitationConfig, PolicyConfig
from softflow.data import Episode, Replay, concatenate, to_torch
from softflow.data.takeovers import of_the_human, of_the_policy, replay_of
from softflow.policies import BestOfN, ChunkPolicy
from softflow.task.layout import ObservationSize


@dataclass
class TakeoverImitationConfig(PolicyConfig):
    """Settings of imitation on takeovers."""

    base: str = field(kw_only=True)
    """Run folder, or the folder of one of its checkpoints, from whose policy training starts."""
    corrections: tuple[str, ...] = field(kw_only=True)
    """Files of episodes in which a person took over from this policy or earlier ones, recorded by `softflow-demo
    --corrections`. All of them are used."""
    human_share: float | None = None
    """Fraction of each batch that consists of the person's chunks, in (0, 1]. By default, chunks are drawn in
    proportion to their numbers."""
    imitate_policy: bool = False
    """Whether the policy's own chunks in the same episodes are imitated as well."""
    imitation: ImitationConfig = field(
        default_factory=partial(ImitationConfig, updates=2_000, learning_rate=3e-4, initial_noise=0.0)
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.human_share is not None and not 0 < self.human_share <= 1:
            raise ValueError(f"human_share must be in (0, 1], got {self.human_share}")


class TakeoverImitation(Algorithm):
    """Imitation on takeovers, as described in the module docstring.

    Attributes:
        human: The takeovers, of which the person's chunks are imitated.
        own: The same episodes, of which the policy's chunks are imitated. None if they are not.
    """

    human: Replay
    own: Replay | None

    def __init__(
        self, config: TakeoverImitationConfig, observation_dim: ObservationSize, action_dim: int, device: str = "cpu"
    ) -> None:
        self.config, self.device = config, device
        actor = config.make_policy(observation_dim, action_dim).to(device)
        self.policy_learner = PolicyLearner(actor, config.imitation, config.ema_rate)
        self.deployed = BestOfN(self.policy_learner.policy, None, config.n_action_steps, 1, config.temperature)

    def stages(self) -> Sequence[Stage]:
        return [Stage("imitation", updates=self.config.full_imitation_updates, update=self.imitate)]

    def load_base(self, policy: ChunkPolicy) -> None:
        self.policy_learner.start_from(policy)

    def load_takeovers(self, episodes: Sequence[Episode]) -> None:
        horizon = self.config.horizon
        self.human = replay_of([of_the_human(episode, horizon) for episode in episodes], horizon)
        if not self.human.imitable_steps:
            raise ValueError("none of them ended in success, so nothing is worth learning: record more")
        own = [of_the_policy(episode, horizon) for episode in episodes] if self.config.imitate_policy else []
        self.own = replay_of(own, horizon) if own else None

    def imitate(self, data: Data, progress: float) -> Scalars:
        """Make one imitation update."""
        replays = [replay for replay in (self.human, data.offline, self.own) if replay is not None]
        numbers = data.rng.multinomial(self.config.batch_size, self.shares([one.imitable_steps for one in replays]))
        windows = [
            replay.sample(number, self.config.horizon, data.rng, imitable=True)
            for replay, number in zip(replays, numbers, strict=True)
            if number
        ]
        return self.policy_learner.imitate(to_torch(concatenate(windows), self.device), progress)

    def shares(self, chunks: Sequence[int]) -> np.ndarray:
        """Return the expected fraction of a batch for replays with so many chunks. The first one is the person's."""
        human, *others = chunks
        share = human / sum(chunks) if self.config.human_share is None else self.config.human_share
        return np.array([share, *((1 - share) * number / sum(others) for number in others)])

    def parts(self) -> Mapping[str, Any]:
        return self.policy_learner.parts()
