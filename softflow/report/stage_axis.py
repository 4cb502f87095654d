"""One axis for all stages of runs: the updates or environment steps done since the beginning.

Stages count updates, or environment steps if they act. On this axis they follow one another. Each stage is as long as
in the longest run, so that it begins at the same place in every run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from softflow.report.drawing import Theme
from softflow.report.history import History

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class StageAxis:
    """The axis.

    Attributes:
        starts: The place at which each stage begins, in order.
        end: The place at which the last one ends.
    """

    starts: dict[str, int]
    end: int

    @classmethod
    def of(cls, runs: Sequence[History]) -> StageAxis:
        """Return the axis of several runs. The stages of each run are in its own order."""
        order: list[str] = []
        for run in runs:
            place = len(order)
            for stage in reversed(run.lengths):
                if stage in order:
                    place = order.index(stage)
                else:
                    order.insert(place, stage)
        starts, end = {}, 0
        for stage in order:
            starts[stage] = end
            end += max(run.lengths.get(stage, 0) for run in runs)
        return cls(starts, end)

    def describe(self, runs: Sequence[History]) -> str:
        """Return in words where each stage of the runs lies, and what it counts."""
        acting = {stage for run in runs for stage in run.acting}
        ends = [*list(self.starts.values())[1:], self.end]
        return "; ".join(
            f"{stage}: {start:,} to {end:,} ({'environment steps' if stage in acting else 'updates'})"
            for (stage, start), end in zip(self.starts.items(), ends, strict=True)
        )

    def mark(self, axes: Axes, theme: Theme) -> None:
        """Draw the stages behind the curves, and their names on top, as far as there is room for them."""
        ends = [*list(self.starts.values())[1:], self.end]
        for index, ((stage, start), end) in enumerate(zip(self.starts.items(), ends, strict=True)):
            if index % 2:
                axes.axvspan(start, end, color=theme.line, alpha=0.35, linewidth=0, zorder=0)
            if end - start >= 0.02 * len(stage) * self.end:
                axes.text(
                    start, 1.0, f" {stage}", transform=axes.get_xaxis_transform(), va="bottom", fontsize=7,
                    color=theme.muted,
                )  # fmt: skip
        axes.set_xlim(0, max(self.end, 1))
