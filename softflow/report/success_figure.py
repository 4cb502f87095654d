"""Success on held-out episodes against environment steps: the figure of the report, `softflow-plot` and studies."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from softflow.errors import UserError
from softflow.files import written_whole
from softflow.report.drawing import PAPER, Theme, drawing, legend_label, thinned, thousands
from softflow.report.groups import Group
from softflow.report.history import History

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SUFFIXES = (".png", ".svg", ".pdf")


def environments_of(groups: Sequence[Group]) -> list[str]:
    """Return the environments of the groups, in order. Success is only compared within one of them."""
    return list(dict.fromkeys(group.environment for group in groups))


def save_success_figure(groups: Sequence[Group], path: Path) -> None:
    """Write the figure, with axes for each environment side by side, to a file of one of `SUFFIXES`.

    Raises:
        UserError: There is nothing to plot, matplotlib is not installed, or the file cannot be written.
    """
    if not any(group.evaluations() for group in groups):
        raise UserError("none of the runs has been evaluated, so there is no success to plot")
    environments = environments_of(groups)
    columns = min(len(environments), 3)
    rows = -(-len(environments) // columns)
    with drawing(PAPER, 1.2 + 3.8 * columns, 3.4 * rows, columns, rows) as (figure, axes):
        for environment, ax in zip(environments, axes, strict=False):
            draw_success(ax, [group for group in groups if group.environment == environment], PAPER)
            if len(environments) > 1:
                ax.set_title(environment)
            handles, labels = ax.get_legend_handles_labels()
            ax.legend(handles, labels, loc="lower right", fontsize=8)
        for ax in axes[len(environments) :]:
            ax.remove()
        with written_whole(path) as file:
            figure.savefig(file, dpi=200, facecolor=PAPER.surface)


def draw_success(axes: Axes, groups: Sequence[Group], theme: Theme, colors: Sequence[int] | None = None) -> None:
    """Draw the curves of groups of one environment.

    Thick lines are means over seeds with 95 % intervals over seeds and episodes. The hollow point is the policy before
    its own episodes. Thin lines are the moving success of own episodes, which explore.

    Args:
        axes: Where to draw.
        groups: The groups.
        theme: The colours.
        colors: The index of each group's colour. By default they are numbered.
    """
    for group, index in zip(groups, colors or range(len(groups)), strict=True):
        color = theme.color(index)
        if len(own := mean_own_success(group.runs)):
            axes.plot(*thinned(own[:, 0], own[:, 1]), color=color, linewidth=0.8, alpha=0.55)
        pooled = group.evaluations()
        if not pooled:
            continue
        before = [one for one in pooled if one.environment_steps == 0]
        curve = before[-1:] + [one for one in pooled if one.environment_steps > 0]
        steps, rates = [one.environment_steps for one in curve], [one.rate for one in curve]
        low, high = zip(*(one.interval for one in curve), strict=True)
        axes.fill_between(steps, low, high, color=color, alpha=0.16, linewidth=0)
        axes.plot(steps, rates, color=color, linewidth=2, marker="o", markersize=3.5, label=legend_label(group.title))
        if before:
            spread = [[rates[0] - low[0]], [high[0] - rates[0]]]
            axes.errorbar(steps[:1], rates[:1], spread, color=color, capsize=3, linewidth=1.2)
            axes.plot(
                steps[:1], rates[:1], marker="o", markersize=6, markerfacecolor=theme.surface, markeredgecolor=color
            )
    axes.set(xlabel="environment steps", ylabel="success", ylim=(-0.02, 1.04))
    axes.xaxis.set_major_formatter(thousands)


def mean_own_success(runs: Sequence[History]) -> np.ndarray:
    """Return the moving success of own episodes, averaged over the runs that have acted: (N, 2) steps and rates.

    It ends where the first of the runs ends.
    """
    curves = [curve for run in runs if len(curve := run.own_success)]
    if not curves:
        return np.empty((0, 2))
    start, end = max(curve[0, 0] for curve in curves), min(curve[-1, 0] for curve in curves)
    grid = np.unique(np.concatenate([curve[:, 0] for curve in curves]))
    grid = grid[(grid >= start) & (grid <= end)]
    mean = np.mean([np.interp(grid, curve[:, 0], curve[:, 1]) for curve in curves], axis=0)
    return np.stack([grid, mean], axis=1)
