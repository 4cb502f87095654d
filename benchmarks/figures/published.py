"""Draw the success of runs beside the published curves of Q-chunking, at the same number of environment steps.

    python -m benchmarks.figures.published runs/suite/ogbench_cube_double_50/softflow_s* --curves qc_curves.csv \
        --task cube-double-play-task2 --steps 200000 --out docs/images/published.png

The file of curves has the columns task, method, million_steps_offline_then_online and success_mean. It contains the
data of the plots that the authors of Q-chunking (arXiv 2507.07969) publish with their code. Their methods first make a
million updates on play data, except for those without an offline stage. Only their online steps are drawn. Needs
softflow[plot].
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path

from softflow.errors import UserError
from softflow.files import written_whole
from softflow.report.drawing import PAPER, drawing
from softflow.report.groups import group_runs
from softflow.report.history import read_histories
from softflow.report.success_figure import draw_success

METHODS = ("QC", "QC-FQL", "FQL", "RLPD")
OFFLINE = 1.0
"""Million updates before the first environment step."""


def published(path: Path, task: str, method: str, steps: int) -> list[tuple[float, float]]:
    """Return the environment steps, at most `steps`, and the mean success of a method on a task.

    Raises:
        UserError: The file has no such curve.
    """
    with path.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["task"] == task and row["method"] == method]
    points = [
        (1e6 * (float(row["million_steps_offline_then_online"]) - OFFLINE), float(row["success_mean"])) for row in rows
    ]
    curve = sorted(point for point in points if -1 < point[0] <= steps + 1)
    if not curve:
        raise UserError(f"{path}: no curve of {method} on {task}")
    return curve


def draw(runs: Sequence[str], curves: Path, task: str, steps: int, out: Path) -> None:
    """Draw the figure and print the published points."""
    with drawing(PAPER, 6.0, 3.8, 1, 1) as (figure, [axes]):
        groups = group_runs(read_histories(runs))
        draw_success(axes, groups, PAPER)
        for method, style in zip(METHODS, ("-", "--", "-.", ":"), strict=True):
            curve = published(curves, task, method, steps)
            print(method, " ".join(f"{step:,.0f}: {rate:.2f}" for step, rate in curve))
            axes.plot(*zip(*curve, strict=True), color=PAPER.muted, linestyle=style, label=f"{method}, published")
        axes.legend(loc="lower right", fontsize=8)
        axes.set_title(task)
        with written_whole(out) as file:
            figure.savefig(file, dpi=200, facecolor=PAPER.surface)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+")
    parser.add_argument("--curves", type=Path, required=True, help="the published curves, as CSV")
    parser.add_argument("--task", required=True, help="the name of the task in this file")
    parser.add_argument("--steps", type=int, default=200_000, help="the last environment step that is drawn")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    draw(options.runs, options.curves, options.task, options.steps, options.out)


if __name__ == "__main__":
    main()
