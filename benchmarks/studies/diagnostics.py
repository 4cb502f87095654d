"""What each diagnostic task is to tell apart, told apart by the project's own methods: a markdown table.

    python -m benchmarks.studies.diagnostics runs/diagnostics --seeds 0 1 2
    python -m benchmarks.studies.diagnostics runs/one --tasks delayed_corridor -- --warmup.updates 2000

Every run is `softflow-train --preset diagnostic`, on one thread; what stands after `--` goes to each of them. Methods
of one task and seed learn from the same demonstrations, make equally many updates, and those that steer, steer the
same base. Prints success and mean return on held-out episodes at the end of the runs, and seconds of CPU time. The
folder must be new.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from softflow.cli.train import main as train
from softflow.runs.assembly import read_config
from softflow.training.intervals import wilson_interval
from softflow.training.run_folder import RunFolder

FLOW_MATCHING = ("--flow", "flow_matching", "--flow-options.solver", "euler", "--flow-options.steps", "5")
STEERED = {
    # A policy that is steered is imitated here, and drawn from at the temperature that it is steered at.
    "base": ("imitation", *FLOW_MATCHING, "--temperature", "1.0"),
    "latent": ("latent_steering", "--base", "{base}"),
    "residual": ("residual", "--base", "{base}"),
    "both": ("rfs", "--base", "{base}"),
}
METHODS = {
    "two_routes": {"Gaussian": ("imitation", "--flow", "gaussian"), "mixture flow": ("imitation",)},
    "delayed_corridor": {"critic of steps": ("softflow_per_step",), "critic of chunks": ("softflow",)},
    "drifting_goal": STEERED,
    "wrong_mode": STEERED,
}
"""For each task, what is compared: the preset of the algorithm, and flags."""


@dataclass(frozen=True)
class Result:
    """A run's last evaluation, and the CPU time of the whole run in seconds."""

    success_rate: float
    mean_return: float
    episodes: int
    seconds: float


def compare(task: str, folder: Path, seed: int, flags: Sequence[str] = ()) -> dict[str, Result]:
    """Train every method of a task; the runs are left in `folder`."""
    results = {}
    for method, (algo, *options) in METHODS[task].items():
        run = folder / f"{task}_{method.replace(' ', '_')}_s{seed}"
        command = ["--algo", algo, "--env", task, "--preset", "diagnostic", "--seed", str(seed), "--run-dir", str(run)]
        command += [option.format(base=folder / f"{task}_base_s{seed}") for option in options]
        start = time.process_time()
        status = train([*command, *flags])
        if status:
            raise SystemExit(status)
        results[method] = _result(run, time.process_time() - start)
    return results


def _result(run: Path, seconds: float) -> Result:
    episodes = read_config(str(run / "config.yaml")).eval_episodes
    with RunFolder.open(run).metrics_path.open(newline="", encoding="utf-8") as file:
        last = {row["name"]: float(row["value"]) for row in csv.DictReader(file)}
    return Result(last["eval/success_rate"], last["eval/mean_reward"], episodes, seconds)


def table(results: dict[str, list[dict[str, Result]]]) -> str:
    """Markdown, one row for each task and method; `results` of a task are those of each seed."""
    rows = [["task", "method", "success of each seed", "together", "return", "s"], ["---"] * 6]
    for task, seeds in results.items():
        for method in METHODS[task]:
            runs = [result[method] for result in seeds]
            successes = sum(round(run.success_rate * run.episodes) for run in runs)
            episodes = sum(run.episodes for run in runs)
            together = "{:.2f} [{:.2f}, {:.2f}]".format(successes / episodes, *wilson_interval(successes, episodes))
            mean_return, seconds = (
                sum(getattr(run, name) for run in runs) / len(runs) for name in ("mean_return", "seconds")
            )
            each = ", ".join(f"{run.success_rate:.2f}" for run in runs)
            rows.append([f"`{task}`", method, each, together, f"{mean_return:.2f}", f"{seconds:.0f}"])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def main() -> None:
    split = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the runs go")
    parser.add_argument("--tasks", nargs="+", choices=METHODS, default=list(METHODS), help="all, unless given")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], help="seeds")
    arguments = parser.parse_args(sys.argv[1:split])
    results: dict[str, list[dict[str, Result]]] = {}
    with contextlib.redirect_stdout(sys.stderr):
        for task in arguments.tasks:
            results[task] = [compare(task, arguments.folder, seed, sys.argv[split + 1 :]) for seed in arguments.seeds]
    print(table(results), end="")


if __name__ == "__main__":
    main()
