"""Results of a study: what the deployed policies reach, and the learning curves, with 95 % intervals.

The intervals are over seeds and episodes (`softflow.training.intervals.Counts`). Files in the folder of the study:

    results.csv, results.md    a line for each cell: environment, method and values of the grid
    evaluations.csv            a line for each evaluation during the runs, pooled over the seeds of a cell
    success.png, success.svg   the same as learning curves, with softflow[plot]
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from softflow.files import written_whole
from softflow.report.groups import Group
from softflow.report.history import History, read_history
from softflow.report.success_figure import save_success_figure
from softflow.studies.jobs import Job
from softflow.studies.plan import Plan
from softflow.training.intervals import Counts

DEPLOYED = "deployed"
"""The name of the evaluation of the policy that a run deploys."""
FIGURES = "success.png", "success.svg"
_RATE = "success", "low", "high"


@dataclass(frozen=True)
class Finished:
    """The results of a finished run."""

    history: History
    successes: int
    episodes: int
    cpu_minutes: float

    @classmethod
    def read(cls, job: Job) -> Finished:
        """Read the results of a finished job."""
        result = json.loads(job.evaluation(DEPLOYED).read_text(encoding="utf-8"))
        successes = round(result["success_rate"] * result["episodes"])
        return cls(read_history(str(job.run_dir)), successes, result["episodes"], job.cpu_minutes)


@dataclass(frozen=True)
class Row:
    """The results of a cell: runs that differ only in their seed."""

    cell: tuple[str, ...]
    planned: int
    """Number of runs, finished or not."""
    finished: Sequence[Finished]

    @property
    def counts(self) -> Counts:
        return Counts([one.successes for one in self.finished], [one.episodes for one in self.finished])

    @property
    def steps(self) -> float:
        """Environment steps of a run, mean over the seeds."""
        return sum(one.history.acted_steps for one in self.finished) / len(self.finished)

    @property
    def cpu_minutes(self) -> float:
        """CPU time of a run with the evaluations during it, mean over the seeds."""
        return sum(one.cpu_minutes for one in self.finished) / len(self.finished)

    def group(self, grid: Sequence[str]) -> Group:
        """Return the finished runs as a group. `grid` names the values that follow environment and method."""
        values = [f"{name} {value}" for name, value in zip(grid, self.cell[2:], strict=True)]
        return Group(", ".join([self.cell[1], *values]), [one.history for one in self.finished])


class Results:
    """The results of a study so far.

    Args:
        plan: The runs.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan, self._finished = plan, dict[str, Finished]()

    def add(self, name: str, job: Job) -> None:
        """Take in a finished run of the plan."""
        self._finished[name] = Finished.read(job)

    def rows(self) -> list[Row]:
        """Return the rows of all cells, in the order of the plan."""
        names: dict[tuple[str, ...], list[str]] = {}
        for name, run in self._plan.runs.items():
            names.setdefault(run.cell, []).append(name)
        return [
            Row(cell, len(of_cell), [self._finished[name] for name in of_cell if name in self._finished])
            for cell, of_cell in names.items()
        ]

    def write(self) -> str:
        """Write results.csv, results.md and evaluations.csv, and return the table of results.md."""
        rows, axes = self.rows(), ["env", "algo", *self._plan.grid]
        lines, evaluations = list[list[object]](), list[list[object]]()
        for row in rows:
            numbers: list[object] = [""] * 7
            if row.finished:
                counts = [sum(row.counts.successes), sum(row.counts.episodes)]
                numbers = [*counts, *_rate(row.counts), f"{row.steps:.0f}", f"{row.cpu_minutes:.2f}"]
            lines.append([*row.cell, len(row.finished), row.planned, *numbers])
            for one in row.group(self._plan.grid).evaluations():
                steps, seeds = round(one.environment_steps), len(one.counts.episodes)
                numbers = [*map(sum, one.counts), *_rate(one.counts)]
                evaluations.append([*row.cell, one.stage, steps, seeds, *numbers])
        found = ["successes", "episodes", *_RATE]
        header = [*axes, "seeds", "planned", *found, "steps", "cpu_minutes"]
        _write_csv(self._plan.folder / "results.csv", header, lines)
        _write_csv(self._plan.folder / "evaluations.csv", [*axes, "stage", "steps", "seeds", *found], evaluations)
        table = _table(axes, rows)
        with written_whole(self._plan.folder / "results.md") as file:
            file.write_text(table, encoding="utf-8")
        return table

    def plot(self) -> None:
        """Write the figures of the finished runs, if one of them has been evaluated.

        Raises:
            UserError: matplotlib is not installed, or a file cannot be written.
        """
        groups = [row.group(self._plan.grid) for row in self.rows() if row.finished]
        if any(group.evaluations() for group in groups):
            for name in FIGURES:
                save_success_figure(groups, self._plan.folder / name)


def _rate(counts: Counts) -> list[str]:
    return [f"{number:.4f}" for number in (counts.rate, *counts.interval())]


def _write_csv(path: Path, header: Sequence[str], lines: Iterable[Sequence[object]]) -> None:
    with written_whole(path) as unfinished, unfinished.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *lines])


def _table(axes: Sequence[str], rows: Sequence[Row]) -> str:
    lines = [[*axes, "seeds", "success", "steps", "CPU minutes"]]
    lines.append(["---"] * len(lines[0]))
    for row in rows:
        numbers = ["", "", ""]
        if row.finished:
            rate = "{:.2f} [{:.2f}, {:.2f}]".format(row.counts.rate, *row.counts.interval())
            numbers = [rate, f"{row.steps:,.0f}", f"{row.cpu_minutes:.1f}"]
        done, planned = len(row.finished), row.planned
        lines.append([*row.cell, str(done) if done == planned else f"{done} of {planned}", *numbers])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
