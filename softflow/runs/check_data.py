"""Whether a dataset and an environment belong together: their descriptions are compared, and actions are replayed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import chdir, closing
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from softflow.data import Dataset, Episode, in_order_of, read_dataset
from softflow.data.action_readings import Reading, readings_of, shifted
from softflow.data.findings import Finding, compare
from softflow.envs import make_env
from softflow.runs.replay_findings import differences
from softflow.runs.replay_trials import FOLLOWS, FRESH_RESETS, MUCH_BETTER, Outcome, Trials
from softflow.runs.replaying import Replayer
from softflow.task import TaskSpec
from softflow.training.config import EnvOptions
from softflow.training.intervals import wilson_interval
from softflow.training.success import SuccessRule

THIN = 0.5
"""Misfit from which on replays say little about the actions."""
SIGNIFICANT = 0.05
"""Probability up to which it is no accident that one reading fits better in so many episodes."""


@dataclass
class CheckingConfig:
    """Settings of a check."""

    env: str
    """Environment: a short name or a gymnasium id."""
    env_options: EnvOptions = field(default_factory=dict)
    """Arguments of the environment, as YAML."""
    success: str = "last"
    """Which episodes count as successes: `last`, `any` or `return>=X` (see softflow-train)."""
    episodes: int = 10
    """Number of episodes to replay, spread evenly over the dataset. Higher values give more evidence."""

    def __post_init__(self) -> None:
        if self.episodes < 1:
            raise ValueError(f"episodes must be at least 1, got {self.episodes}")
        SuccessRule(self.success)


@dataclass
class Report:
    """The result of a check.

    Attributes:
        findings: What is wrong.
        remarks: What is worth knowing, but no reason to change anything.
        replays: The replays as plain values (`describe`). None if nothing could be replayed.
    """

    findings: list[Finding]
    remarks: list[str]
    replays: dict[str, Any] | None = None


def check(path: str, format: str | None, names: Mapping[str, str], config: CheckingConfig) -> Report:
    """Compare a dataset with an environment, and replay some of its episodes there.

    Args:
        path: File or folder of the dataset.
        format: The name of its format. None recognises it by the content.
        names: The names of parts in the dataset, by those in the environment, where they differ.
        config: The environment, and how much is replayed.

    Raises:
        UserError: The dataset cannot be read, or the environment cannot be made or fails.
    """
    make = partial(make_env, config.env, **config.env_options)
    with chdir("."):  # the dataset is read later, and an environment may change the folder
        made = Replayer(make, SuccessRule(config.success))
    with closing(made) as replayer:
        task = replace(replayer.task, success=config.success)
        return check_dataset(read_dataset(path, format, task, names), task, replayer, config.episodes)


def check_dataset(dataset: Dataset, task: TaskSpec, replayer: Replayer, episodes: int) -> Report:
    """Compare a dataset with the task of an environment, and replay up to `episodes` of its episodes.

    Raises:
        EnvironmentFailed: The environment raised an error or returned what is malformed.
    """
    compared = compare(dataset, task)
    report = Report(compared.findings, compared.remarks)
    if not compared.can_replay:
        report.remarks.append("nothing is replayed, because the observations or the actions do not fit")
        return report
    recorded = in_order_of(task, dataset).episodes
    chosen = _spread([one for one in recorded if one.seed is not None] or recorded, episodes)
    readings = readings_of([episode.action for episode in chosen], dataset.task, task)
    trials = Trials(replayer, task, chosen, readings[0])
    report.findings += trials.findings
    outcomes = [trials.outcome(readings[0])]
    best = outcomes[0]
    if not (trials.from_recorded_starts and best.misfits.max() <= FOLLOWS):
        best = _best_of(trials, best, readings[1:], outcomes, report)
        best = _best_of(trials, best, shifted(best.reading), outcomes, report)
    if trials.from_recorded_starts:
        report.findings += differences(trials, best)
    report.remarks += _limits(trials, best, outcomes)
    report.replays = describe(trials, outcomes)
    return report


def _spread(episodes: Sequence[Episode], number: int) -> list[Episode]:
    """Return up to `number` episodes at even distances."""
    places = np.linspace(0, len(episodes) - 1, min(number, len(episodes))).round().astype(int)
    return [episodes[place] for place in places]


def _best_of(
    trials: Trials, best: Outcome, readings: Sequence[Reading], outcomes: list[Outcome], report: Report
) -> Outcome:
    """Try other readings. Return the one that fits best, and report it if it is not the one before."""
    found, text = best, ""
    for reading in readings:
        outcomes.append(tried := trials.outcome(reading))
        if (number := _where_better(tried, found, trials.from_recorded_starts)) is None:
            continue
        found, (ours, theirs) = tried, (one.misfits_by_number[:, number] for one in (tried, best))
        text = (
            f"{reading.claim}. Replayed so, they miss {np.median(ours):.2f} of the recorded motion of "
            f"{trials.scale.measured[number]}, but {np.median(theirs):.2f} {best.reading.name}; it is less in "
            f"{(ours < theirs).sum()} of {len(ours)} episodes"
        )
    if found is not best:
        kind = "timing" if found.reading.shift else "actions"
        report.findings.append(Finding(kind, text, found.reading.advice))
    return found


def _where_better(one: Outcome, other: Outcome, from_recorded_starts: bool) -> int | None:
    """Return the measured number that shows that a reading is much better than another, not by accident.

    Of the numbers for which the readings differ, the one that either predicts best decides.
    """
    ours, theirs = one.misfits_by_number, other.misfits_by_number
    moves = np.isfinite(ours).all(0) & np.isfinite(theirs).all(0)
    mine, yours = (np.where(moves, np.median(misfits, 0), 0.0) for misfits in (ours, theirs))
    lower, higher = np.minimum(mine, yours), np.maximum(mine, yours)
    differ = (lower < MUCH_BETTER * higher) & (higher - lower > FOLLOWS)
    if not differ.any():
        return None
    number = int(np.where(differ, lower, np.inf).argmin())
    if mine[number] > min(THIN, yours[number]):
        return None
    follows = from_recorded_starts and one.misfit <= FOLLOWS
    wins = int((ours[:, number] < theirs[:, number]).sum())
    return number if follows or accident(wins, len(ours)) <= SIGNIFICANT else None


def accident(wins: int, trials: int) -> float:
    """Return the probability that a fair coin falls on one side at least `wins` times in `trials` (the sign test)."""
    return sum(math.comb(trials, count) for count in range(wins, trials + 1)) / 2**trials


def _limits(trials: Trials, best: Outcome, outcomes: Sequence[Outcome]) -> Iterator[str]:
    """Yield what the replays cannot tell."""
    if not trials.repeats:
        yield (
            "the environment does not repeat with the same seed and actions, so replays cannot follow their recordings "
            "exactly"
        )
    if not trials.from_recorded_starts:
        yield (
            f"replays start from the nearest of {FRESH_RESETS} fresh resets, so only the motion is compared, not "
            "rewards, ends or successes"
        )
        if np.median(best.misfits_by_number, 0).min() > THIN:
            yield "the replays do not tell what the actions mean: no reading predicts half of the motion of any number"
    nearest = min(outcomes, key=lambda one: one.misfit)
    if nearest.misfit < min(THIN, MUCH_BETTER * best.misfit):
        yield (
            f"the actions may be {nearest.reading.name}, but {len(best.misfits)} episodes do not prove it: replay more "
            "(--episodes)"
        )


def describe(trials: Trials, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Return the replays as plain values that JSON has.

    `readings` has the readings that were tried, the one of the dataset first: the median `misfit` (the share of the
    recorded motion that replays miss), and the successes with their 95 % interval. `parted` has, for each episode that
    is replayed as recorded, the `step` at which it parts, the `part` of the observation and the `distance` in units of
    its scale, or None.
    """
    recorded = sum(episode.is_success for episode in trials.episodes)
    partings = [trials.parting(*pair) for pair in zip(trials.episodes, outcomes[0].replays, strict=True)]
    return {
        "episodes": len(trials.episodes),
        "from_recorded_starts": trials.from_recorded_starts,
        "repeats": trials.repeats,
        "recorded": _successes(recorded, len(trials.episodes)),
        "readings": [
            {
                "name": one.reading.name,
                "misfit": one.misfit,
                **_successes(one.successes, len(one.replays)),
            }
            for one in outcomes
        ],
        "parted": [
            None if one is None else dict(zip(("step", "part", "distance"), one, strict=True)) for one in partings
        ],
    }


def _successes(successes: int, number: int) -> dict[str, Any]:
    return {"successes": successes, "success_ci95": wilson_interval(successes, number)}
