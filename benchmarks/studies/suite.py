"""Run the whole comparison of methods on the developers' tasks, and tabulate it.

    python -m benchmarks.tasks.ogbench_play runs/suite/data --jobs 2
    python -m benchmarks.studies.suite runs/suite --seeds 0 1 2 --jobs 2

Tasks differ in their budgets alone (`benchmarks.studies.suite_plan`). The first seed of everything runs first, starting
with the cheapest runs. A method whose interval then lies wholly below that of the task's best gets no further seeds;
`imitation` and `softflow` get all of them. A second call skips finished runs and resumes interrupted ones. The run
folders are FOLDER/<task>/<method>_s<seed>. After each run, suite.md and suite.csv are written to FOLDER, with 95 %
intervals over seeds and episodes. Their columns:

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

import argparse
import csv
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.studies.jobs import Job, run_jobs
from benchmarks.studies.run_results import Run, counts_of, read_run
from benchmarks.studies.suite_plan import ALWAYS, METHODS, ON_ALL_TASKS, TASKS, plan
from softflow.errors import UserError
from softflow.training.intervals import Counts, interquartile_mean, probability_of_improvement

SEED, EPISODES = 2_000_000, 100
"""First seed and number of the held-out episodes; those of evaluations during a run start from 1,000,000."""

EVALUATED = {"imitation": ["--stage", "imitation"], "deployed": []}
"""The policies of a run that are evaluated, and the flags of `softflow-eval` that choose them."""

Cell = tuple[str, str]
"""Names of a task and a method."""


@dataclass(frozen=True)
class Result:
    """What is known of one finished run."""

    run: Run
    imitated: int
    """Successes of `EPISODES` after imitation."""
    deployed: int
    updates: int
    cpu_minutes: float


@dataclass(frozen=True)
class Row:
    """A line of the table: a method on a task, over its seeds."""

    task: str
    method: str
    results: Sequence[Result]

    @property
    def deployed(self) -> Counts:
        return self._counts([result.deployed for result in self.results])

    @property
    def imitated(self) -> Counts:
        return self._counts([result.imitated for result in self.results])

    @property
    def at_the_end(self) -> Counts:
        return counts_of([result.run.evaluations[-1] for result in self.results])

    @property
    def dip(self) -> float:
        return max(result.run.longest_dip() for result in self.results)

    @property
    def updates(self) -> float:
        return self._mean([result.updates for result in self.results])

    @property
    def cpu_minutes(self) -> float:
        return self._mean([result.cpu_minutes for result in self.results])

    def difference(self) -> tuple[float, float, float]:
        """Return by how much the deployed policy is better than its own imitation, and the interval of that."""
        return self.deployed.rate - self.imitated.rate, *self.deployed.difference(self.imitated, paired=True)

    @staticmethod
    def _counts(successes: list[int]) -> Counts:
        return Counts(successes, [EPISODES] * len(successes))

    @staticmethod
    def _mean(numbers: Sequence[float]) -> float:
        return sum(numbers) / len(numbers)


@dataclass(frozen=True)
class SuiteJob(Job):
    """A run and the evaluations after it, each in a .json file next to the run folder."""

    @property
    def finished(self) -> bool:
        return super().finished and all(self.evaluation(stage).is_file() for stage in EVALUATED)

    def run(self) -> bool:
        return (super().finished or super().run()) and all(map(self._evaluate, EVALUATED))

    def evaluation(self, stage: str) -> Path:
        return self.run_dir.with_name(f"{self.run_dir.name}.{stage}.json")

    def result(self) -> Result:
        imitated, deployed = (
            json.loads(self.evaluation(stage).read_text(encoding="utf-8"))["success_rate"] for stage in EVALUATED
        )
        updates = int((self.run_dir / "checkpoints" / "last").read_text(encoding="utf-8"))
        run = read_run(self.run_dir)
        return Result(run, round(imitated * EPISODES), round(deployed * EPISODES), updates, self.cpu_minutes)

    def _evaluate(self, stage: str) -> bool:
        path = self.evaluation(stage)
        if path.is_file():
            return True
        command = [sys.executable, "-m", "softflow.cli.evaluate", str(self.run_dir), "--json", *EVALUATED[stage]]
        command += ["--seed", str(SEED), "--episodes", str(EPISODES), "--num-envs", "10"]
        with self.log.open("a", encoding="utf-8") as log:
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=log, text=True)
        if done.returncode == 0:
            path.write_text(done.stdout, encoding="utf-8")
        return done.returncode == 0


def is_hopeless(row: Row, others: Sequence[Row]) -> bool:
    """Return whether the method's interval lies wholly below that of the task's best method."""
    best = max((other.deployed for other in others if other.task == row.task), key=lambda counts: counts.rate)
    return row.deployed.interval()[1] < best.interval()[0]


def summarize(jobs: Mapping[Cell, Sequence[SuiteJob]], folder: Path) -> list[Row]:
    """Write suite.md and suite.csv for the finished and evaluated runs, and return the lines."""
    rows = []
    for (task, method), group in jobs.items():
        results = [job.result() for job in group if job.finished]
        if results:
            rows.append(Row(task, method, results))
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


def make_jobs(folder: Path, cells: Sequence[Cell], seeds: Sequence[int]) -> dict[Cell, list[SuiteJob]]:
    """Return the runs of each method on each task, one for each seed."""
    return {
        (task, method): [
            SuiteJob(folder / task / f"{method}_s{seed}", plan(task, method, seed, folder / "data")) for seed in seeds
        ]
        for task, method in cells
    }


def run(folder: Path, cells: Sequence[Cell], seeds: Sequence[int], parallel: int) -> int:
    """Run the cells, seed after seed, and return how many runs failed."""
    missing = sorted(
        {str(path) for task, _ in cells if (path := TASKS[task].demos(folder / "data")) and not path.is_file()}
    )
    if missing:
        raise UserError(
            f"no file {', '.join(missing)}: record play data with python -m benchmarks.tasks.ogbench_play "
            f"{folder / 'data'}, or choose other tasks with --tasks"
        )
    jobs, failed = make_jobs(folder, cells, seeds), 0
    cheapest_first = sorted(cells, key=lambda cell: TASKS[cell[0]].minutes * METHODS[cell[1]].effort)

    for number, seed in enumerate(seeds):
        rows = summarize(jobs, folder)
        hopeless = {(row.task, row.method) for row in rows if row.method not in ALWAYS and is_hopeless(row, rows)}
        started = [jobs[cell][number] for cell in cheapest_first if number == 0 or cell not in hopeless]
        print(f"seed {seed}: {len(started)} of {len(cells)} runs", flush=True)
        failed += len(run_jobs(started, parallel, lambda _: summarize(jobs, folder)))
    summarize(jobs, folder)
    return failed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder for the runs and the tables")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS), help="tasks (default: all)")
    parser.add_argument(
        "--methods",
        nargs="+",
        choices=METHODS,
        help=f"methods (default: {', '.join(ON_ALL_TASKS)}, and more on some tasks)",
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="one run per task, method and seed")
    parser.add_argument("--jobs", type=int, default=1, help="number of runs in parallel")
    arguments = parser.parse_args()
    cells = [(task, method) for task in arguments.tasks for method in arguments.methods or TASKS[task].methods]
    try:
        arguments.folder.mkdir(parents=True, exist_ok=True)
        failed = run(arguments.folder, cells, arguments.seeds, arguments.jobs)
    except UserError as error:
        parser.error(str(error))
    print((arguments.folder / "suite.md").read_text(encoding="utf-8"), end="")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
