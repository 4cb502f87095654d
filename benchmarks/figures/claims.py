"""Draw what SOFT-FLOW claims: that likelihood prevents collapse, and what the flow and the critic of chunks are worth.

    python -m benchmarks.figures.claims --out docs/images/claims.png

Reads `benchmarks/results`: likelihood_weights.csv of `benchmarks.studies.likelihood_weights`, and suite_runs.csv of
`benchmarks.studies.suite`. Needs softflow[plot].
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.studies import likelihood_weights as weights
from benchmarks.studies.suite_results import EPISODES, read_results, rows_of
from softflow.training.intervals import Counts

RESULTS = Path(__file__).parents[1] / "results"
TERMS = {"nll": "likelihood of data chunks", "kl": "exact KL from imitation"}
TASKS = {"delayed_corridor": "delayed_corridor", "peg_insertion_40": "peg_insertion"}
METHODS = {
    "softflow": "flow, critic of chunks",
    "softflow_gaussian": "Gaussian, critic of chunks",
    "softflow_per_step": "flow, critic of steps",
}
COLOURS = ("#1f6fb4", "#d9822b", "#3a8f5c")


def pooled(successes: Sequence[int], episodes: int) -> tuple[float, float, float]:
    """Return the rate over all seeds, and its interval."""
    counts = Counts(successes, [episodes] * len(successes))
    return (counts.rate, *counts.interval())


def draw_weights(axes: Any) -> None:
    """Draw the success at the end against the weight of each term."""
    results = weights.read_results(RESULTS / "likelihood_weights.csv")
    start, low, high = pooled([n for key, n in results.items() if key.term == "imitation"], weights.EPISODES)
    axes.axhspan(low, high, color="#888888", alpha=0.2, lw=0)
    axes.axhline(start, color="#555555", ls="--", label="imitation")
    places = range(len(weights.WEIGHTS))
    for (term, name), colour, shift in zip(TERMS.items(), COLOURS, (-0.05, 0.05), strict=False):
        rates = [
            pooled(
                [n for key, n in results.items() if key.weight == weight and key.term == (term if weight else "nll")],
                weights.EPISODES,
            )
            for weight in weights.WEIGHTS
        ]
        draw_intervals(axes, [place + shift for place in places], rates, colour, name, fmt="o-")
    axes.set_xticks(places, [f"{weight:g}" for weight in weights.WEIGHTS])
    axes.set_xlabel("weight of the term beside -Q / |Q|")
    axes.set_ylabel("success at the end")
    axes.set_title("Likelihood prevents collapse")
    axes.legend(frameon=False, loc="upper left")


def draw_variants(axes: Any) -> None:
    """Draw the success of SOFT-FLOW, and of SOFT-FLOW with one part replaced."""
    rows = {(row.task, row.method): row for row in rows_of(read_results(RESULTS / "suite_runs.csv"))}
    for number, ((method, name), colour) in enumerate(zip(METHODS.items(), COLOURS, strict=True)):
        places = [task + 0.25 * (number - 1) for task in range(len(TASKS))]
        found = [rows[task, method] for task in TASKS]
        imitated = [pooled([one.imitated for one in row.results], EPISODES)[0] for row in found]
        deployed = [pooled([one.deployed for one in row.results], EPISODES) for row in found]
        axes.hlines(
            imitated,
            [place - 0.08 for place in places],
            [place + 0.08 for place in places],
            colors="#555555",
            linestyles="--",
            label="after imitation" if not number else None,
        )
        draw_intervals(axes, places, deployed, colour, name, fmt="o")
    axes.set_xticks(range(len(TASKS)), TASKS.values())
    axes.set_title("The flow, and the critic of chunks")
    axes.legend(frameon=False, loc="lower right")


def draw_intervals(
    axes: Any, places: Sequence[float], rates: Sequence[tuple[float, float, float]], colour: str, name: str, fmt: str
) -> None:
    """Draw rates with their intervals."""
    below, above = ([abs(rate[0] - rate[end]) for rate in rates] for end in (1, 2))
    axes.errorbar(
        places, [rate[0] for rate in rates], yerr=[below, above], fmt=fmt, color=colour, capsize=3, label=name
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="image file")
    arguments = parser.parse_args()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    draw_weights(left)
    draw_variants(right)
    left.set_ylim(-0.03, 1.03)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(arguments.out, dpi=150)


if __name__ == "__main__":
    main()
