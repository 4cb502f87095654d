"""Statistics of the actions and observations of demonstrations and own episodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from softflow.data import Episode, load_dataset
from softflow.data.archive import read_foreign_arrays
from softflow.errors import UserError
from softflow.report.drawing import ON_THE_PAGE, as_svg, drawing
from softflow.report.history import History
from softflow.runs.given_demonstrations import DEMONSTRATIONS
from softflow.task import TaskSpec

QUANTILES = (0.01, 0.25, 0.5, 0.75, 0.99)
MOST_DIMENSIONS = 48
"""Number of dimensions that a figure shows."""
LARGEST_REPLAY = 500_000_000
"""Size in bytes up to which the saved own episodes are read."""
AT_THE_BOUND = 0.999
"""Magnitude from which an action counts as one at its bound."""

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class DataStatistics:
    """Numbers of demonstrations and of own episodes, one column for each dimension.

    Attributes:
        names: The names of the dimensions, (D,).
        demonstrated: The quantiles of demonstrations at `QUANTILES`, (5, D).
        own: Those of own episodes. None if there are none.
        at_bounds: The fractions of demonstrated and of own numbers at the bounds of the action, (2,); NaN if there are
            none. None for observations.
    """

    names: list[str]
    demonstrated: Numbers
    own: Numbers | None
    at_bounds: Numbers | None = None


def statistics_of(run: History) -> tuple[DataStatistics, DataStatistics | None, list[str]]:
    """Return the statistics of actions in [-1, 1], those of observations, and notes on what is missing.

    The observations are in standard deviations of the demonstrated ones, from their mean. There are no statistics of
    images, and none of observations if these are nothing else.

    Raises:
        UserError: The demonstrations are missing or damaged.
    """
    dataset = load_dataset(run.folder.path / DEMONSTRATIONS)
    episodes, task, layout = dataset.episodes, dataset.task, dataset.episodes[0].layout
    own, notes = _own_rows(run, ("action",) if layout is not None else ("action", "observation"))
    demonstrated = np.concatenate([episode.action for episode in episodes]).astype(np.float64)
    own_actions = own.get("action")
    at_bounds = np.stack([_at_bounds(demonstrated), _at_bounds(own_actions)])
    names = _action_names(task, episodes[0])
    actions = DataStatistics(names, *_quantiles(demonstrated, own_actions), at_bounds)
    if layout is not None:
        notes.append(f"The observations of {run.name} contain images, of which there are no statistics.")
        return actions, None, notes
    seen = np.concatenate([episode.observation for episode in episodes]).astype(np.float64)
    mean, std = seen.mean(0), np.maximum(seen.std(0), 1e-9)
    own_seen = (own["observation"] - mean) / std if own else None
    names = _observation_names(task, episodes[0])
    return actions, DataStatistics(names, *_quantiles((seen - mean) / std, own_seen)), notes


def draw_statistics(statistics: DataStatistics, name: str, description: str) -> str:
    """Return a figure of the quantiles as an SVG element: thin lines for 1-99 %, thick ones for 25-75 %."""
    theme, shown = ON_THE_PAGE, min(len(statistics.names), MOST_DIMENSIONS)
    with drawing(theme, 3.7, 0.7 + 0.19 * shown) as (figure, [axes]):
        both = [(statistics.demonstrated, 0, -0.17), (statistics.own, 1, 0.17)]
        for quantiles, color, shift in both:
            if quantiles is None:
                continue
            rows = np.arange(shown) + shift
            lowest, low, median, high, highest = quantiles[:, :shown]
            axes.hlines(rows, lowest, highest, color=theme.color(color), linewidth=1)
            axes.hlines(rows, low, high, color=theme.color(color), linewidth=3.5, alpha=0.85)
            axes.plot(median, rows, "o", color=theme.color(color), markersize=3)
        axes.set_yticks(np.arange(shown), statistics.names[:shown], fontsize=7)
        axes.set_ylim(shown - 0.4, -0.6)
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="x", labelsize=7.5)
        return as_svg(figure, name, description)


def _quantiles(demonstrated: Numbers, own: Numbers | None) -> tuple[Numbers, Numbers | None]:
    return np.quantile(demonstrated, QUANTILES, axis=0), None if own is None else np.quantile(own, QUANTILES, axis=0)


def _at_bounds(actions: Numbers | None) -> float:
    return float("nan") if actions is None else float((np.abs(actions) >= AT_THE_BOUND).mean())


def _own_rows(run: History, names: Sequence[str]) -> tuple[dict[str, Numbers], list[str]]:
    """Return arrays of the own episodes in the last checkpoint, a row for each step, and what is missing."""
    if not run.acting:
        return {}, []
    if run.settings.get("replay_storage") == "disk":
        return {}, [f"The own episodes of {run.name} are kept on disk, outside the checkpoint, and are left out."]
    try:
        path = run.folder.last_checkpoint() / "replay.npz"
        if path.stat().st_size > LARGEST_REPLAY:
            return {}, [f"The own episodes of {run.name} take {path.stat().st_size:,} bytes and are left out."]
        arrays = read_foreign_arrays(path, ("remaining", *names))
        steps = arrays["remaining"] > 0
        if not steps.any():
            return {}, [f"No own episode of {run.name} is in its last checkpoint."]
        return {name: arrays[name][steps].astype(np.float64) for name in names}, []
    except (UserError, ValueError, KeyError, OSError) as error:
        return {}, [f"The own episodes of {run.name} cannot be read: {error}"]


def _action_names(task: TaskSpec | None, episode: Episode) -> list[str]:
    if task is None:
        return [f"action[{index}]" for index in range(episode.action_dim)]
    return [name for name, is_free in zip(task.action_names, task.low < task.high, strict=True) if is_free]


def _observation_names(task: TaskSpec | None, episode: Episode) -> list[str]:
    if task is None:
        return [f"observation[{index}]" for index in range(episode.observation.shape[1])]
    names = [""] * episode.observation.shape[1]
    for part, columns in task.columns.items():
        for index, column in enumerate(columns):
            names[column] = part if len(columns) == 1 else f"{part}[{index}]"
    return names
