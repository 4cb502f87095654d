"""What acted and why: which policy acted, and among how many chunks the critic chose, by the run's own episodes."""

from __future__ import annotations

from typing import NamedTuple

from softflow.report.history import History

PREFIX = "trial/"


class Change(NamedTuple):
    """From which step on something else was deployed, or another policy was on trial.

    Attributes:
        step: The environment step of the stage.
        deployed: What acts.
        version: The number of the policy on trial.
        beliefs: The success rates believed then: of the champion, the challenger and each number of chunks.
    """

    step: int
    deployed: str
    version: int
    beliefs: str


def changes_of(run: History) -> list[Change]:
    """Return the changes of what a run deployed. Empty if it had no trials."""
    values: dict[tuple[str, int], dict[str, float]] = {}
    for name, metrics in run.scalars.items():
        if name.startswith(PREFIX):
            for stage, step, value in metrics:
                values.setdefault((stage, step), {})[name.removeprefix(PREFIX)] = value
    changes: list[Change] = []
    for (_, step), one in values.items():
        try:
            change = _change(step, one)
        except KeyError:  # an earlier version logged other scalars, or the run is writing its last lines
            continue
        if not changes or (change.deployed, change.version) != (changes[-1].deployed, changes[-1].version):
            changes.append(change)
    return changes


def _change(step: int, values: dict[str, float]) -> Change:
    who = "challenger" if values["deploys_challenger"] else "champion"
    chunks = round(values["deploys_best_of"])
    how = "1 chunk" if chunks == 1 else f"the best of {chunks} chunks"
    choices = [(name, rate) for name, rate in values.items() if name.startswith("best_of_")]
    believed = [("champion", values["champion"]), ("challenger", values["challenger"]), *choices]
    text = ", ".join(f"{name.replace('_', ' ')} {rate:.2f}" for name, rate in believed)
    return Change(step, f"{who}, {how}", round(values["version"]), text)
