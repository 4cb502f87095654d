"""Run `softflow-train` for algorithms x numbers of demonstrations x seeds, and tabulate the results.

    python -m benchmarks.studies.study runs/study --algos softflow filtered_imitation --seeds 0 1 2 \
        --num-demos 100 200 --jobs 2 -- --threads 1

Arguments after `--` are passed to every run, with `{seed}` replaced by the run's seed. The run folders are
FOLDER/<algo>_d<demonstrations>_s<seed>, with the output in a .log file next to them. A second call skips finished runs
and resumes interrupted ones. After each run, summary.md (success after each stage and at given environment steps) and
summary.csv (every evaluation) are written to FOLDER, with Wilson intervals over the episodes of all seeds. The longest
dip is the number of steps, in the worst seed, for which the success of the last 50 training episodes stayed more than
0.10 below its value when the policy started to act.
"""

from __future__ import annotations

import argparse
import csv
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from benchmarks.studies.run_results import Pooled, Run, by_configuration, pool, read_run

FINISHED, STOPPED = "finished in", "stopped after"


@dataclass(frozen=True)
class Job:
    """One run of a study."""

    folder: Path
    algo: str
    num_demos: int
    seed: int

    @property
    def name(self) -> str:
        return f"{Path(self.algo).stem}_d{self.num_demos}_s{self.seed}"

    @property
    def run_dir(self) -> Path:
        return self.folder / self.name

    @property
    def log(self) -> Path:
        return self.folder / f"{self.name}.log"

    @property
    def finished(self) -> bool:
        return self.log.is_file() and FINISHED in self.log.read_text(encoding="utf-8")

    @property
    def minutes(self) -> float:
        """Wall time in minutes, summed over the parts of an interrupted run."""
        times = re.findall(rf"^(?:{FINISHED}|{STOPPED}) (\d+) s$", self.log.read_text(encoding="utf-8"), re.MULTILINE)
        return sum(map(int, times)) / 60

    def run(self, arguments: Sequence[str]) -> bool:
        """Start or resume the run, and return whether it has finished."""
        command = [sys.executable, "-m", "softflow.cli.train"]
        if (self.run_dir / "checkpoints" / "last").is_file():
            command += ["--resume", str(self.run_dir)]
        else:
            command += ["--algo", self.algo, "--num-demos", str(self.num_demos), "--seed", str(self.seed)]
            command += ["--run-dir", str(self.run_dir)]
            command += [argument.replace("{seed}", str(self.seed)) for argument in arguments]
        start = time.monotonic()
        with self.log.open("a", encoding="utf-8") as log:
            status = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT).returncode
            log.write(f"{STOPPED if status else FINISHED} {time.monotonic() - start:.0f} s\n")
        return status == 0


def summarize(folder: Path, jobs: Sequence[Job], at_steps: Sequence[int]) -> str:
    """Write summary.md and summary.csv for the finished jobs, and return the text of summary.md."""
    finished = [job for job in jobs if job.finished]
    groups = by_configuration([read_run(job.run_dir) for job in finished])
    results = {configuration: pool(runs) for configuration, runs in groups.items()}
    minutes = {key: [job.minutes for job in finished if (job.algo, job.num_demos) == key] for key in groups}
    with (folder / "summary.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(
            ["algo", "num_demos", "runs", "stage", "steps", "successes", "episodes", "success_rate", "low", "high"]
        )
        for (algo, num_demos), evaluations in results.items():
            for e in evaluations:
                numbers = [f"{number:.4f}" for number in (e.rate, *e.interval)]
                writer.writerow([algo, num_demos, e.runs, e.stage, round(e.steps), e.successes, e.episodes, *numbers])
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
    combinations = product(arguments.num_demos, arguments.algos, arguments.seeds)
    jobs = [Job(arguments.folder, algo, num_demos, seed) for num_demos, algo, seed in combinations]
    failed = []
    with ThreadPoolExecutor(arguments.jobs) as pool_of_runs:
        running = {pool_of_runs.submit(job.run, passed_on): job for job in jobs if not job.finished}
        for future in as_completed(running):
            job = running[future]
            if future.result():
                print(f"{job.name}: {job.minutes:.0f} minutes", flush=True)
                summarize(arguments.folder, jobs, arguments.at_steps)
            else:
                failed.append(job)
                print(f"{job.name}: failed, see {job.log}", flush=True)
    print(summarize(arguments.folder, jobs, arguments.at_steps))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
