"""The report of runs: what they reached, how they learnt, what they saw and did, and how their settings differ."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from softflow.errors import UserError
from softflow.report import sections
from softflow.report.drawing import NUMBER_OF_COLORS
from softflow.report.films import films_section
from softflow.report.groups import Group, group_runs
from softflow.report.history import History, read_histories
from softflow.report.page import Card, Page, Section, require_jinja
from softflow.report.success_figure import environments_of
from softflow.training.intervals import Counts


def write_report(paths: Sequence[str], out: Path, films: int = 0) -> None:
    """Write the report of run folders as one HTML file.

    Args:
        paths: The run folders.
        out: The file.
        films: The number of successes and of failures of each group's best policy that are filmed. 0 films none.

    Raises:
        UserError: A folder is not that of a run or is damaged, an extra is not installed, or the file cannot be
            written.
    """
    require_jinja()
    runs = read_histories(paths)
    groups = group_runs(runs)
    missing = _missing(runs)
    parts = [
        sections.success_section(groups),
        sections.learning_section(groups),
        sections.values_section(groups),
        sections.outcomes_section(groups),
        sections.deployment_section(runs),
        *([films_section(groups, films, missing)] if films else []),
        sections.data_section(groups, missing),
        sections.settings_section(groups, runs),
    ]
    shown: list[Section] = [part for part in parts if part is not None]
    environments = environments_of(groups)
    title = (
        f"{groups[0].title} on {environments[0]}" if len(groups) == 1 else f"{len(runs)} runs on {_list(environments)}"
    )
    seeds = f"{len(runs)} run{'s' * (len(runs) > 1)}, {len(groups)} setting{'s' * (len(groups) > 1)}"
    subtitle = f"{seeds}; written {datetime.now():%Y-%m-%d %H:%M}. Intervals are 95 %, over seeds and episodes."
    cards = [_card(group, index % NUMBER_OF_COLORS) for index, group in enumerate(groups)]
    Page(title, subtitle, cards, shown, missing).write(out)


def _list(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _card(group: Group, color: int) -> Card:
    pooled = group.evaluations()
    steps = [run.acted_steps for run in group.runs]
    done = f"{min(steps):,}" if min(steps) == max(steps) else f"{min(steps):,} to {max(steps):,}"
    lines = [f"{done} environment steps"]
    if not pooled:
        return Card(group.title, group.environment, "–", ["not evaluated yet", *lines], color)
    first, last = pooled[0], pooled[-1]
    low, high = last.interval
    number, seeds = len(last.counts.episodes), len(group.runs)
    of_some = f" of {number} of {seeds} seeds" if number < seeds else ""
    lines.insert(0, f"[{low:.2f}, {high:.2f}] at the last evaluation, {sum(last.counts.episodes)} episodes{of_some}")
    if last is not first:
        low, high = first.interval
        lines.insert(1, f"{first.rate:.2f} [{low:.2f}, {high:.2f}] after {first.stage}")
    if (best := _best(group)) is not None:
        lines.insert(1, best)
    return Card(group.title, group.environment, f"{last.rate:.2f}", lines, color)


def _best(group: Group) -> str | None:
    """Describe the best policies of the runs. None if they are the last ones, or a run has kept none."""
    if any(_damage(run) for run in group.runs):
        return None
    kept = [run.best for run in group.runs if run.best is not None]
    if len(kept) < len(group.runs) or all(run.ends_with_best for run in group.runs):
        return None
    pooled = Counts([one.counts[0] for one in kept], [one.counts[1] for one in kept])
    low, high = pooled.interval()
    where = f"of the best policy, after {kept[0].done:,} {kept[0].unit} of {kept[0].stage}"
    return f"{pooled.rate:.2f} [{low:.2f}, {high:.2f}] {where if len(kept) == 1 else 'of the best policy of each run'}"


def _damage(run: History) -> str | None:
    """Return what is wrong with the files that say which policy is the best. None if nothing is."""
    try:
        _ = run.best
    except UserError as error:
        return str(error)
    return None


def _missing(runs: Sequence[History]) -> list[str]:
    """Return what the folders of runs lack for the report."""
    lacking = {
        "no scalars yet, so the run has not begun to train": [run for run in runs if not run.scalars],
        "no evaluation, so its success is not known": [run for run in runs if run.scalars and not run.evaluations],
        "no episodes.csv, so own episodes by outcome and the calibration of values are left out (an earlier "
        "version trained)": [run for run in runs if run.scalars and run.episodes is None],
    }
    lines = [f"{_names(some)}: {what}" for what, some in lacking.items() if some]
    return lines + [f"{run.name}: no best policy: {damage}" for run in runs if (damage := _damage(run)) is not None]


def _names(runs: Sequence[History]) -> str:
    return ", ".join(run.name for run in runs) if len(runs) <= 3 else f"{len(runs)} runs, such as {runs[0].name}"
