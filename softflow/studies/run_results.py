"""Results from run folders: success on held-out episodes and in training episodes, against environment steps."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from softflow.settings.typed import load_file
from softflow.training.intervals import Counts
from softflow.training.run_folder import RunFolder


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of a run, with index `number` in its stage, after `steps` environment steps of the whole run."""

    stage: str
    number: int
    steps: int
    successes: int
    episodes: int


@dataclass(frozen=True)
class Run:
    """Settings and results of a run; `own_episodes` (N, 2) has the steps and running success of training episodes."""

    algo: str
    num_demos: int
    seed: int
    steps: int
    """Environment steps of all stages."""
    evaluations: list[Evaluation]
    own_episodes: NDArray[np.float64]

    def longest_dip(self, depth: float = 0.1) -> float:
        """Return the longest span of steps in which own success stayed more than `depth` below its initial value.

        The initial value is the success on held-out episodes before the policy starts to act.
        """
        began = [e for e in self.evaluations if e.steps == 0][-1:]
        longest, start = 0.0, None
        for steps, success in self.own_episodes if began else []:
            if success >= began[0].successes / began[0].episodes - depth - 1e-9:
                start = None
            else:
                start = steps if start is None else start
                longest = max(longest, steps - start)
        return longest


@dataclass(frozen=True)
class Pooled:
    """One evaluation of several runs that differ only in their seed."""

    stage: str
    steps: float
    counts: Counts

    def __str__(self) -> str:
        return "{:.2f} [{:.2f}, {:.2f}]".format(self.counts.rate, *self.counts.interval())


def read_run(path: str | Path) -> Run:
    """Read a run folder; the run may be unfinished.

    A stage counts as acting if training episodes have ended in it.

    Raises:
        UserError: The path is not a run folder.
    """
    folder = RunFolder.open(path)
    settings = load_file(folder.config_path).values
    with folder.metrics_path.open(newline="", encoding="utf-8") as file:
        rows = [(row["stage"], int(row["step"]), row["name"], float(row["value"])) for row in csv.DictReader(file)]
    acting = {stage for stage, _, name, _ in rows if name.startswith("rollout/")}
    evaluations: list[Evaluation] = []
    own_episodes: list[tuple[int, float]] = []
    steps, before, last_stage, last_step = 0, 0, None, 0  # steps of earlier stages, because each stage counts from 0
    for stage, step, name, value in rows:
        if stage != last_stage:
            before += last_step if last_stage in acting else 0
        last_stage, last_step = stage, step
        steps = before + (step if stage in acting else 0)
        if name == "rollout/success_rate":
            own_episodes.append((steps, value))
        elif name == "eval/success_rate":
            number = sum(evaluation.stage == stage for evaluation in evaluations)
            episodes = settings["eval_episodes"]
            evaluations.append(Evaluation(stage, number, steps, round(value * episodes), episodes))
    named = settings["algo"], settings["num_demos"], settings["seed"]
    return Run(*named, steps, evaluations, np.array(own_episodes, dtype=np.float64).reshape(-1, 2))


def pool(runs: Sequence[Run]) -> list[Pooled]:
    """Pool the evaluations of runs that differ only in their seed; an evaluation may be missing in some of them."""
    groups: dict[tuple[str, int], list[Evaluation]] = {}
    for run in sorted(runs, key=lambda run: -len(run.evaluations)):
        for evaluation in run.evaluations:
            groups.setdefault((evaluation.stage, evaluation.number), []).append(evaluation)
    return [
        Pooled(stage, float(np.mean([evaluation.steps for evaluation in group])), counts_of(group))
        for (stage, _), group in groups.items()
    ]


def counts_of(evaluations: Sequence[Evaluation]) -> Counts:
    """Return the counts of one evaluation of each run."""
    return Counts([e.successes for e in evaluations], [e.episodes for e in evaluations])
