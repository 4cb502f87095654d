"""Compare the methods that learn from takeovers, in rounds: record, learn from all rounds so far, evaluate.

    python -m benchmarks.studies.takeovers runs/takeovers --seeds 0 1 2 --jobs 2 -- --threads 1

The base of each seed imitates 100 demonstrations. In each round the environment's supervisor takes over from the policy
of the round before, in as many episodes as `--episodes` says. The methods of `CONTINUED` go on from that policy, and
`correction_chained` corrects it once more. The others learn a new correction of the base. All of them learn from the
takeovers of all rounds. Policies are evaluated on the same held-out
episodes, which no run sees. Arguments after `--` are passed to every run.

A second call skips what is finished and resumes interrupted runs. FOLDER/<task>/base_s<seed> is the run of a base, and
FOLDER/<task>/<method>_<supervisor>_s<seed> has the takeovers (round1.npz), the run (round1) and the evaluation
(round1.json) of each round. FOLDER/takeovers.md has the table, with 95 % intervals over seeds and episodes.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from softflow.data import human_steps, load_demonstrations
from softflow.studies.jobs import Job
from softflow.training.intervals import Counts

METHODS = {
    "correction": "correction",
    "correction_chained": "correction",
    "latent_correction": "latent_correction",
    "hg_dagger": "hg_dagger",
    "iwr": "iwr",
    "rl": "takeover_rl",
}
"""The preset of each method."""
CONTINUED = {"correction_chained", "hg_dagger", "iwr", "rl"}
"""The methods that go on from the policy of the round before."""
SUPERVISORS = {
    "usual": {},
    "careful": {"sloppiness": 0, "noise": 0},
    "early": {"patience": 25},
    "careful_early": {"sloppiness": 0, "noise": 0, "patience": 25},
}
"""Options of the supervisor of tape_cut. An early one waits 25 steps in place of 40 for the next stage."""


@dataclass(frozen=True)
class Study:
    """What all rounds have in common."""

    folder: Path
    rounds: int
    episodes: int
    """Takeovers in each round."""
    evaluated: int
    """Held-out episodes of each evaluation."""
    more: Sequence[str]
    """Further flags of every run."""

    def base(self, task: str, seed: int) -> Job:
        arguments = ["--algo", "imitation", "--env", task, "--num-demos", "100", "--seed", str(seed), *self.more]
        return Job(self.folder / task / f"base_s{seed}", arguments)


@dataclass(frozen=True)
class Chain:
    """The rounds of a method with a supervisor, from the base of a seed."""

    study: Study
    task: str
    method: str
    supervisor: str
    seed: int

    @property
    def folder(self) -> Path:
        return self.study.folder / self.task / f"{self.method}_{self.supervisor}_s{self.seed}"

    def takeovers(self, number: int) -> Path:
        return self.folder / f"round{number}.npz"

    def job(self, number: int) -> Job:
        """Return the run of a round, counted from 1. Round 0 is the base."""
        base = self.study.base(self.task, self.seed)
        if not number:
            return base
        start = self.job(number - 1).run_dir if self.method in CONTINUED else base.run_dir
        rounds = [str(self.takeovers(one)) for one in range(1, number + 1)]
        arguments = ["--algo", METHODS[self.method], "--base", str(start), "--seed", str(self.seed)]
        return Job(self.folder / f"round{number}", [*arguments, *self.study.more, "--corrections", *rounds])

    def run(self) -> bool:
        """Run the rounds that are not finished, and return whether all are."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return all(self._run_round(number) for number in range(1, self.study.rounds + 1))

    def _run_round(self, number: int) -> bool:
        job = self.job(number)
        return self._record(number) and (job.finished or job.run()) and evaluate(job, self.study.evaluated)

    def _record(self, number: int) -> bool:
        path, policy = self.takeovers(number), self.job(number - 1).run_dir
        if path.is_file():
            return True
        command = [sys.executable, "-m", "softflow.cli.demonstrate", "--corrections", str(policy), "--out", str(path)]
        command += ["--episodes", str(self.study.episodes), "--seed", str(10 * self.seed + number)]
        for name, value in SUPERVISORS[self.supervisor].items():
            command += [f"--demonstrator-options.{name}", str(value)]
        with self.folder.joinpath("record.log").open("a", encoding="utf-8") as log:
            return subprocess.run(command, stdout=log, stderr=log).returncode == 0


def evaluate(job: Job, episodes: int) -> bool:
    """Evaluate the policy of a finished run if that was not done, and return whether it is."""
    path = job.run_dir.with_name(f"{job.run_dir.name}.json")
    if path.is_file():
        return True
    command = [sys.executable, "-m", "softflow.cli.evaluate", str(job.run_dir), "--json"]
    with job.log.open("a", encoding="utf-8") as log:
        done = subprocess.run([*command, "--episodes", str(episodes)], stdout=subprocess.PIPE, stderr=log, text=True)
    if done.returncode == 0:
        path.write_text(done.stdout, encoding="utf-8")
    return done.returncode == 0


