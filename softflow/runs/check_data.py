"""Whether a dataset and an environment belong together: their descriptions are compared, and actions are replayed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import chdir, closing
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from softflow.data import SUCCESS_REWARDS, Dataset, Episode, RewardKind, in_order_of, read_dataset
from softflow.data.action_readings import Reading, number_names, readings_of, rearranged, shifted
from softflow.data.findings import Finding, compare
from softflow.data.summary import count
from softflow.errors import UserError
from softflow.runs.assembly import maker_with_reward
from softflow.runs.replay_findings import differences
from softflow.runs.replay_trials import FOLLOWS, FRESH_RESETS, MUCH_BETTER, THIN, Outcome, Trials
from softflow.runs.replay_units import missed_motion, other_spreads
from softflow.runs.replaying import Replayer
from softflow.task import ActionPart, TaskSpec
from softflow.training.config import EnvOptions, check_reward
from softflow.training.intervals import wilson_interval
from softflow.training.success import SuccessRule

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
    reward: RewardKind = "dataset"
    """Rewards of dataset and environment. `dataset` leaves them unchanged. `sparse` and `steps` replace both by rewards
    that depend on the success only, as softflow-train does."""
    episodes: int = 10
    """Number of episodes to replay, spread evenly over the dataset. Higher values give more evidence. If only some
    episodes have a seed, up to this number of episodes with a seed, and of episodes without, are replayed."""

    def __post_init__(self) -> None:
        if self.episodes < 1:
            raise ValueError(f"episodes must be at least 1, got {self.episodes}")
        SuccessRule(self.success)
        check_reward(self.reward, self.success, self.env_options)


@dataclass
class Report:
    """The result of a check.

    Attributes:
        findings: What is wrong.
        remarks: What is worth knowing, but no reason to change anything.
        replays: The replays as plain values (`describe`): of episodes with a seed and of those without, if there are
            any. Empty if nothing could be replayed.
    """

    findings: list[Finding]
    remarks: list[str]
    replays: list[dict[str, Any]] = field(default_factory=list)


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
    make = maker_with_reward(config.env, config.env_options, config.reward)
    with chdir("."):  # the dataset is read later, and an environment may change the folder
        made = Replayer(make, SuccessRule(config.success))
    with closing(made) as replayer:
        task = replace(replayer.task, success=config.success)
        dataset, remarks = _read(path, format, task, names)
        if config.reward != "dataset":
            rewarded = [SUCCESS_REWARDS[config.reward].of(episode) for episode in dataset.episodes]
            dataset = Dataset(rewarded, dataset.task)
        report = check_dataset(dataset, task, replayer, config.episodes)
    return replace(report, remarks=remarks + report.remarks)


def _read(path: str, format: str | None, task: TaskSpec, names: Mapping[str, str]) -> tuple[Dataset, list[str]]:
    """Read a dataset for a task, and say in remarks what was assumed. Its control rate is its own, or not known.

    If it is refused for the task, but not for the same task with action bounds of -1 and 1, the bounds are what does
    not fit. It is then read with -1 and 1, so that other readings of its actions can be tried. `compare` finds these
    bounds to be other ones.
    """
    task = replace(task, rate=None)
    try:
        return read_dataset(path, format, task, names), []
    except UserError as refusal:
        try:
            dataset = read_dataset(path, format, replace(task, action=tuple(map(_in_unit_bounds, task.action))), names)
        except UserError:
            raise refusal from None
    return dataset, [
        "the actions do not fit the bounds of the environment, but they do fit -1 and 1, with which they are read; as "
        "recorded, they are clipped to the bounds of the environment"
    ]


def _in_unit_bounds(part: ActionPart) -> ActionPart:
    """Return a part of an action with the bounds -1 and 1. A number with one possible value keeps it."""
    bounds = list(zip(part.low, part.high, strict=True))
    low, high = (tuple(unit if low < high else low for low, high in bounds) for unit in (-1.0, 1.0))
    return replace(part, low=low, high=high)


def check_dataset(dataset: Dataset, task: TaskSpec, replayer: Replayer, episodes: int) -> Report:
    """Compare a dataset with the task of an environment, and replay up to `episodes` of its episodes.

    If only some have a seed, up to `episodes` are replayed of those with a seed, and of those without.

    Raises:
        EnvironmentFailed: The environment raised an error or returned what is malformed.
    """
    compared = compare(dataset, task)
    report = Report(compared.findings, compared.remarks)
    if not compared.can_replay:
        report.remarks.append("nothing is replayed, because the observations or the actions do not fit")
        return report
    recorded = dict(enumerate(in_order_of(task, dataset).episodes))
    seeded = {number: one for number, one in recorded.items() if one.seed is not None}
    groups = {"with a seed": seeded, "without a seed": {n: one for n, one in recorded.items() if n not in seeded}}
    for name, group in groups.items():
        if not group:
            continue
        found = _replay(_spread(group, episodes), group, dataset.task, task, replayer)
        label = f"the {len(group)} episodes {name}: " if len(group) < len(recorded) else ""
        report.findings += [replace(one, text=label + one.text) for one in found.findings]
        report.remarks += [label + remark for remark in found.remarks]
        report.replays += found.replays
    return report


def _replay(
    chosen: Mapping[int, Episode],
    group: Mapping[int, Episode],
    given: TaskSpec | None,
    task: TaskSpec,
    replayer: Replayer,
) -> Report:
    """Replay chosen episodes of a group of a dataset whose task is `given`. All have a seed, or none has."""
    readings = readings_of([episode.action for episode in chosen.values()], given, task)
    trials = Trials(replayer, task, chosen, readings[0])
    report, in_other_units = Report(list(trials.findings), []), list[Finding]()
    if not (trials.from_recorded_starts or any(finding.kind == "order" for finding in trials.findings)):
        starts = np.concatenate([episode.observation[:1] for episode in group.values()])
        in_other_units += other_spreads(trials, starts, readings[0])
    report.findings += in_other_units
    outcomes = [trials.outcome(readings[0])]
    best, unknown = outcomes[0], list[str]()
    if not (trials.from_recorded_starts and best.misfits.max() <= FOLLOWS):
        best = _best_of(trials, best, readings[1:], outcomes, report)
        arrangement, names = trials.arrangement(best.reading), number_names(task)
        known = arrangement.known if arrangement is not None else [False] * len(names)
        unknown = [name for name, is_known in zip(names, known, strict=True) if not is_known]
        others = rearranged(best.reading, arrangement, task) if arrangement is not None else []
        best = _best_of(trials, best, others, outcomes, report)
        best = _best_of(trials, best, shifted(best.reading), outcomes, report)
        if others and not report.findings:
            report.remarks.append(f"by their effects, {others[0].claim}; the replays do not prove it")
        other = best is not outcomes[0] or bool(others) or _unproved(best, outcomes) is not None
        explained = trials.from_recorded_starts or bool(in_other_units) or other
        if arrangement is not None and not explained and best.misfit > THIN:
            report.findings += missed_motion(trials, best.reading, arrangement, task)
    if trials.from_recorded_starts:
        report.findings += differences(trials, best)
    report.remarks += _limits(trials, best, outcomes, unknown)
    report.replays.append(describe(trials, outcomes))
    return report


def _spread(episodes: Mapping[int, Episode], number: int) -> dict[int, Episode]:
    """Return up to `number` episodes at even distances."""
    numbers = list(episodes)
    places = np.linspace(0, len(numbers) - 1, min(number, len(numbers))).round().astype(int)
    return {numbers[place]: episodes[numbers[place]] for place in places}


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

    Of the numbers for which the readings differ, and by which the one is judged, the one that either predicts best
    decides.
    """
    ours, theirs = one.misfits_by_number, other.misfits_by_number
    moves = np.isfinite(ours).all(0) & np.isfinite(theirs).all(0)
    if one.reading.judged_by is not None:
        moves &= np.isin(np.arange(ours.shape[1]), one.reading.judged_by)
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


