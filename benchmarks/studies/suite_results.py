"""Results of the suite: one line for each run in runs.csv, one for each method on a task in suite.csv and suite.md.

The table has 95 % intervals over seeds and episodes. Its columns:

    imitation    success after the imitation stage, on 100 held-out episodes that the run itself has not seen
    at the end   success at the run's last evaluation
    deployed     success of the policy that the run deploys, on the same 100 episodes
    difference   deployed minus imitation
    dip          the number of steps, in the worst seed, for which the success of the latest own episodes stayed more
                 than 0.10 below its value when the policy started to act
    updates      updates of all stages, mean over the seeds
    CPU minutes  per run, with the evaluations during the run
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import NamedTuple

from benchmarks.studies.suite_plan import METHODS, TASKS
from softflow.errors import UserError
from softflow.files import written_whole
from softflow.training.intervals import Counts, interquartile_mean, probability_of_improvement

EPISODES = 100
"""Number of held-out episodes of the evaluations after a run."""


class Cell(NamedTuple):
    """A method on a task."""

    task: str
    method: str


class Key(NamedTuple):
    """A run of the suite."""

    task: str
    method: str
    seed: int

    @property
    def cell(self) -> Cell:
        return Cell(self.task, self.method)


@dataclass(frozen=True)
class Result:
    """What is kept of a finished run."""

    imitated: int
    """Successes of `EPISODES` after imitation."""
    deployed: int
    """Successes of the deployed policy in the same episodes."""
    at_the_end: int
    """Successes at the run's last evaluation, of `of` episodes."""
    of: int
    dip: float
    updates: int
    cpu_minutes: float


def read_results(path: Path) -> dict[Key, Result]:
    """Read runs.csv; none if there is no such file.

    Raises:
        UserError: It is not a file of `write_results`.
    """
    if not path.is_file():
        return {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return {
                Key(row["task"], row["method"], int(row["seed"])): Result(
                    **{one.name: (float if one.type == "float" else int)(row[one.name]) for one in fields(Result)}
                )
                for row in csv.DictReader(file)
            }
    except (KeyError, ValueError, TypeError) as error:
        raise UserError(f"{path} is not a list of runs of this suite ({error!r}): remove it, or restore it") from error


def write_results(path: Path, results: Mapping[Key, Result]) -> None:
    """Write runs.csv, in the order of tasks and methods."""
    names = [one.name for one in fields(Result)]
    lines = [",".join([*Key._fields, *names])]
    tasks, methods = [*TASKS], [*METHODS]
    for key in sorted(results, key=lambda key: (tasks.index(key.task), methods.index(key.method), key.seed)):
        lines.append(",".join(map(str, [*key, *asdict(results[key]).values()])))
    with written_whole(path) as unfinished:
        unfinished.write_text("\n".join(lines) + "\n", encoding="utf-8")


@dataclass(frozen=True)
class Row:
    """A line of the table: a method on a task, over its seeds."""

    task: str
    method: str
    results: Sequence[Result]

    @property
    def deployed(self) -> Counts:
        return Counts([result.deployed for result in self.results], [EPISODES] * len(self.results))

    @property
    def imitated(self) -> Counts:
        return Counts([result.imitated for result in self.results], [EPISODES] * len(self.results))

    @property
    def at_the_end(self) -> Counts:
        return Counts([result.at_the_end for result in self.results], [result.of for result in self.results])

    @property
    def dip(self) -> float:
        return max(result.dip for result in self.results)

    @property
    def updates(self) -> float:
        return _mean([result.updates for result in self.results])

    @property
    def cpu_minutes(self) -> float:
        return _mean([result.cpu_minutes for result in self.results])

    def difference(self) -> tuple[float, float, float]:
        """Return by how much the deployed policy is better than its own imitation, and the interval of that."""
        return self.deployed.rate - self.imitated.rate, *self.deployed.difference(self.imitated, paired=True)


def _mean(numbers: Sequence[float]) -> float:
    return sum(numbers) / len(numbers)


def rows_of(results: Mapping[Key, Result]) -> list[Row]:
    """Return the lines of the table, in the order of tasks and methods."""
    cells: dict[Cell, list[Result]] = {Cell(task, method): [] for task in TASKS for method in METHODS}
    for key in sorted(results):
        cells[key.cell].append(results[key])
    return [Row(*cell, of_cell) for cell, of_cell in cells.items() if of_cell]


def tabulate(results: Mapping[Key, Result], folder: Path) -> list[Row]:
    """Write suite.md and suite.csv, and return the lines."""
    rows = rows_of(results)
    (folder / "suite.md").write_text(_table(rows) + "\n" + _footer(rows), encoding="utf-8")
    with (folder / "suite.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        numbers = [f"{name}{end}" for name in ("imitation", "at_the_end", "deployed") for end in ("", "_low", "_high")]
        numbers += ["difference", "difference_low", "difference_high", "dip", "updates", "cpu_minutes"]
        writer.writerow(["task", "method", "seeds", *numbers])
        for row in rows:
            rates = [x for c in (row.imitated, row.at_the_end, row.deployed) for x in (c.rate, *c.interval())]
            values = [*rates, *row.difference(), row.dip, row.updates, row.cpu_minutes]
            writer.writerow([row.task, row.method, len(row.results), *(f"{value:.4f}" for value in values)])
    return rows


def _table(rows: Sequence[Row]) -> str:
    lines = [["task", "method", "seeds", "imitation", "at the end", "deployed", "difference", "dip", "updates"]]
    lines[0].append("CPU minutes")
    lines.append(["---"] * len(lines[0]))
    for row in rows:
        rates = [
            "{:.2f} [{:.2f}, {:.2f}]".format(c.rate, *c.interval())
            for c in (row.imitated, row.at_the_end, row.deployed)
        ]
        difference = "{:+.2f} [{:+.2f}, {:+.2f}]".format(*row.difference())
        lines.append([row.task, row.method, str(len(row.results)), *rates, difference, f"{row.dip:,.0f}"])
        lines[-1] += [f"{row.updates:,.0f}", f"{row.cpu_minutes:.0f}"]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _footer(rows: Sequence[Row]) -> str:
    """Return the cost, and each method's interquartile mean and its probability of improvement over imitation."""
    hours = sum(row.cpu_minutes * len(row.results) for row in rows) / 60
    lines = [f"{sum(len(row.results) for row in rows)} runs, {hours:.1f} core-hours.\n"]
    scores = {method: [row.deployed.rate for row in rows if row.method == method] for method in METHODS}
    ours = {(row.task, row.method): row.deployed for row in rows}
    for method, rates in scores.items():
        shared = [task for task in TASKS if {(task, method), (task, "imitation")} <= ours.keys()]
        if method == "imitation" or not shared:
            continue
        improved = [
            probability_of_improvement(*([[k] for k in ours[task, m].successes] for m in (method, "imitation")))
            for task in shared
        ]
        lines.append(
            f"* `{method}`: interquartile mean {interquartile_mean(rates):.2f} over {len(rates)} tasks, better than "
            f"`imitation` with probability {sum(improved) / len(improved):.2f} over {len(shared)} tasks.\n"
        )
    return "".join(lines)