def tabulate(chains: Sequence[Chain]) -> str:
    """Return the table of all evaluated rounds."""
    rounds = chains[0].study.rounds
    header = ["task", "supervisor", "method", "takeovers solved", "base"]
    rows = [[*header, *(f"round {number}" for number in range(1, rounds + 1)), "last round minus base"]]
    groups = dict.fromkeys((chain.task, chain.supervisor, chain.method) for chain in chains)
    for group in groups:
        same = [chain for chain in chains if (chain.task, chain.supervisor, chain.method) == group]
        counts = [[count for one in same if (count := counted(one.job(number)))] for number in range(rounds + 1)]
        taken_over = [solved(one.takeovers(number)) for one in same for number in range(1, rounds + 1)]
        gain = ""
        if len(counts[0]) == len(counts[-1]) == len(same):
            first, last = pooled(counts[0]), pooled(counts[-1])
            low, high = last.difference(first, paired=True)
            gain = f"{last.rate - first.rate:+.2f} [{low:+.2f}, {high:+.2f}]"
        rows.append([*group, described([one for one in taken_over if one]), *map(described, counts), gain])
    rows.insert(1, ["---"] * len(rows[0]))
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def counted(job: Job) -> tuple[int, int] | None:
    """Return the successes and the number of the held-out episodes of a run. None if it has not been evaluated."""
    path = job.run_dir.with_name(f"{job.run_dir.name}.json")
    if not path.is_file():
        return None
    result = json.loads(path.read_text(encoding="utf-8"))
    return round(result["success_rate"] * result["episodes"]), result["episodes"]


def solved(path: Path) -> tuple[int, int] | None:
    """Return how many takeovers of a file ended in success, and their number. None if there is no such file."""
    if not path.is_file():
        return None
    ends = [episode.is_success for episode in load_demonstrations(path) if human_steps(episode).any()]
    return sum(ends), len(ends)


def pooled(counts: Sequence[tuple[int, int]]) -> Counts:
    successes, trials = zip(*counts, strict=True)
    return Counts(successes, trials)


def described(counts: Sequence[tuple[int, int]]) -> str:
    """Describe the rate of all counts together, with its interval over seeds and episodes."""
    if not counts:
        return ""
    together = pooled(counts)
    low, high = together.interval()
    return f"{together.rate:.2f} [{low:.2f}, {high:.2f}]"


def main() -> int:
    argv, more = sys.argv[1:], list[str]()
    if "--" in argv:
        argv, more = argv[: argv.index("--")], argv[argv.index("--") + 1 :]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder for the runs and the table")
    parser.add_argument("--tasks", nargs="+", default=["tape_cut"], help="environments with a supervisor")
    methods = ["correction", "hg_dagger", "iwr", "rl"]
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=methods, help="methods")
    parser.add_argument("--supervisors", nargs="+", choices=SUPERVISORS, default=["usual"], help="who takes over")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="seeds, 0 ... 9")
    parser.add_argument("--rounds", type=int, default=3, help="rounds")
    parser.add_argument("--episodes", type=int, default=20, help="takeovers in each round")
    parser.add_argument("--evaluated", type=int, default=200, help="held-out episodes of each evaluation")
    parser.add_argument("--jobs", type=int, default=1, help="number of bases, then of methods, side by side")
    arguments = parser.parse_args(argv)
    study = Study(arguments.folder, arguments.rounds, arguments.episodes, arguments.evaluated, more)
    choices = product(arguments.tasks, arguments.methods, arguments.supervisors, arguments.seeds)
    chains = [Chain(study, *choice) for choice in choices]
    bases = {job.run_dir: job for job in (chain.job(0) for chain in chains)}.values()
    with ThreadPoolExecutor(arguments.jobs) as pool:
        ready = pool.map(lambda job: (job.finished or job.run()) and evaluate(job, study.evaluated), bases)
        if failed := [str(job.log) for job, is_ready in zip(bases, ready, strict=True) if not is_ready]:
            parser.error(f"a base failed, see {', '.join(failed)}")
        for chain, is_whole in zip(chains, pool.map(Chain.run, chains), strict=True):
            print(f"{chain.folder.name}: {'finished' if is_whole else 'failed, see its .log files'}", flush=True)
    table = tabulate(chains)
    study.folder.joinpath("takeovers.md").write_text(table, encoding="utf-8")
    print(table, end="")
    return 0 if all(counted(chain.job(study.rounds)) for chain in chains) else 1


if __name__ == "__main__":
    sys.exit(main())