def _limits(trials: Trials, best: Outcome, outcomes: Sequence[Outcome], unknown: Sequence[str]) -> Iterator[str]:
    """Yield what the replays cannot tell. The effects of `unknown` numbers of the actions are not recognised."""
    if not trials.repeats:
        yield (
            "the environment does not repeat with the same seed and actions, so replays cannot follow their recordings "
            "exactly"
        )
    if not trials.from_recorded_starts:
        yield (
            f"replays start from the nearest of {FRESH_RESETS} fresh resets, so only the motion is compared: not "
            "rewards, ends or successes, nor the order of numbers of an observation that move alike"
        )
        if best.successes and not any(episode.is_success for episode in trials.episodes):
            yield (
                f"no recording is a success, but {best.successes} of {count(len(best.replays), 'replay')} are: if the "
                "dataset does not say which episodes are successes, mark them "
                "(docs/how-to/lerobot.md#mark-the-successes)"
            )
        if np.median(best.misfits_by_number, 0).min() > THIN:
            yield "the replays do not tell what the actions mean: no reading predicts half of the motion of any number"
        shares = best.misfits_by_number.T  # infinite where a number is constant within an episode, which tells nothing
        still = [bool(len(moved := each[np.isfinite(each)])) and np.median(moved) >= 1 for each in shares]
        if any(still):
            names = ", ".join(np.array(trials.scale.measured)[still])
            yield f"the replays do not move as the recordings do in {names}: these numbers may be exchanged with others"
        if unknown:
            yield f"the motion does not tell the place and the sign of the numbers {', '.join(unknown)} of the actions"
    elif best.reading.shift:
        yield (
            "observations, rewards, ends and successes are not compared, because one action of each shifted replay is "
            "a guess: check again when the actions are moved"
        )
    elif not best.judges_success:
        yield "the environment does not say which episodes are successes (`is_success`), so successes are not compared"
    if (likely := _unproved(best, outcomes)) is not None:
        yield (
            f"the actions may be {likely.name}, but {len(best.misfits)} episodes do not prove it: replay more "
            "(--episodes)"
        )


