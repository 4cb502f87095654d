"""Correct a policy from fifty takeovers, without another step of the environment: by a residual, and by exact latents.

    python examples/human_corrections.py            # about five minutes
    python examples/human_corrections.py --quick    # half a minute, and learns little

A normalizing flow imitates demonstrations of tape_cut. It acts; where it fails the scripted demonstrator takes over, as
a human beside a robot would. The frozen policy is then corrected from what the demonstrator did, in two ways. With
--careful the one who takes over has a steady hand: without the noise and the offsets of the demonstrations.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable
from pathlib import Path

import tyro

from softflow.cli import demonstrate, train


def compare(
    runs: Path = Path("runs/human_corrections"),
    episodes: int = 50,
    seed: int = 0,
    careful: bool = False,
    quick: bool = False,
) -> None:
    """Imitate, record corrections of `episodes` episodes, learn from them, and judge on held-out episodes."""
    base, corrections = runs / "base", runs / "corrections.npz"
    size = "--num-demos 8 --eval-episodes 4" if quick else "--num-demos 100 --eval-episodes 100"
    imitate = f"--algo imitation --seed {seed}" + " --imitation.updates 20" * quick
    run(train.main, f"{imitate} {size} --run-dir {base}")
    record = f"--corrections {base} --episodes {episodes} --seed {seed} --out {corrections}"
    steady = " --demonstrator-options.sloppiness 0 --demonstrator-options.noise 0"
    run(demonstrate.main, record + steady * careful)
    for algo in ("correction", "latent_correction"):
        correct = f"--demos {base / train.DEMONSTRATIONS} --base {base} --corrections {corrections} --seed {seed}"
        run(train.main, f"--algo {algo} {correct} {size} --run-dir {runs / algo}" + " --correction.updates 20" * quick)
    for name in ("base", "correction", "latent_correction"):
        print(f"{name:<18} success {success(runs / name):.2f}")


def run(command: Callable[..., int], arguments: str) -> None:
    """One of the commands; leave with its exit status if it fails."""
    print(f"\n{command.__module__} {arguments}", flush=True)
    if status := command(arguments.split()):
        sys.exit(status)


def success(folder: Path) -> float:
    """What the run's last evaluation came to."""
    with (folder / "metrics.csv").open(newline="") as file:
        return [float(row["value"]) for row in csv.DictReader(file) if row["name"] == "eval/success_rate"][-1]


if __name__ == "__main__":
    tyro.cli(compare)
