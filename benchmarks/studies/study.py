"""Run `softflow-train` for algorithms x numbers of demonstrations x seeds, and tabulate the results.

    python -m benchmarks.studies.study runs/study --algos softflow filtered_imitation --seeds 0 1 2 \
        --num-demos 100 200 --jobs 2 -- --threads 1

Arguments after `--` are passed to every run, with `{seed}` replaced by the run's seed. The run folders are
FOLDER/<algo>_d<demonstrations>_s<seed>, with the output in a .log file next to them. A second call skips finished runs
and resumes interrupted ones. After each run, summary.md (success after each stage and at given environment steps) and
summary.csv (every evaluation) are written to FOLDER, with 95 % intervals over seeds and episodes. The longest
dip is the number of steps, in the worst seed, for which the success of the last 50 training episodes stayed more than
0.10 below its value when the policy started to act.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path

from benchmarks.studies.jobs import Job, run_jobs
from benchmarks.studies.run_results import Pooled, Run, by_configuration, pool, read_run

Key = tuple[str, int]
"""Algorithm preset and number of demonstrations."""


def summarize(folder: Path, jobs: Mapping[Key, Sequence[Job]], at_steps: Sequence[int]) -> str:
    """Write summary.md and summary.csv for the finished jobs, and return the text of summary.md."""
    finished = {key: [job for job in group if job.finished] for key, group in jobs.items()}
    groups = by_configuration([read_run(job.run_dir) for group in finished.values() for job in group])
    results = {configuration: pool(runs) for configuration, runs in groups.items()}
    minutes = {key: [job.minutes for job in finished[key]] for key in groups}
    with (folder / "summary.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(
            ["algo", "num_demos", "runs", "stage", "steps", "successes", "episodes", "success_rate", "low", "high"]
        )
        for (algo, num_demos), evaluations in results.items():
            for e in evaluations:
                numbers = [f"{number:.4f}" for number in (e.counts.rate, *e.counts.interval())]
                successes, episodes = map(sum, e.counts)
                runs = len(e.counts.episodes)
                writer.writerow([algo, num_demos, runs, e.stage, round(e.steps), successes, episodes, *numbers])
    table = _table(groups, results, minutes, at_steps)
    (folder / "summary.md").write_text(table, encoding="utf-8")
    return table


def _table(
    groups: dict[tuple[str, int], list[Run]],
    results: dict[tuple[str, int], list[Pooled]],
    minutes: dict[tuple[str, int], list[float]],
    at_steps: Sequence[int],
) -> str:
    stages = list(dict.fromkeys(e.stage for evaluations in results.values() for e in evaluations))
    header = ["algo", "demonstrations", "seeds", "minutes each", "longest dip, steps"]
    rows = [[*header, *(f"after {stage}" for stage in stages), *(f"at {steps:,} steps" for steps in at_steps)]]
    rows.append(["---"] * len(rows[0]))
    for (algo, num_demos), evaluations in results.items():
        last = {e.stage: str(e) for e in evaluations}
        # An evaluation comes shortly after the step at which it was due. The last one is of the policy that acts next.
        near = [[str(e) for e in evaluations if steps <= e.steps <= 1.05 * steps] for steps in at_steps]
        spent = minutes[algo, num_demos]
        rows.append([algo, str(num_demos), str(len(groups[algo, num_demos])), f"{sum(spent) / len(spent):.0f}"])
        rows[-1].append(f"{max(run.longest_dip() for run in groups[algo, num_demos]):,.0f}")
        rows[-1] += [last.get(stage, "") for stage in stages] + [found[-1] if found else "" for found in near]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def main() -> int:
    split = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    own, passed_on = sys.argv[1:split], sys.argv[split + 1 :]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder for the runs and the tables")
    parser.add_argument("--algos", nargs="+", default=["softflow"], help="algorithm presets to run")
    parser.add_argument("--num-demos", nargs="+", type=int, default=[200], help="numbers of demonstrations")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], help="one run per configuration and seed")
    parser.add_argument("--at-steps", nargs="+", type=int, default=[25_000], help="environment steps to tabulate")
    parser.add_argument("--jobs", type=int, default=1, help="number of runs in parallel")
    arguments = parser.parse_args(own)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    jobs = {
        (algo, num_demos): [
            Job(
                arguments.folder / f"{Path(algo).stem}_d{num_demos}_s{seed}",
                ["--algo", algo, "--num-demos", str(num_demos), "--seed", str(seed)]
                + [argument.replace("{seed}", str(seed)) for argument in passed_on],
            )
            for seed in arguments.seeds
        ]
        for num_demos, algo in product(arguments.num_demos, arguments.algos)
    }

    def tabulate(_: Job) -> None:
        summarize(arguments.folder, jobs, arguments.at_steps)

    failed = run_jobs([job for group in jobs.values() for job in group], arguments.jobs, tabulate)
    print(summarize(arguments.folder, jobs, arguments.at_steps))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
