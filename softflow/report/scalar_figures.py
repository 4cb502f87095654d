"""Curves of a run's scalars over all stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from softflow.report.drawing import ON_THE_PAGE, as_svg, drawing, thinned, thousands
from softflow.report.groups import Group
from softflow.report.history import History
from softflow.report.stage_axis import StageAxis

WIDTH, HEIGHT = 3.7, 2.1
_FIRST: dict[str, Any] = {"linestyle": "-", "linewidth": 1.1, "alpha": 0.9}
_OTHERS: dict[str, Any] = {"linestyle": (0, (3, 1.5)), "linewidth": 0.8, "alpha": 0.6}
"""Lines of the first scalar of a panel, and of its others."""


@dataclass(frozen=True)
class Panel:
    """Scalars that are drawn in one figure.

    Attributes:
        title: The title of the figure.
        names: The names of the scalars. The first one has a solid line, the others dashed lines.
        text: What the figure shows.
        logarithmic: Whether the values have a logarithmic axis.
    """

    title: str
    names: tuple[str, ...]
    text: str
    logarithmic: bool = False


LEARNING = (
    Panel("Success of own episodes", ("rollout/success_rate",), "Mean of the last 50 own episodes, which explore."),
    Panel("Length of own episodes", ("rollout/ep_len_mean",), "Steps, mean of the last 50."),
    Panel("Negative log-likelihood of the data", ("flow/nll",), "Per dimension, of the chunks in the batch."),
    Panel("Flow-matching loss", ("flow/loss",), "Of the chunks in the batch."),
    Panel(
        "Likelihood of own and demonstrated chunks", ("eval/nll_own", "eval/nll_demonstrated"),
        "Negative log-likelihood per dimension under the policy of each evaluation. Solid: recent own chunks. Dashed: "
        "demonstrated ones.",
    ),
    Panel(
        "Likelihood of held-out demonstrations", ("eval/nll_held_out", "eval/nll_demonstrated"),
        "The same. Solid: demonstrations from which nothing is learnt. Dashed: those that are learnt from.",
    ),
    Panel(
        "KL from imitation", ("flow/kl_to_imitation", "flow/kl_to_anchor"),
        "Per dimension, how far the policy has moved. Dashed: from the policy that acts.",
    ),
    Panel("Samples outside the action bounds", ("flow/out_of_bounds",), "Fraction of sampled numbers."),
    Panel("Actor loss", ("train/actor_loss",), "Its terms and weights depend on the stage."),
    Panel(
        "Critic loss", ("train/critic_loss", "train/value_loss"), "Solid: the critic. Dashed: the state value.",
        logarithmic=True,
    ),
    Panel("Values", ("critic/q_mean", "critic/q_min", "critic/q_max"), "Q of the batch: mean, and (dashed) range."),
    Panel(
        "Bias of the values", ("eval/q_bias",),
        "Q minus the discounted return that followed, on held-out episodes.",
    ),
    Panel(
        "Gradient norms", ("train/actor_gradient_norm", "train/critic_gradient_norm"),
        "Before clipping. Solid: the actor. Dashed: the critic.", logarithmic=True,
    ),
    Panel(
        "Learning rate", ("train/actor_learning_rate", "train/critic_learning_rate"),
        "Solid: the actor. Dashed: the critic.",
    ),
)  # fmt: skip
"""The figures of the section on learning."""
_SHOWN_ELSEWHERE = ("eval/success", "eval/episodes", "train/n_updates", "trial/")


def panels_of(runs: Sequence[History]) -> list[Panel]:
    """Return the panels of `LEARNING` for which a run has logged the first scalar."""
    logged = {name for run in runs for name in run.scalars}
    return [panel for panel in LEARNING if panel.names[0] in logged]


def further_panels(runs: Sequence[History]) -> list[Panel]:
    """Return a panel for each scalar that no other figure shows."""
    shown = {name for panel in panels_of(runs) for name in panel.names}
    names = dict.fromkeys(name for run in runs for name in run.scalars)
    return [Panel(name, (name,), "") for name in names if name not in shown and not name.startswith(_SHOWN_ELSEWHERE)]


def draw_panel(panel: Panel, groups: Mapping[int, Group], axis: StageAxis, name: str, environment: str) -> str:
    """Return the figure of a panel as an SVG element: a line for each run, in the colour of its group.

    Args:
        panel: The panel.
        groups: The groups of an environment by the indices of their colours.
        axis: The axis of all their runs.
        name: The name of the figure on the page.
        environment: The name of the environment.
    """
    theme = ON_THE_PAGE
    with drawing(theme, WIDTH, HEIGHT) as (figure, [axes]):
        for index, group in groups.items():
            for run in group.runs:
                for number, scalar in enumerate(panel.names):
                    for stage in run.lengths:
                        points = _in_stage(axis, run, scalar, stage)
                        if len(points):
                            marker = "o" if len(points) == 1 or scalar.startswith("eval/") else None
                            axes.plot(
                                *thinned(points[:, 0], points[:, 1]), color=theme.color(index), marker=marker,
                                markersize=2.5, **(_FIRST if number == 0 else _OTHERS),
                            )  # fmt: skip
        if panel.logarithmic and axes.dataLim.ymax > 0:
            axes.set_yscale("log")
            axes.yaxis.set_minor_formatter("")
        axes.yaxis.set_major_formatter("{x:g}")  # a common factor above the axis would cover the name of a stage
        axis.mark(axes, theme)
        axes.set_xlabel("updates, then environment steps", fontsize=7.5)
        axes.xaxis.set_major_formatter(thousands)
        axes.tick_params(labelsize=7.5)
        return as_svg(figure, name, f"{panel.title} on {environment}, over all stages")


def _in_stage(axis: StageAxis, run: History, scalar: str, stage: str) -> np.ndarray:
    """Return the finite values of a scalar in one stage, so that a line does not lead from one stage to the next."""
    places = [axis.starts[stage] + metric.step for metric in run.scalars.get(scalar, []) if metric.stage == stage]
    values = [metric.value for metric in run.scalars.get(scalar, []) if metric.stage == stage]
    points = np.array([places, values], dtype=np.float64).T.reshape(-1, 2)
    return points[np.isfinite(points[:, 1])]