def _unproved(best: Outcome, outcomes: Sequence[Outcome]) -> Reading | None:
    """Return a reading that fits much better than the best one that the replays prove. None if there is none."""
    nearest = min(outcomes, key=lambda one: one.misfit)
    return nearest.reading if nearest.misfit < min(THIN, MUCH_BETTER * best.misfit) else None


def describe(trials: Trials, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Return the replays as plain values that JSON has.

    `numbers` are those of the episodes in the dataset, from 0. `repeats` and `repeats_start` say whether the
    environment repeats an episode, and its start, with the same seed. `judges_success` says whether it told of any
    replay whether it is a success. `readings` has the readings that were tried, the one of the dataset first: the
    median `misfit` (the share of the recorded motion that replays miss), and the successes with their 95 % interval.
    `parted` has, for each episode that is replayed as recorded, the `step` at which it parts, the `part` of the
    observation and the `distance` in units of its scale, or None.
    """
    recorded = sum(episode.is_success for episode in trials.episodes)
    return {
        "episodes": len(trials.episodes),
        "numbers": trials.numbers,
        "from_recorded_starts": trials.from_recorded_starts,
        "repeats": trials.repeats,
        "repeats_start": trials.repeats_start,
        "judges_success": any(one.judges_success for one in outcomes),
        "recorded": _successes(recorded, len(trials.episodes)),
        "readings": [
            {
                "name": one.reading.name,
                "misfit": one.misfit,
                **_successes(one.successes, len(one.replays)),
            }
            for one in outcomes
        ],
        "parted": [None if one is None else one._asdict() for one in outcomes[0].partings],
    }


def _successes(successes: int, number: int) -> dict[str, Any]:
    return {"successes": successes, "success_ci95": wilson_interval(successes, number)}
