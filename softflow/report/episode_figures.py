"""Figures of a run's episodes: what was expected of them and what they achieved, and how own ones ended."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from softflow.report.drawing import ON_THE_PAGE, as_svg, drawing, thousands
from softflow.report.groups import Group
from softflow.report.history import History
from softflow.training.episode_table import EpisodeRow

BINS = 8
"""Number of bins of expected values in the calibration figure."""
FEWEST = 5
"""Number of episodes that a bin needs."""
SPANS = 20
"""Number of spans of environment steps in which own episodes are counted."""
OUTCOMES = ("success", "failure", "out of time")


def valued_rows(run: History) -> list[EpisodeRow]:
    """Return the held-out and own episodes of which a critic expected a value."""
    return [row for row in run.episodes or [] if row.value is not None]


def calibration(rows: Sequence[EpisodeRow]) -> np.ndarray:
    """Return bins of episodes with increasing expected value.

    Returns:
        The mean expected value, the mean achieved return and its standard error: (bins, 3).
    """
    pairs = np.array([(row.value, row.achieved) for row in rows], dtype=np.float64).reshape(-1, 2)
    pairs = pairs[np.argsort(pairs[:, 0], kind="stable")]
    bins = [part for part in np.array_split(pairs, min(BINS, max(1, len(pairs) // FEWEST))) if len(part) >= FEWEST]
    return np.array([(*part.mean(0), part[:, 1].std(ddof=1) / np.sqrt(len(part))) for part in bins]).reshape(-1, 3)


def draw_calibration(groups: Sequence[Group], name: str, description: str) -> str:
    """Return the figure of the value against the achieved return as an SVG element."""
    theme = ON_THE_PAGE
    with drawing(theme, 5.2, 3.6) as (figure, [axes]):
        for index, group in enumerate(groups):
            rows = [row for run in group.runs for row in valued_rows(run)]
            for source, filled in (("own", True), ("held_out", False)):
                bins = calibration([row for row in rows if row.source == source])
                if len(bins):
                    axes.errorbar(
                        bins[:, 0], bins[:, 1], 1.96 * bins[:, 2], color=theme.color(index), marker="o", markersize=4.5,
                        markerfacecolor=theme.color(index) if filled else theme.surface, linewidth=1.2, capsize=2,
                        linestyle="-" if filled else (0, (3, 1.5)),
                    )  # fmt: skip
        low = min(axes.get_xlim()[0], axes.get_ylim()[0])
        high = max(axes.get_xlim()[1], axes.get_ylim()[1])
        axes.plot([low, high], [low, high], color=theme.muted, linewidth=0.8, linestyle=":")
        axes.set(xlabel="expected: Q of the executed chunks", ylabel="achieved: discounted return", xlim=(low, high))
        axes.set_ylim(low, high)
        return as_svg(figure, name, description)


def outcome_of(row: EpisodeRow) -> str:
    """Return which of `OUTCOMES` an episode had."""
    if row.success:
        return "success"
    return "failure" if row.ending == "terminated" else "out of time"


def draw_outcomes(run: History, rows: Sequence[EpisodeRow], name: str, description: str) -> str:
    """Return the figure of a run's own episodes by outcome, in spans of environment steps, as an SVG element."""
    theme = ON_THE_PAGE
    steps = np.array([run.environment_steps(row.stage, row.step) for row in rows])
    outcomes = np.array([outcome_of(row) for row in rows])
    edges = np.linspace(0, steps.max(), SPANS + 1)
    with drawing(theme, 3.7, 2.3) as (figure, [axes]):
        below = np.zeros(SPANS)
        for outcome, color in zip(OUTCOMES, (theme.color(2), theme.color(5), theme.color(7)), strict=True):
            counts = np.histogram(steps[outcomes == outcome], edges)[0].astype(float)
            axes.bar(
                edges[:-1], counts, np.diff(edges), below, align="edge", color=color, alpha=0.85, linewidth=0,
                label=outcome,
            )  # fmt: skip
            below += counts
        axes.set(xlabel="environment steps", ylabel="own episodes", ylim=(0, 1.25 * max(below.max(), 1)))
        axes.xaxis.set_major_formatter(thousands)
        axes.legend(ncols=3, loc="upper left", fontsize=7.5, handlelength=1.0, columnspacing=1.0)
        return as_svg(figure, name, description)
