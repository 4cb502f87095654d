"""Compare the project's methods on each diagnostic task, as a Markdown table.

    python -m benchmarks.studies.diagnostics runs/diagnostics --seeds 0 1 2
    python -m benchmarks.studies.diagnostics runs/one --tasks delayed_corridor --settings '{warmup: {updates: 2000}}'

All runs use the preset `diagnostic`, one thread, and the overrides in `--settings`. For a given task and seed, all
methods learn from the same demonstrations and make the same number of updates, and steering methods share the base. The
table gives success and mean return on held-out episodes at the end of the runs, and CPU time in seconds. The folder
must be new.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import softflow
from softflow.settings.strict_yaml import read_yaml
from softflow.training.intervals import Counts

BASE = "base"
"""The method whose policy the methods after it steer."""
# The base policy acts at the temperature at which it is steered. What the tasks claim of residuals is in units of the
# action.
FLOW_MATCHING = {
    "flow": "flow_matching",
    "flow_options": {"solver": "euler", "steps": 5},
    "temperature": 1.0,
    "normalize_actions": False,
}
STEERED: dict[str, tuple[str, dict[str, Any]]] = {
    BASE: ("imitation", FLOW_MATCHING),
    "latent": ("latent_steering", {}),
    "residual": ("residual", {}),
    "both": ("rfs", {}),
}
METHODS: dict[str, dict[str, tuple[str, dict[str, Any]]]] = {
    "two_routes": {"Gaussian": ("imitation", {"flow": "gaussian"}), "mixture flow": ("imitation", {})},
    "delayed_corridor": {"critic of steps": ("softflow_per_step", {}), "critic of chunks": ("softflow", {})},
    "drifting_goal": STEERED,
    "wrong_mode": STEERED,
}
"""For each task and method, the algorithm's preset and its settings."""


@dataclass(frozen=True)
class Result:
    """Last evaluation of a run, and the CPU time of the whole run in seconds."""

    success_rate: float
    mean_return: float
    episodes: int
    seconds: float


def compare(task: str, folder: Path, seed: int, settings: Mapping[str, Any]) -> dict[str, Result]:
    """Train every method of a task, and keep the runs in `folder`."""
    results, trained = {}, dict[str, softflow.Run]()
    for method, (algo, own) in METHODS[task].items():
        base = {"base": trained[BASE]} if BASE in trained else {}
        run_dir = folder / f"{task}_{method.replace(' ', '_')}_s{seed}"
        start = time.process_time()
        run_settings = {**own, **base, "env": task, "preset": "diagnostic", "seed": seed, "run_dir": run_dir}
        run = softflow.train({"algo": algo, **run_settings}, **settings)
        seconds = time.process_time() - start
        success, mean_return = (run.metrics()[f"eval/{name}"][-1].value for name in ("success_rate", "mean_reward"))
        results[method], trained[method] = Result(success, mean_return, run.config.run.eval_episodes, seconds), run
    return results


def table(results: dict[str, list[dict[str, Result]]]) -> str:
    """Return a Markdown table with a row per task and method; `results` has one entry per task and seed."""
    rows = [["task", "method", "success of each seed", "together", "return", "s"], ["---"] * 6]
    for task, seeds in results.items():
        for method in METHODS[task]:
            runs = [result[method] for result in seeds]
            counts = Counts([round(run.success_rate * run.episodes) for run in runs], [run.episodes for run in runs])
            together = "{:.2f} [{:.2f}, {:.2f}]".format(counts.rate, *counts.interval())
            mean_return, seconds = (
                sum(getattr(run, name) for run in runs) / len(runs) for name in ("mean_return", "seconds")
            )
            each = ", ".join(f"{run.success_rate:.2f}" for run in runs)
            rows.append([f"`{task}`", method, each, together, f"{mean_return:.2f}", f"{seconds:.0f}"])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder for the runs")
    parser.add_argument("--tasks", nargs="+", choices=METHODS, default=list(METHODS), help="tasks (default: all)")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], help="one run per method and seed")
    parser.add_argument("--settings", type=read_yaml, default={}, help="settings of every run, as YAML")
    arguments = parser.parse_args()
    results: dict[str, list[dict[str, Result]]] = {}
    with contextlib.redirect_stdout(sys.stderr):
        for task in arguments.tasks:
            results[task] = [compare(task, arguments.folder, seed, arguments.settings) for seed in arguments.seeds]
    print(table(results), end="")


if __name__ == "__main__":
    main()
