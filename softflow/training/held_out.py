"""Evaluation on held-out episodes while a run trains. It keeps the policies that may be deployed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from gymnasium.vector import VectorEnv

from softflow.algos.base import Algorithm, Stage
from softflow.console import note
from softflow.data import Episode, observation_tensor
from softflow.policies import BestOfN
from softflow.training.checkpoint import load_policy, save_policy
from softflow.training.config import RunConfig
from softflow.training.evaluated import Evaluated, best_of, compare_latest, kept, most_successful, write_evaluation
from softflow.training.evaluation import HELD_OUT_SEEDS, Evaluation, evaluate
from softflow.training.failures import EnvironmentErrors
from softflow.training.random_state import random_state_kept
from softflow.training.run_folder import RunFolder

FURTHER_SEEDS = HELD_OUT_SEEDS + 500_000
"""First seed of the further episodes on which the best policy is chosen if the latest one seems worse."""
MakeFilm = Callable[[BestOfN], bytes]
"""Films held-out episodes of a policy, as a GIF."""


class HeldOut:
    """Evaluates the deployed policy of a run, and keeps the policies that may be needed.

    These are those of each stage's end, the best, the most successful and the latest one. What a checkpoint needs is
    removed only when there is a newer checkpoint, because a run that is killed evaluates again what came after it.

    Args:
        environments: The environments for evaluations alone.
        run_folder: The folder of the run.
        config: The settings of the run.

    Attributes:
        evaluations: All evaluations of the run, in order.
    """

    def __init__(self, environments: VectorEnv[Any, Any, Any], run_folder: RunFolder, config: RunConfig) -> None:
        self.environments, self.run_folder, self.config = environments, run_folder, config
        self.evaluations: list[Evaluated] = []

    def evaluate(
        self,
        algorithm: Algorithm,
        stage: Stage,
        done: int,
        stage_ended: bool,
        errors: Callable[[], EnvironmentErrors],
        interrupt: Callable[[], None],
    ) -> tuple[dict[str, float], list[Episode]]:
        """Evaluate the deployed policy, keep it, and return the scalars to log and the episodes that ended.

        At the end of a stage, the algorithm's contenders are evaluated on the same episodes, group by group. The most
        successful one of a group is deployed if the best policy before it is worse (`Evaluated.is_worse_than`). If what
        is then deployed is worse than the most successful policy before, both are evaluated on further episodes, once
        each.

        Args:
            algorithm: The algorithm.
            stage: The current stage.
            done: The updates or environment steps done in it.
            stage_ended: Whether the stage ends here.
            errors: Returns the handling of environments that raise errors.
            interrupt: Raises an exception if the run was interrupted. An interrupted evaluation is repeated later.
        """
        where = len(self.evaluations), stage.name, done, unit_of(stage), stage_ended

        def run(policy: BestOfN, seed: int = HELD_OUT_SEEDS) -> tuple[Evaluation, list[Episode]]:
            return self._run(policy, seed, errors(), interrupt)

        best = algorithm.deployed
        result, episodes = run(best)
        winners = []
        for group in algorithm.contenders if stage_ended else ():
            before, replaced, won = result, episodes, None
            for contender in group:
                policy = contender.make(best)
                other, others = run(policy)
                better = Evaluated(*where, before).is_worse_than(Evaluated(*where, other))
                better = better and other.success_rate > result.success_rate
                note(
                    f"{contender.name} succeeds in {other.success_rate:.2f} of {result.episodes} held-out episodes, "
                    f"the best one so far in {result.success_rate:.2f}: "
                    f"{'it is better' if better else 'nothing changes'}"
                )
                if better:
                    won = contender, others, replaced
                    best, result, episodes = policy, other, others
            if won:
                winners.append(won)
        low, high = result.success_ci95
        lost = f", {result.lost} lost, {result.errors} to errors of their environment" if result.lost else ""
        note(
            f"{stage.name} {done:,}: success {result.success_rate:.2f} [{low:.2f}, {high:.2f}] "
            f"on {result.episodes} held-out episodes{lost}"
        )
        evaluations = self._compared(Evaluated(*where, result), best, lambda policy: run(policy, FURTHER_SEEDS)[0])
        for contender, others, replaced in winners:  # only now: an interruption before changes nothing
            contender.deploy(others, replaced)
        self._keep(evaluations, algorithm.deployed)
        scalars = {
            "eval/success_rate": result.success_rate,
            "eval/success_low": low,
            "eval/success_high": high,
            "eval/mean_reward": result.mean_return,
            "eval/mean_length": result.mean_length,
            "eval/episodes": float(result.episodes),
        }
        return scalars | {f"eval/outcome/{name}": mean for name, mean in result.outcome.items()}, episodes

    def _run(
        self, policy: BestOfN, seed: int, errors: EnvironmentErrors, interrupt: Callable[[], None]
    ) -> tuple[Evaluation, list[Episode]]:
        def act(observation: np.ndarray) -> np.ndarray:
            interrupt()
            return policy.act(observation_tensor(observation, self.config.device)).cpu().numpy()

        with random_state_kept(self.config.device):  # training must not depend on how often it is evaluated
            torch.manual_seed(seed)
            return evaluate(self.environments, act, self.config.eval_episodes, seed, errors)

    def _compared(
        self, latest: Evaluated, policy: BestOfN, run_further: Callable[[BestOfN], Evaluation]
    ) -> list[Evaluated]:
        """Return all evaluations, with further episodes where the latest one, of `policy`, needs a comparison."""

        def compare(one: Evaluated) -> Evaluation:
            compared = policy if one.number == latest.number else load_policy(self._path(one), self.config.device)
            further = run_further(compared)
            note(f"compared on further episodes: {replace(one, further=further)}")
            return further

        with random_state_kept(self.config.device):  # loading a policy draws random numbers
            return compare_latest([*self.evaluations, latest], compare)

    def _keep(self, evaluations: Sequence[Evaluated], deployed: BestOfN) -> None:
        """Keep the latest policy, and determine which is the best and which policies are needed no longer."""
        *earlier, latest = evaluations

        def write(folder: Path) -> None:
            save_policy(folder, deployed)
            write_evaluation(folder, latest)

        self.run_folder.save_policy(latest.folder, write)
        for before, now in zip(self.evaluations, earlier, strict=True):
            if now != before:
                with self.run_folder.writing():
                    write_evaluation(self._path(now), now)
        best = best_of(evaluations)
        assert best is not None, "the latest policy is kept"
        self.run_folder.name_best(best.folder)
        ends = {one.stage: one for one in evaluations if one.stage_ended}.values()
        needed = {one.number for one in (*ends, best, latest, most_successful(kept(evaluations)))}
        self.evaluations = [replace(one, is_kept=one.number in needed) for one in evaluations]

    def checkpoint_saved(self) -> None:
        """Remove the policies that the newest checkpoint does not need."""
        self.run_folder.keep_policies({one.folder for one in kept(self.evaluations)})

    def _path(self, evaluated: Evaluated) -> Path:
        return self.run_folder.checkpoints_path / evaluated.folder

    def continue_stage(self) -> None:
        """Note that the stage of the latest evaluation goes on: it is longer now than when it ended there."""
        if self.evaluations:
            self.evaluations[-1] = replace(self.evaluations[-1], stage_ended=False)

    def state(self) -> list[dict[str, Any]]:
        """Return the evaluations as plain values, for a checkpoint."""
        return [one.as_dict() for one in self.evaluations]

    def load_state(self, state: Sequence[Any], stages: Sequence[Stage]) -> None:
        """Restore the evaluations. Those of earlier versions are (stage, done, result), and most policies are lost."""
        units = {stage.name: unit_of(stage) for stage in stages}
        self.evaluations = []
        for number, one in enumerate(state):
            if isinstance(one, Mapping):
                built = Evaluated.build(dict(one))
                self.evaluations.append(replace(built, is_kept=built.is_kept and self._path(built).is_dir()))
                continue
            name, done, result = one
            unit = units.get(name, "updates")  # a stage whose length is zero now is not among them
            self.evaluations.append(Evaluated(number, name, done, unit, False, Evaluation(**result), is_kept=False))


def unit_of(stage: Stage) -> Literal["updates", "steps"]:
    """Return what the length of a stage counts."""
    return "steps" if stage.acts else "updates"
