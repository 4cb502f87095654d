"""Base class of the online methods whose own episodes decide, in trials, what acts and what deploys (`trial.py`)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from critics import ChunkCritic
from softflow.algos.base import Contender, Data, Scalars
from softflow.algos.online import OnlineMethod
from softflow.algos.settings import OnlineMethodConfig
from softflow.algos.trial import Arm, Trial, TrialConfig
from softflow.console import note
from softflow.data import Decision, Episode
from softflow.policies import BestOfN, ChunkPolicy, FlowPolicy, SteeredPolicy


@dataclass
class TrialMethodConfig(OnlineMethodConfig):
    """Settings of an online method with trials."""

    candidates: int = 16
    """Largest number of chunks proposed for each one that is executed. Trials choose between this number, its square
    root and 1. More candidates follow the critic more closely, including its errors."""
    trials: TrialConfig = field(default_factory=TrialConfig)


class TrialMethod(OnlineMethod):
    """An online method with trials, unless `trials.enabled` is off.

    A subclass calls `begin_trials` when own episodes are to decide. Until then, single chunks of the champion act, and
    their outcomes are its first record.

    Attributes:
        policy: The policy in training, copies of which go on trial.
        critic: Q(s, chunk), which chooses among the policy's chunks.
        trial: The trials, or None without any.
    """

    config: TrialMethodConfig
    policy: FlowPolicy | SteeredPolicy
    critic: ChunkCritic
    trial: Trial[Any] | None

    def make_trial(self) -> Trial[Any] | None:
        """Return the trials of `policy`, its first champion, if the settings enable them."""
        c = self.config
        return Trial(self.policy, c.candidates, c.trials) if c.trials.enabled else None

    @abstractmethod
    def return_to_champion(self, trial: Trial[Any]) -> None:
        """Continue training from the champion, because a challenger was worse."""

    def begin_trials(self) -> None:
        """Put the policy in training on trial for the first time."""
        if self.trial:
            self.trial.begin(self.policy)
            self.deploy_best(self.trial)

    @property
    def caution(self) -> float:
        """The factor on the weight of what keeps the policy near a proven one. 1 without trials."""
        return self.trial.caution if self.trial else 1.0

    @property
    def online_candidates(self) -> int | None:
        """`Stage.candidates` of the stage with trials."""
        return None if self.trial else self.config.candidates

    def behaviour(self, policy: ChunkPolicy, candidates: int) -> BestOfN:
        """Return a policy that draws so many chunks, of which the critic chooses one."""
        return BestOfN(policy, self.critic, self.config.n_action_steps, candidates, self.config.temperature)

    def assign(self) -> int:
        return self.trial.assign() if self.trial and self.trial.version else 0

    @property
    def arms_version(self) -> int:
        return self.trial.version if self.trial else 0

    def require_arm(self, arm: int, what: str) -> None:
        # Any version will do: a learner that died may resume from a checkpoint before the robot's latest arms.
        if not self.trial or Arm.decode(arm).choice >= len(self.trial.candidates):
            super().require_arm(arm, what)

    def explore(self, observation: Tensor, arms: Tensor) -> Tensor | Decision[Tensor]:
        if not self.trial:
            return super().explore(observation, arms)
        actions, proposed = self.trial.decide(observation, arms, self.behaviour)
        return Decision(actions, proposed=proposed)

    def receive(self, episodes: Sequence[Episode]) -> None:
        """Add the episodes to the trial. After a verdict, the policy in training is the next challenger."""
        if not self.trial:
            return
        self.trial.receive(episodes)
        if not self.trial.version:
            return
        verdict = self.trial.judge()
        if verdict:
            note(f"own episodes: {verdict.text}")
            if verdict.worse:
                self.return_to_champion(self.trial)
            self.trial.begin(self.policy)
        self.deploy_best(self.trial)

    @property
    def contenders(self) -> Sequence[Sequence[Contender]]:
        """The policy in training, then other numbers of candidates: few own episodes may not have shown the best."""
        trial = self.trial
        if not trial or not trial.version:
            return ()

        def deploy_latest(episodes: Sequence[Episode], _: Sequence[Episode]) -> None:
            trial.promote(self.policy, episodes)
            self.deploy_best(trial)

        def choice(number: int) -> Contender:
            def deploy(episodes: Sequence[Episode], replaced: Sequence[Episode]) -> None:
                trial.prefer(number, episodes, self.deployed.candidates, replaced)
                self.deploy_best(trial)

            name = f"the critic's choice among {number} chunks" if number > 1 else "a single chunk"
            return Contender(name, lambda best: self.behaviour(best.policy, number), deploy)

        latest = Contender(
            "the policy in training", lambda best: self.behaviour(self.policy, best.candidates), deploy_latest
        )
        return [[latest], [choice(number) for number in trial.candidates if number != self.deployed.candidates]]

    def deploy_best(self, trial: Trial[Any]) -> None:
        """Deploy what own episodes have shown to be best."""
        best = trial.best()
        self.deployed.policy = trial.challenger if best.challenger else trial.champion
        self.deployed.candidates = trial.candidates[best.choice]

    def diagnose_trials(self, data: Data) -> Scalars:
        """Return what the trials have shown."""
        trial = self.trial.scalars() if self.trial else {}
        return {name: torch.tensor(value) for name, value in trial.items()}

    def trial_parts(self) -> dict[str, Any]:
        """Return what a checkpoint must contain of the trials, as an item of `parts`; nothing without trials."""
        return {"trial": self.trial.parts()} if self.trial else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        if self.trial and self.trial.version:
            self.deploy_best(self.trial)
