"""Plot success against environment steps from run folders, one colour per algorithm and number of demonstrations.

    python -m benchmarks.figures.plot_learning_curves runs/study/*/*/ --out docs/images/learning_curve.png

Thick lines show success on held-out episodes, averaged over the seeds, with 95 % intervals over seeds and episodes; the
circle at 0 steps is imitation alone. Thin lines show the running success of the training episodes, which explore,
averaged over the seeds. Their first points are too high because successes end sooner than failures. Needs
softflow[plot].
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from softflow.studies.run_results import Run, pool, read_run


def plot(runs: Sequence[Run], path: Path) -> None:
    """Plot the runs' learning curves to a PNG file."""
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    groups = by_configuration(runs)
    several = len({num_demos for _, num_demos in groups}) > 1
    for (algo, num_demos), group in groups.items():
        seeds = f"{len(group)} seed{'s' * (len(group) > 1)}"
        label = f"{algo}, {num_demos} demonstrations, {seeds}" if several else f"{algo}, {seeds}"
        evaluations = pool(group)
        steps, rates = [e.steps for e in evaluations], [e.counts.rate for e in evaluations]
        low, high = zip(*(e.counts.interval() for e in evaluations), strict=True)
        (line,) = axes.plot(steps, rates, marker=".", label=label)
        axes.fill_between(steps, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
        axes.errorbar(
            steps[0], rates[0], [[rates[0] - low[0]], [high[0] - rates[0]]],
            fmt="o", markerfacecolor="white", color=line.get_color(), capsize=3, zorder=3,
        )  # fmt: skip
        grid, mean = mean_of_own_episodes(group)
        axes.plot(grid, mean, color=line.get_color(), linewidth=0.7, alpha=0.7)
    axes.set(xlabel="environment steps", ylabel="success", ylim=(0, 1.02))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.grid(alpha=0.3)
    axes.legend(loc="best", frameon=False)
    figure.savefig(path, dpi=120)


def by_configuration(runs: Sequence[Run]) -> dict[tuple[str, int], list[Run]]:
    """Group runs by (algo, num_demos), in order of first appearance."""
    groups: dict[tuple[str, int], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.algo, run.num_demos), []).append(run)
    return groups


def mean_of_own_episodes(runs: Sequence[Run]) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean running success over the runs that have acted, up to the last step that all of them reached."""
    curves = [run.own_episodes for run in runs if len(run.own_episodes)]
    if not curves:
        return np.empty(0), np.empty(0)
    grid = np.linspace(max(curve[0, 0] for curve in curves), min(curve[-1, 0] for curve in curves), 500)
    return grid, np.mean([np.interp(grid, curve[:, 0], curve[:, 1]) for curve in curves], axis=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="run folders")
    parser.add_argument("--out", type=Path, default=Path("learning_curve.png"), help="PNG file to write")
    arguments = parser.parse_args()
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    plot([read_run(path) for path in arguments.runs], arguments.out)
    print(arguments.out)


if __name__ == "__main__":
    main()
