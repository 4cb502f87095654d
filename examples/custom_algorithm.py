"""Add your own algorithm with one Python file and a preset that names it, custom_algorithm.yaml.

    python examples/custom_algorithm.py

The same from the shell:

    PYTHONPATH=examples softflow-train --algo examples/custom_algorithm.yaml --practice-steps 100000
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import tyro
from torch import Tensor

import softflow
from softflow.algos import Algorithm, Data, Stage
from softflow.algos.policy_learner import PolicyLearner
from softflow.algos.settings import PolicyConfig
from softflow.data import sample_mixed, to_torch
from softflow.policies import BestOfN


@dataclass
class SelfImitationConfig(PolicyConfig):
    """Settings of self-imitation; each becomes a command-line flag."""

    practice_steps: int = 50_000
    """Number of primitive environment steps."""
    practice_updates_per_step: float = 0.05
    """Number of policy updates per primitive step. Higher values learn more from each step and take more time."""


class SelfImitation(Algorithm):
    """Imitate the demonstrations, then act and also imitate the policy's own successes (after arXiv 1806.05635).

    There is no critic: of its own steps, the policy imitates those that the rule `imitate` names.
    """

    def __init__(self, config: SelfImitationConfig, observation_dim: int, action_dim: int, device: str = "cpu") -> None:
        self.config, self.device = config, device
        actor = config.make_policy(observation_dim, action_dim).to(device)
        self.learner = PolicyLearner(actor, config.imitation, config.ema_rate)
        self.deployed = BestOfN(self.learner.policy, None, config.n_action_steps, 1, config.temperature)

    def stages(self) -> Sequence[Stage]:
        c = self.config
        return [
            Stage("imitation", updates=c.imitation_updates, update=self.imitate),
            Stage(
                "practice",
                environment_steps=c.practice_steps,
                updates_per_step=c.practice_updates_per_step,
                begin=partial(self.learner.renew_optimizer, c.imitation.learning_rate),
                update=self.imitate,
            ),
        ]

    def imitate(self, data: Data, progress: float) -> dict[str, Tensor]:
        """Make one update, on half demonstrations and half own successes once there are any."""
        c = self.config
        windows = sample_mixed(data.offline, data.online, c.batch_size, c.horizon, data.rng, 0.5, imitable=True)
        return self.learner.imitate(to_torch(windows, self.device), progress)

    def parts(self) -> Mapping[str, Any]:
        return self.learner.parts()


def main(demonstrations: int = 20, updates: int = 300, steps: int = 4_000, episodes: int = 20) -> None:
    """Imitate demonstrations of tape_cut, practise online, and evaluate on held-out episodes.

    Args:
        demonstrations: Number of demonstrations.
        updates: Number of imitation updates.
        steps: Number of environment steps to practise.
        episodes: Number of held-out episodes.
    """
    run = softflow.train(
        Path(__file__).with_suffix(".yaml"),
        preset="quick",
        num_demos=demonstrations,
        imitation={"updates": updates},
        practice_steps=steps,
        eval_episodes=episodes,
    )
    print(f"success {run.evaluate(episodes).success_rate:.2f}; run folder {run.path}")


if __name__ == "__main__":
    tyro.cli(main)
