"""An actor: it executes own episodes in its own environments, with copies of a method's networks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from softflow.algos import Acting
from softflow.data import Episode
from softflow.runs.assembly import make_algorithm, make_environments, with_saved_weights
from softflow.runs.config import TrainConfig
from softflow.task import TaskSpec
from softflow.task.layout import ObservationSize
from softflow.training.experience import explorer
from softflow.training.failures import EnvironmentErrors, Failure
from softflow.training.fleet import Bout, Returned
from softflow.training.random_state import seed_all
from softflow.training.rollout import Rollout


class Actor:
    """Executes bouts. With the same networks, a bout is always the same.

    It acts on the CPU unless a GPU is reserved for it. Its environments run in its own process, unless they have a time
    limit, which takes a process for each.

    Args:
        config: The configuration of the run.
        observation_dim, action_dim: The sizes of observations and actions.
        environments: The number of environments that run side by side.

    Raises:
        UserError: The algorithm or the environments cannot be made.
    """

    def __init__(
        self, config: TrainConfig[Any], observation_dim: ObservationSize, action_dim: int, environments: int
    ) -> None:
        device = "cuda" if config.run.actor_resources.get("GPU") else "cpu"
        mode = config.run.vectorization_mode if config.run.env_time_limit else "sync"
        run = replace(config.run, device=device, vectorization_mode=mode)
        torch.set_num_threads(run.threads)
        seed_all(run.seed)
        self._algorithm = make_algorithm(with_saved_weights(replace(config, run=run)), observation_dim, action_dim)
        self._environments = make_environments(run, environments, self._algorithm.n_action_steps)
        self._algorithm.deployed.task = TaskSpec.from_env(self._environments)  # a foreign base acts in its units
        self._explore = explorer(self._algorithm, run.device)

    def execute(self, bout: Bout, acting: Acting) -> Returned:
        """Execute the episodes of a bout.

        Raises:
            FloatingPointError: An action, a record or a proposed chunk is not finite.
        """
        self._algorithm.act_by(acting)
        seed_all(bout.seeds[0])
        arms, errors = iter(bout.arms), _Failures()
        rollout = Rollout(self._environments, iter(bout.seeds), errors, lambda: next(arms))
        episodes, steps = list[Episode](), 0
        while True:
            ended, executed = rollout.execute_chunks(self._explore)
            if not executed:
                return Returned(episodes, steps, errors.found)
            episodes += ended
            steps += executed


class _Failures(EnvironmentErrors):
    """Collects errors for the learner, which decides whether the run continues."""

    def __init__(self) -> None:
        super().__init__("restart")
        self.found: list[tuple[str, Failure]] = []

    def add(self, what: str, failure: Failure) -> None:
        self.found.append((what, failure))
