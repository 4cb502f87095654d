"""Run `softflow-train` for algorithms x numbers of demonstrations x seeds, and tabulate what they reached.

    python -m benchmarks.studies.study runs/study --algos softflow filtered_imitation --seeds 0 1 2 \
        --num-demos 100 200 --jobs 2 -- --threads 1

What stands after `--` goes to every run; `{seed}` in it is the run's seed. Runs lie in
FOLDER/<algo>_d<demonstrations>_s<seed>, their output beside them in a .log. Called again, finished runs are skipped
and interrupted ones resumed. After each run summary.md (success after each stage and at given environment steps) and
summary.csv (every evaluation) are written to FOLDER, with Wilson intervals over the episodes of all seeds. The longest
dip is for how many steps, in the worst seed, the success of the last 50 own episodes lay more than 0.10 below what the
policy began to act with.
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
        """Wall time, of all parts of a run that was interrupted."""
        times = re.findall(rf"^(?:{FINISHED}|{STOPPED}) (\d+) s$", self.log.read_text(encoding="utf-8"), re.MULTILINE)
        return sum(map(int, times)) / 60

    def run(self, arguments: Sequence[str]) -> bool:
        """Start or resume it; returns whether it came to its end."""
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
    """Write summary.md and summary.csv of the finished jobs; returns the former."""
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
        # an evaluation comes a little after the step it was due at; of several, the last is of what acts from there on
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
    parser.add_argument("folder", type=Path, help="where the runs and the tables go")
    parser.add_argument("--algos", nargs="+", default=["softflow"], help="presets of algorithms")
    parser.add_argument("--num-demos", nargs="+", type=int, default=[200], help="numbers of demonstrations")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], help="seeds")
    parser.add_argument("--at-steps", nargs="+", type=int, default=[25_000], help="environment steps to tabulate")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
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
