"""Drawing with matplotlib: colours that follow the page's scheme, and figures as SVG inside HTML.

A figure for the page is drawn in stand-in colours, which become CSS variables in its SVG. So one SVG is readable on a
light and on a dark page.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from softflow.errors import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NUMBER_OF_COLORS = 8
MOST_POINTS = 300
"""Number of points of a curve. Longer ones are averaged, because they only make the page larger."""


@dataclass(frozen=True)
class Theme:
    """Colours of a figure. `series` has `NUMBER_OF_COLORS`, which repeat."""

    ink: str
    muted: str
    line: str
    surface: str
    series: tuple[str, ...]

    def color(self, index: int) -> str:
        return self.series[index % len(self.series)]


PAPER = Theme(
    "#1c1f24", "#5b6470", "#d5dae1", "#ffffff",
    ("#2563eb", "#d9480f", "#0b8a5f", "#8b3fd1", "#b8860b", "#c2255c", "#0e7c93", "#5b6470"),
)  # fmt: skip
ON_THE_PAGE = Theme("#010101", "#010102", "#010103", "#010104", tuple(f"#0102{i:02x}" for i in range(NUMBER_OF_COLORS)))
"""Stand-ins that no other part of an SVG contains."""
_VARIABLES = {
    ON_THE_PAGE.ink: "var(--ink)",
    ON_THE_PAGE.muted: "var(--muted)",
    ON_THE_PAGE.line: "var(--line)",
    ON_THE_PAGE.surface: "var(--surface)",
    **{color: f"var(--series-{index})" for index, color in enumerate(ON_THE_PAGE.series)},
}


@contextmanager
def drawing(
    theme: Theme, width: float, height: float, columns: int = 1, rows: int = 1
) -> Iterator[tuple[Figure, list[Axes]]]:
    """Yield an empty figure and its axes, row after row.

    Args:
        theme: The colours.
        width: The width in inches.
        height: The height in inches.
        columns: The number of axes side by side.
        rows: The number of rows of axes.

    Raises:
        UserError: matplotlib is not installed.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise UserError("figures need matplotlib: pip install 'softflow[plot]'") from error
    style: Any = {
        "text.parse_math": False,  # names of runs and settings may contain dollar signs
        "svg.fonttype": "none",
        "font.size": 9,
        "text.color": theme.ink,
        "axes.labelcolor": theme.muted,
        "axes.edgecolor": theme.line,
        "axes.facecolor": "none",
        "axes.titlesize": 9.5,
        "axes.titlelocation": "left",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.formatter.limits": (-3, 6),
        "grid.color": theme.line,
        "grid.linewidth": 0.6,
        "xtick.color": theme.line,
        "ytick.color": theme.line,
        "xtick.labelcolor": theme.muted,
        "ytick.labelcolor": theme.muted,
        "legend.frameon": False,
        "figure.facecolor": "none",
        "savefig.facecolor": "none",
    }
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def as_svg(figure: Figure, name: str, description: str) -> str:
    """Return a figure as an SVG element for the page.

    Call it inside `drawing`.

    Args:
        figure: The figure, drawn in the colours of `ON_THE_PAGE`.
        name: A name that no other figure of the page has, of letters, digits and hyphens.
        description: What the figure shows, for readers who do not see it. It is escaped.
    """
    import matplotlib

    file = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name}):
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    svg = file.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r' (?:width|height)="[\d.]+pt"', "", svg, count=2)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'(url\(|href=")#', rf"\1#{name}-", svg)
    for color, variable in _VARIABLES.items():
        svg = svg.replace(color, variable)
    return svg.replace("<svg", f'<svg role="img" aria-label="{escape(description)}"', 1)


def thinned(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a curve of at most `MOST_POINTS` points, the means of neighbouring ones."""
    if len(x) <= MOST_POINTS:
        return x, y
    parts = zip(np.array_split(x, MOST_POINTS), np.array_split(y, MOST_POINTS), strict=True)
    means = np.array([(xs[-1], ys.mean()) for xs, ys in parts])
    return means[:, 0], means[:, 1]


def legend_label(text: str) -> str:
    """Return a label that matplotlib shows: it leaves out those that start with an underscore."""
    return f" {text}" if text.startswith("_") else text


def thousands(value: float, position: float = 0) -> str:
    """Format a number of steps on an axis, such as 2.5k."""
    return f"{value / 1000:g}k" if abs(value) >= 1000 else f"{value:g}"
