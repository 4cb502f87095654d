"""Measure what the conservative terms of SOFT-FLOW's objective do: their weights against the success at the end.

    python -m benchmarks.studies.likelihood_weights runs/weights --seeds 0 1 2 --jobs 2

The actor minimises -Q / |Q| with weight 1 and one of two terms, per dimension of the chunk: the negative log-likelihood
of demonstrated and own chunks (`nll`, the objective of arXiv 2602.09580), or the exact KL from the imitation policy
(`kl`). Nothing else protects the policy: the newest one acts, and the last one is evaluated, whether it is the best or
not. All runs of a seed start from the same imitation policy of `peg_insertion` with 40 demonstrations.

A second call skips finished runs and resumes interrupted ones. FOLDER/likelihood_weights.csv has one line for each run.
`python -m benchmarks.figures.claims` draws it.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from softflow.files import written_whole
from softflow.studies.jobs import Job
from softflow.studies.runners import LocalRunner, run_jobs

TERMS = ("nll", "kl")
WEIGHTS = (0.0, 0.1, 0.3, 1.0, 3.0)
EPISODES = 100
"""Number of held-out episodes of each evaluation."""
STEPS = 15_000


class Key(NamedTuple):
    """A run: the term that has a weight, or `imitation` for the policy from which the others start."""

    term: str
    weight: float
    seed: int


@dataclass(eq=False)
class WeightJob(Job):
    """A run of this study."""

    key: Key = field(kw_only=True)

    def successes(self) -> int:
        (policy,) = self.evaluated
        return round(json.loads(self.evaluation(policy).read_text(encoding="utf-8"))["success_rate"] * EPISODES)


def imitation(folder: Path, seed: int) -> WeightJob:
    """Return the run from which those of a seed start."""
    flags = [
        "--algo",
        "imitation",
        "--env",
        "peg_insertion",
        "--num-demos",
        "40",
        "--seed",
        str(seed),
        "--threads",
        "1",
    ]
    run = folder / f"imitation_s{seed}"
    return WeightJob(run, flags, {"imitation": []}, EPISODES, key=Key("imitation", 0, seed))


def improvement(folder: Path, key: Key) -> WeightJob:
    """Return a run with a weight. The last policy is evaluated, not the best."""
    flags = ["--algo", "softflow_paper", "--base", str(imitation(folder, key.seed).run_dir), "--seed", str(key.seed)]
    flags += ["--threads", "1", "--online.steps", str(STEPS), "--eval-every", str(STEPS)]
    flags += ["--online.critic-updates", "3"]  # the default when the first runs were made
    for stage in ("offline", "online"):
        for term in TERMS:
            flags += [f"--{stage}.{term}-weight", f"{key.weight if term == key.term else 0:g}"]
    run = folder / f"{key.term}_{key.weight:g}_s{key.seed}"
    return WeightJob(run, flags, {"last": ["--stage", "online"]}, EPISODES, key=key)


def keys(seeds: Sequence[int]) -> list[Key]:
    """Return the runs with weights. Both terms share the run without any."""
    return [
        Key(term, weight, seed) for seed in seeds for weight in WEIGHTS for term in TERMS if weight or term == TERMS[0]
    ]


def read_results(path: Path) -> dict[Key, int]:
    """Return the successes of `EPISODES` of each run in a file of `write_results`."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = csv.DictReader(file)
        return {Key(row["term"], float(row["weight"]), int(row["seed"])): int(row["successes"]) for row in rows}


def write_results(path: Path, results: Mapping[Key, int]) -> None:
    """Write one line for each run: term, weight, seed, and successes of `EPISODES`."""
    order = ("imitation", *TERMS)
    rows = sorted(results.items(), key=lambda row: (order.index(row[0].term), row[0].weight, row[0].seed))
    lines = [f"{key.term},{key.weight:g},{key.seed},{successes}" for key, successes in rows]
    with written_whole(path) as unfinished:
        unfinished.write_text("\n".join(["term,weight,seed,successes", *lines]) + "\n", encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder for the runs and the results")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="one run per term, weight and seed")
    parser.add_argument("--jobs", type=int, default=1, help="number of runs in parallel")
    arguments = parser.parse_args()
    folder: Path = arguments.folder
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "likelihood_weights.csv"
    results = read_results(path) if path.is_file() else {}

    def keep(job: WeightJob) -> None:
        results[job.key] = job.successes()
        write_results(path, results)

    failed = 0
    for jobs in (
        [imitation(folder, seed) for seed in arguments.seeds],
        [improvement(folder, key) for key in keys(arguments.seeds)],
    ):
        for job in jobs:
            if job.finished:
                keep(job)
        failed += len(run_jobs(jobs, LocalRunner(arguments.jobs), keep))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
