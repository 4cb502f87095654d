"""The sections of a report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from softflow.errors import UserError
from softflow.report.data_statistics import MOST_DIMENSIONS, DataStatistics, draw_statistics, statistics_of
from softflow.report.deployment import changes_of
from softflow.report.drawing import NUMBER_OF_COLORS, ON_THE_PAGE, as_svg, drawing
from softflow.report.episode_figures import OUTCOMES, draw_calibration, draw_outcomes, outcome_of, valued_rows
from softflow.report.groups import Group, differences
from softflow.report.history import History
from softflow.report.page import Entry, Figure, Fold, Section, Table, markup
from softflow.report.scalar_figures import draw_panel, further_panels, panels_of
from softflow.report.stage_axis import StageAxis
from softflow.report.success_figure import draw_success, environments_of

ARM = "An arm, as in a bandit, is one of the alternatives that own episodes try: a policy and a number of chunks."


def success_section(groups: Sequence[Group]) -> Section:
    """Success on held-out episodes, one figure for each environment, and a table of the evaluations."""
    figures = []
    for number, environment in enumerate(environments_of(groups)):
        chosen = [index for index, group in enumerate(groups) if group.environment == environment]
        with drawing(ON_THE_PAGE, 5.2, 3.1) as (figure, [axes]):
            draw_success(axes, [groups[index] for index in chosen], ON_THE_PAGE, chosen)
            svg = as_svg(figure, f"success-{number}", f"success on {environment} against environment steps")
        figures.append(Figure(environment, markup(svg)))
    header = ["setting", "stage", "step", "environment steps", "success", "95 % interval", "seeds", "episodes"]
    rows = [
        [
            group.full_label, one.stage, f"{one.step:,.0f}", f"{one.environment_steps:,.0f}",
            f"{one.rate:.3f}", "[{:.2f}, {:.2f}]".format(*one.interval), str(len(one.counts.episodes)),
            f"{sum(one.counts.episodes):,}",
        ]
        for group in groups
        for one in group.evaluations()
    ]  # fmt: skip
    text = [
        "Thick lines: held-out episodes, mean over seeds with its interval. Hollow point: the policy before its own "
        "episodes. Thin lines: the last 50 own episodes, which explore."
    ]
    table = Fold("All evaluations", tables=[Table(header, rows, numbers=(2, 3, 4, 5, 6, 7))])
    return Section("success", "Success", text, legend_of(groups), figures, folds=[table], large=True)


def learning_section(groups: Sequence[Group]) -> Section | None:
    """The curves of the scalars over all stages, of each environment by itself."""
    folds: list[Fold] = []
    environments = environments_of(groups)
    for number, environment in enumerate(environments):
        chosen = {index: group for index, group in enumerate(groups) if group.environment == environment}
        runs = [run for group in chosen.values() for run in group.runs]
        axis = StageAxis.of(runs)
        for panels, title in (
            (panels_of(runs), environment),
            (further_panels(runs), f"{environment}: further scalars"),
        ):
            figures = [
                Figure(
                    panel.title,
                    markup(draw_panel(panel, chosen, axis, f"learning-{number}-{len(folds)}-{index}", environment)),
                    panel.text,
                )
                for index, panel in enumerate(panels)
            ]
            if figures:
                folds.append(Fold(title, figures, text=axis.describe(runs), is_open=not folds))
    if not folds:
        return None
    text = [
        "Stages follow one another on one axis: updates, or environment steps in a stage that acts. One line for each "
        "run."
    ]
    return Section("learning", "Learning", text, legend_of(groups), folds=folds)


def values_section(groups: Sequence[Group]) -> Section | None:
    """The value that the critic expected against the return that was achieved."""
    rows: list[list[str]] = []
    for group in groups:
        valued = [row for run in group.runs for row in valued_rows(run)]
        for source, name in (("own", "own"), ("held_out", "held-out")):
            pairs = [(row.value, row.achieved) for row in valued if row.source == source]
            if pairs:
                value, achieved = np.mean(np.array(pairs, dtype=np.float64), axis=0)
                numbers = [f"{len(pairs):,}", f"{value:.3f}", f"{achieved:.3f}", f"{value - achieved:+.3f}"]
                rows.append([group.full_label, name, *numbers])
    if not rows:
        return None
    text = [
        "Means over the decisions of an episode, by the critic as it was then. Episodes that ran out of time may have "
        "achieved more than was seen."
    ]
    caption = (
        "Filled points and solid lines: own episodes. Hollow points and dashed lines: held-out ones. Each point is the "
        "mean of an equal number of episodes, with its 95 % interval. Points below the dotted line did worse than the "
        "critic expected."
    )
    svg = draw_calibration(groups, "calibration", "expected values against achieved returns")
    figure = Figure("Q against the discounted return", markup(svg), caption)
    table = Table(["setting", "episodes", "number", "mean Q", "mean return", "bias"], rows, numbers=(2, 3, 4, 5))
    return Section("values", "Expected and achieved", text, legend_of(groups), [figure], [table], large=True)


def outcomes_section(groups: Sequence[Group]) -> Section | None:
    """Own episodes by outcome."""
    figures: list[Figure] = []
    rows: list[list[str]] = []
    for group in groups:
        for run in group.runs:
            own = [row for row in run.episodes or [] if row.source == "own"]
            if not own:
                continue
            title = f"{group.full_label}, seed {run.seed}"
            svg = draw_outcomes(run, own, f"outcomes-{len(figures)}", f"own episodes of {title} by outcome")
            figures.append(Figure(title, markup(svg)))
            for arm in sorted({row.arm for row in own}):
                some = [row for row in own if row.arm == arm]
                shares = [sum(outcome_of(row) == outcome for row in some) for outcome in OUTCOMES]
                mean_length = float(np.mean([row.length for row in some]))
                rows.append([title, str(arm), f"{len(some):,}", *(f"{n:,}" for n in shares), f"{mean_length:.0f}"])
    if not figures:
        return None
    text = ["A failure ended in a terminal state; an episode out of time was cut off without success."]
    header = ["run", "arm", "episodes", "successes", "failures", "out of time", "mean length"]
    table = Fold("By the arm that acted", tables=[Table(header, rows, numbers=(1, 2, 3, 4, 5, 6))], text=ARM)
    return Section("episodes", "Own episodes", text, [], figures, folds=[table])


def deployment_section(runs: Sequence[History]) -> Section | None:
    """What acted and why."""
    folds = []
    for run in runs:
        changes = changes_of(run)
        rows = [[f"{one.step:,}", one.deployed, str(one.version), one.beliefs] for one in changes]
        if rows:
            count = f"{len(rows)} entr{'y' if len(rows) == 1 else 'ies'}"
            header = ["step", "acts in evaluations", "policy on trial", "success believed from own episodes"]
            folds.append(Fold(f"{run.name} ({count})", tables=[Table(header, rows, numbers=(0, 2))]))
    if not folds:
        return None
    text = [
        "Own episodes decide whether the champion or the challenger acts in evaluations, and among how many proposed "
        "chunks the critic chooses. There is an entry whenever that changed, or another policy went on trial."
    ]
    return Section("acted", "What acted, and why", text, folds=folds)


def data_section(groups: Sequence[Group], missing: list[str]) -> Section | None:
    """Actions and observations of demonstrations and own episodes, of the first run of each group."""
    figures: list[Figure] = []
    for index, group in enumerate(groups):
        run = group.runs[0]
        try:
            actions, observations, notes = statistics_of(run)
        except (UserError, ValueError) as error:
            missing.append(f"{run.name}: no statistics of its demonstrations: {error}")
            continue
        missing += notes
        title = f"{group.full_label}, seed {run.seed}"
        parts: list[tuple[str, DataStatistics | None]] = [("actions", actions), ("observations", observations)]
        for name, statistics in parts:
            if statistics is not None:
                svg = draw_statistics(statistics, f"data-{index}-{name}", f"{name} of {title}")
                figures.append(Figure(f"{name.capitalize()}: {title}", markup(svg), _data_caption(statistics)))
    if not figures:
        return None
    text = [
        "Thin lines: 1 to 99 % of the numbers; thick ones: 25 to 75 %; points: medians. Actions are in [-1, 1], "
        "observations in standard deviations of the demonstrated ones. Only the newest own episodes are in the replay."
    ]
    legend = [Entry("demonstrations", 0), Entry("own episodes in the last checkpoint", 1)]
    return Section("data", "Actions and observations", text, legend, folds=[Fold("Show the figures", figures)])


def _data_caption(statistics: DataStatistics) -> str:
    lines = []
    if len(statistics.names) > MOST_DIMENSIONS:
        lines.append(f"The first {MOST_DIMENSIONS} of {len(statistics.names)} dimensions.")
    if statistics.at_bounds is not None:
        demonstrated, own = statistics.at_bounds
        beside = "" if np.isnan(own) else f", {own:.1%} of own ones"
        lines.append(f"At the bounds: {demonstrated:.1%} of demonstrated numbers{beside}.")
    return " ".join(lines)


def settings_section(groups: Sequence[Group], runs: Sequence[History]) -> Section:
    """The settings in which groups differ, and all settings."""
    firsts = [group.runs[0] for group in groups]
    tables, header = [], ["setting", *(group.full_label for group in groups)]
    if differing := differences(firsts):
        tables.append(
            Table(header, [[name, *map(_shown, values)] for name, values in differing.items()], settings=True)
        )
    folders = Fold(
        "Run folders",
        tables=[Table(["folder", "setting", "seed"], [[run.name, group.title, str(run.seed)] for group in groups
                                                      for run in group.runs], numbers=(2,), settings=True)],
    )  # fmt: skip
    names = dict.fromkeys(name for run in firsts for name in run.settings)
    rows = [[name, *(_shown(run.settings.get(name)) for run in firsts)] for name in names]
    everything = Table(header, rows, settings=True)
    text = [] if tables else ["All runs have the same settings, apart from their seeds."] if len(runs) > 1 else []
    return Section("settings", "Settings", text, [], [], tables, [folders, Fold("All settings", tables=[everything])])


def legend_of(groups: Sequence[Group]) -> list[Entry]:
    """Return the legend of the groups' colours."""
    several = len(environments_of(groups)) > 1
    return [
        Entry(f"{group.title} on {group.environment}" if several else group.title, index % NUMBER_OF_COLORS)
        for index, group in enumerate(groups)
    ]


def _shown(value: Any) -> str:
    return "–" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
