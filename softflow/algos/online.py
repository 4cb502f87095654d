"""Base class of the methods that train their policy online, on demonstrations and own episodes."""

from __future__ import annotations

from torch import Tensor

from softflow.algos.base import Algorithm, Data, Scalars
from softflow.algos.policy_learner import PolicyLearner
from softflow.algos.settings import OnlineMethodConfig
from softflow.data import Windows, divide_reward, sample_mixed, to_torch
from softflow.policies import ChunkPolicy


class OnlineMethod(Algorithm):
    """A method that draws its batches from demonstrations and own episodes.

    Attributes:
        policy_learner: The learner of the imitated policy.
    """

    config: OnlineMethodConfig
    device: str
    policy_learner: PolicyLearner

    def sample(self, data: Data, horizon: int, imitable: bool = False) -> Windows[Tensor]:
        """Draw a batch of windows, the fraction `online.offline_share` of which are demonstrated.

        As long as there are no own episodes, all of them are demonstrated. Rewards are divided by the largest return of
        a demonstration, so that values are about 1 in every task, for which the rates of the critics were tuned.

        Args:
            data: The replays to draw from.
            horizon: The number of steps in a window.
            imitable: Whether to draw only windows that are worth imitating (see `Replay.sample`).
        """
        size, share = self.config.batch_size, self.config.online.offline_share
        windows = sample_mixed(data.offline, data.online, size, horizon, data.rng, share, imitable)
        return to_torch(divide_reward(windows, data.offline.largest_return), self.device)

    @property
    def discount(self) -> float | None:
        return self.config.step_discount

    def load_base(self, policy: ChunkPolicy) -> None:
        self.policy_learner.start_from(policy)

    def imitate(self, data: Data, progress: float) -> Scalars:
        """Make one imitation update: behaviour cloning of the demonstrated chunks."""
        return self.policy_learner.imitate(self.sample(data, self.config.horizon, imitable=True), progress)
