"""The figure of a study: success on held-out episodes against environment steps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from softflow.files import written_whole
from softflow.studies.results import Row

FILES = "success.png", "success.svg"


def plot_curves(rows: Iterable[Row], grid: Sequence[str], folder: Path) -> None:
    """Plot the means over the seeds of each cell, with their intervals, to success.png and success.svg.

    Each environment has a panel of its own. Without an evaluation, nothing is plotted.

    Args:
        rows: The results.
        grid: The names of the values that follow environment and method in a row's cell.
        folder: The folder of the files.

    Raises:
        ImportError: matplotlib is not installed.
    """
    from matplotlib.figure import Figure  # an extra; without pyplot, which would look for a screen

    panels: dict[str, list[Row]] = {}
    for row in rows:
        if row.curve():
            panels.setdefault(row.cell[0], []).append(row)
    if not panels:
        return
    figure: Any = Figure(figsize=(5.5 * len(panels), 4), layout="constrained")
    for axes, (env, of_env) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for row in of_env:
            curve = row.curve()
            steps = [one.steps for one in curve]
            low, high = zip(*(one.counts.interval() for one in curve), strict=True)
            number = len(row.finished)
            settings = [f"{key} {value}" for key, value in zip(grid, row.cell[2:], strict=True)]
            label = ", ".join([row.cell[1], *settings, f"{number} seed{'s' * (number > 1)}"])
            (line,) = axes.plot(steps, [one.counts.rate for one in curve], marker=".", label=label)
            axes.fill_between(steps, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
        axes.set(title=env, xlabel="environment steps", ylabel="success", ylim=(-0.02, 1.02))
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.grid(alpha=0.3)
        axes.legend(loc="best", frameon=False)
    for name in FILES:
        with written_whole(folder / name) as file:
            figure.savefig(file, dpi=120)
