"""Run the whole comparison of methods on the developers' tasks, and tabulate it.

    python -m benchmarks.tasks.ogbench_play runs/suite/data --jobs 2
    python -m benchmarks.studies.suite runs/suite --seeds 0 1 2 --jobs 2

Tasks differ in their budgets alone (`benchmarks.studies.suite_plan`). The first seed of everything runs first, starting
with the cheapest runs. A method whose interval then lies wholly below that of the task's best gets no further seeds;
`imitation` and `softflow` get all of them. A second call skips finished runs and resumes interrupted ones. The run
folders are FOLDER/<task>/<method>_s<seed>. After each run, FOLDER gets the tables of
`benchmarks.studies.suite_results`: runs.csv, suite.csv and suite.md. Runs in runs.csv are finished, even if their
folders are gone; so a study goes on elsewhere from this file alone.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.studies.dips import longest_dip
from benchmarks.studies.suite_plan import ALWAYS, METHODS, ON_ALL_TASKS, TASKS, plan
from benchmarks.studies.suite_results import (
    EPISODES,
    Cell,
    Key,
    Result,
    Row,
    read_results,
    rows_of,
    tabulate,
    write_results,
)
from softflow.errors import UserError
from softflow.report.history import read_history
from softflow.studies.jobs import Job
from softflow.studies.runners import LocalRunner, run_jobs

EVALUATED = {"imitation": ["--stage", "imitation"], "deployed": []}
"""The policies of a run that are evaluated, and the flags of `softflow-eval` that choose them."""


@dataclass(eq=False)
class SuiteJob(Job):
    """A run of the suite."""

    key: Key = field(kw_only=True)

    def result(self) -> Result:
        imitated, deployed = (
            json.loads(self.evaluation(stage).read_text(encoding="utf-8"))["success_rate"] for stage in EVALUATED
        )
        run = read_history(str(self.run_dir))
        last = run.evaluations[-1]
        return Result(
            imitated=round(imitated * EPISODES),
            deployed=round(deployed * EPISODES),
            at_the_end=last.successes,
            of=last.episodes,
            dip=longest_dip(run),
            updates=int((self.run_dir / "checkpoints" / "last").read_text(encoding="utf-8")),
            cpu_minutes=self.cpu_minutes,
        )


def is_hopeless(row: Row, others: Sequence[Row]) -> bool:
    """Return whether the method's interval lies wholly below that of the task's best method."""
    best = max((other.deployed for other in others if other.task == row.task), key=lambda counts: counts.rate)
    return row.deployed.interval()[1] < best.interval()[0]


def run(folder: Path, cells: Sequence[tuple[str, str]], seeds: Sequence[int], parallel: int) -> int:
    """Run the cells, seed after seed, and return how many runs failed."""
    missing = sorted(
        {str(path) for task, _ in cells if (path := TASKS[task].demos(folder / "data")) and not path.is_file()}
    )
    if missing:
        raise UserError(
            f"no file {', '.join(missing)}: record play data with python -m benchmarks.tasks.ogbench_play "
            f"{folder / 'data'}, or choose other tasks with --tasks"
        )
    results = read_results(folder / "runs.csv")

    def keep(job: SuiteJob) -> None:
        results[job.key] = job.result()
        write_results(folder / "runs.csv", results)
        tabulate(results, folder)

    tabulate(results, folder)
    cheapest_first = sorted(cells, key=lambda cell: TASKS[cell[0]].minutes * METHODS[cell[1]].effort)
    failed = 0
    for number, seed in enumerate(seeds):
        rows = rows_of(results)
        hopeless = {Cell(row.task, row.method) for row in rows if row.method not in ALWAYS and is_hopeless(row, rows)}
        wanted = [
            SuiteJob(
                folder / task / f"{method}_s{seed}",
                plan(task, method, seed, folder / "data"),
                EVALUATED,
                EPISODES,
                key=key,
            )
            for task, method in cheapest_first
            if (key := Key(task, method, seed)) not in results and (number == 0 or key.cell not in hopeless)
        ]
        for job in wanted:
            if job.finished:
                keep(job)
        print(f"seed {seed}: {len(wanted)} of {len(cells)} runs", flush=True)
        failed += len(run_jobs(wanted, LocalRunner(parallel), keep))
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
