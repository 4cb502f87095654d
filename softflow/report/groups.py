"""Runs that differ only in their seed form a group, whose results are pooled."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from softflow.report.history import HeldOutResult, History
from softflow.training.config import WITHOUT_EFFECT
from softflow.training.intervals import Counts

MAY_DIFFER = {"seed", *WITHOUT_EFFECT}
"""Settings in which the runs of a group may differ."""
FROM_DATA = "from the demonstrations"
"""The value of a setting that was not given. It may be another number in every run of a group."""
ENVIRONMENT = "env"
LONGEST_LABEL = 3
"""Number of further settings that a label may name."""


@dataclass(frozen=True)
class Pooled:
    """One evaluation of the runs of a group.

    Attributes:
        stage: The name of its stage.
        step: The mean of the runs' updates or environment steps in the stage.
        environment_steps: The mean of the runs' environment steps in total.
        counts: The successes and episodes of each run.
    """

    stage: str
    step: float
    environment_steps: float
    counts: Counts

    @property
    def rate(self) -> float:
        return self.counts.rate

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval over seeds and episodes."""
        return self.counts.interval()


@dataclass(frozen=True)
class Group:
    """Runs of one setting.

    Attributes:
        label: The settings that distinguish the group from others.
        runs: The runs, by their seeds.
    """

    label: str
    runs: list[History]

    @property
    def environment(self) -> str:
        return str(self.runs[0].settings.get(ENVIRONMENT, "unknown environment"))

    @property
    def full_label(self) -> str:
        return f"{self.label} on {self.environment}"

    @property
    def seeds(self) -> str:
        return f"seed {self.runs[0].seed}" if len(self.runs) == 1 else f"{len(self.runs)} seeds"

    @property
    def title(self) -> str:
        return f"{self.label}, {self.seeds}"

    def evaluations(self) -> list[Pooled]:
        """Return the pooled evaluations in order. One that only some of the runs have made is pooled over those."""
        found: dict[tuple[str, int], list[HeldOutResult]] = {}
        for run in sorted(self.runs, key=lambda run: -len(run.evaluations)):
            for result in run.evaluations:
                if result.episodes:
                    found.setdefault((result.stage, result.number), []).append(result)
        return [
            Pooled(
                stage,
                float(np.mean([result.step for result in results])),
                float(np.mean([result.environment_steps for result in results])),
                Counts([result.successes for result in results], [result.episodes for result in results]),
            )
            for (stage, _), results in found.items()
        ]


def group_runs(runs: Sequence[History]) -> list[Group]:
    """Group runs by their settings, in the order in which they are given.

    Runs of the same settings and seed repeat each other, so they belong to different groups.
    """
    found: dict[tuple[str, int], list[History]] = {}
    repeated = Counter[tuple[str, int]]()
    for run, shared in zip(runs, _shared(runs), strict=True):
        found.setdefault((shared, repeated[shared, run.seed]), []).append(run)
        repeated[shared, run.seed] += 1
    firsts = [group[0] for group in found.values()]
    labels = [_label(first, [one for one in firsts if _kind(one) == _kind(first)]) for first in firsts]
    for index, label in enumerate(labels):
        if labels.index(label) < index and _kind(firsts[labels.index(label)]) == _kind(firsts[index]):
            labels[index] = f"{label} ({firsts[index].name})"
    return [
        Group(label, sorted(group, key=lambda run: run.seed))
        for label, group in zip(labels, found.values(), strict=True)
    ]


def differences(runs: Sequence[History]) -> dict[str, list[Any]]:
    """Return the settings in which runs differ, apart from `MAY_DIFFER`, each with its value in every run.

    A setting that a run does not have is None.
    """
    given, seedless = list(map(_of_the_method, runs)), list(map(_without_seed, runs))

    def differ(name: str, settings: Sequence[dict[str, Any]]) -> bool:
        return any(one.get(name) != settings[0].get(name) for one in settings)

    names = dict.fromkeys(name for settings in given for name in settings)
    chosen = [name for name in names if differ(name, given) and differ(name, seedless)]
    return {name: [settings.get(name) for settings in seedless] for name in chosen}


def _shared(runs: Sequence[History]) -> list[str]:
    """Return for each run what the runs of its group share.

    These are the settings as they are given if a run of another seed has the very same, such as `--base base_s0` for
    all seeds. Otherwise they are the settings without the run's seed.
    """
    given = [repr(sorted(_of_the_method(run).items())) for run in runs]
    seeds: dict[str, set[int]] = {}
    for run, settings in zip(runs, given, strict=True):
        seeds.setdefault(settings, set()).add(run.seed)
    return [
        settings if len(seeds[settings]) > 1 else repr(sorted(_without_seed(run).items()))
        for run, settings in zip(runs, given, strict=True)
    ]


def _of_the_method(run: History) -> dict[str, Any]:
    settings = {name: value for name, value in run.settings.items() if name not in MAY_DIFFER}
    return settings | dict.fromkeys(run.from_data & settings.keys(), FROM_DATA)


def _without_seed(run: History) -> dict[str, Any]:
    """Return the settings of the method. A path that ends in the run's seed, as in `base_s3`, loses it."""
    seed = re.compile(rf"_s{run.seed}(?![0-9A-Za-z])")
    return {
        name: seed.sub("_s*", value) if isinstance(value, str) else value for name, value in _of_the_method(run).items()
    }


def _kind(run: History) -> tuple[Any, ...]:
    return run.settings.get(ENVIRONMENT), run.settings.get("algo")


def _label(run: History, others: Sequence[History]) -> str:
    """Return the method of a run, and the settings in which it differs from others of this method and environment."""
    differing = differences(others)
    parts = [str(run.settings.get("algo", "unknown method"))]
    if differing.pop("num_demos", None):
        parts.append(f"{run.settings.get('num_demos')} demonstrations")
    return ", ".join([*parts, *(f"{name} {_of_the_method(run).get(name)}" for name in list(differing)[:LONGEST_LABEL])])
