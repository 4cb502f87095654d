"""Which policy a run names as its best, in a simulation with policies whose success is known.

    python -m benchmarks.studies.simulated_choice --episodes 50 --repetitions 1000

Each curve gives the true success of the policies that a run evaluates, from first to last. The table compares three
rules: the last policy; the latest one that is not worse than the most successful one; and the same with further
episodes (`softflow.training.evaluated`). It has the mean true success of the choice, the fraction of runs that choose
the last policy, and the mean number of additional evaluations.
"""

from __future__ import annotations

import argparse
from typing import NamedTuple

import numpy as np

from softflow.training.evaluated import Evaluated, best_of, compare_latest
from softflow.training.evaluation import Evaluation
from softflow.training.intervals import wilson_interval

CURVES = {
    "rises": (0.5, 0.6, 0.62, 0.65, 0.7, 0.75, 0.8),
    "rises to 1": (0.6, 0.7, 0.8, 0.9, 0.95, 0.97, 0.98),
    "stays": (0.6,) * 7,
    "falls slowly": (0.6, 0.7, 0.68, 0.66, 0.64, 0.62, 0.6),
    "falls": (0.6, 0.7, 0.65, 0.6, 0.5, 0.4, 0.3),
    "falls at the end": (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.7),
}
"""True success of the policies that are evaluated."""


class Simulated(NamedTuple):
    """What a rule chose in a simulated run."""

    chosen: int
    """Index of the evaluation."""
    additional: int = 0
    """Number of additional evaluations."""


def simulate(curve: tuple[float, ...], episodes: int, rng: np.random.Generator) -> dict[str, Simulated]:
    """Return the choice of every rule in the same run."""

    def run(success: float) -> Evaluation:
        count = int(rng.binomial(episodes, success))
        return Evaluation(count / episodes, wilson_interval(count, episodes), 0.0, 0.0, episodes)

    def chosen(evaluations: list[Evaluated]) -> int:
        best = best_of(evaluations)
        assert best is not None, "all policies are kept"
        return best.number

    evaluations = [
        Evaluated(number, "online", number, "steps", False, run(success)) for number, success in enumerate(curve)
    ]
    compared: list[Evaluated] = []
    for latest in evaluations:
        compared = compare_latest([*compared, latest], lambda one: run(curve[one.number]))
    additional = sum(one.further is not None for one in compared)
    return {
        "last": Simulated(len(curve) - 1),
        "first episodes": Simulated(chosen(evaluations)),
        "further episodes": Simulated(chosen(compared), additional),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=50, help="number of episodes of an evaluation")
    parser.add_argument("--repetitions", type=int, default=1000, help="number of simulated runs of each curve")
    parser.add_argument("--seed", type=int, default=0, help="seed of the simulation")
    arguments = parser.parse_args()
    rng = np.random.default_rng(arguments.seed)
    print("| success | best | rule | success of the choice | chose the last | additional evaluations |")
    print("|---|---|---|---|---|---|")
    for name, curve in CURVES.items():
        runs = [simulate(curve, arguments.episodes, rng) for _ in range(arguments.repetitions)]
        for rule in runs[0]:
            choices = [run[rule] for run in runs]
            success = np.mean([curve[choice.chosen] for choice in choices])
            last = np.mean([choice.chosen == len(curve) - 1 for choice in choices])
            additional = np.mean([choice.additional for choice in choices])
            print(f"| {name} | {max(curve):.2f} | {rule} | {success:.3f} | {last:.2f} | {additional:.1f} |")


if __name__ == "__main__":
    main()
