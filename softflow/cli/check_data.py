"""`softflow-data check`: say whether a dataset and an environment belong together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any

from tyro.conf import Positional, arg

from softflow.cli.command_line import as_json
from softflow.data.findings import Finding
from softflow.data.summary import count
from softflow.runs.check_data import CheckingConfig, Report, check
from softflow.runs.given_demonstrations import naming_by
from softflow.settings.fields import Flat
from softflow.task.words import table


@dataclass
class CheckConfig:
    """Settings of `softflow-data check`."""

    file: Annotated[Positional[str], arg(metavar="FILE")]
    """File or folder of a known format."""
    checking: Flat[CheckingConfig]
    format: str | None = None
    """Name of the format. By default, it is recognised from the content."""
    map: dict[str, str] = field(default_factory=dict)
    """Names in the dataset of parts that the environment calls otherwise: `--map wrist=observation.images.cam_high`."""
    json: bool = False
    """Whether to print the result as one JSON object."""


def check_file(config: CheckConfig) -> int:
    """Return the exit status: 1 if something is wrong."""
    with naming_by("--map"):
        report = check(config.file, config.format, config.map, config.checking)
    if config.json:
        print(as_json({"file": config.file, "env": config.checking.env, **asdict(report)}))
    else:
        print(f"{config.file} in {config.checking.env}:", *_in_words(report), sep="\n")
    return 1 if report.findings else 0


def _in_words(report: Report) -> Iterator[str]:
    for replays in report.replays:
        yield from _replays(replays)
    for remark in report.remarks:
        yield f"remark: {remark}"
    by_advice = dict[str, list[Finding]]()
    for finding in report.findings:
        by_advice.setdefault(finding.advice, []).append(finding)
    for advice, findings in by_advice.items():
        yield from (f"{finding.kind}: {finding.text}" for finding in findings)
        yield f"  -> {advice}"
    if report.findings:
        yield count(len(report.findings), "finding")
    elif limits := list(_limits(report.replays)):
        yield f"nothing was found. {'. '.join(limits)}"
    else:
        yield "nothing is wrong"


def _limits(replays: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Yield why replays without a finding do not show that nothing is wrong."""
    if not all(one["repeats"] for one in replays):
        starts = all(one["repeats_start"] for one in replays)
        yield (
            "The environment "
            + ("does not repeat an episode with the same seed and actions" if starts else "ignores its seed")
            + ", so replays cannot follow their recordings: draw its random numbers from self.np_random "
            "(docs/start/your-environment.md)"
        )
    elif not all(one["from_recorded_starts"] for one in replays):
        yield (
            f"{'The dataset has' if len(replays) == 1 else 'Some episodes have'} no seeds, so replays begin elsewhere "
            "and need not succeed: see the remarks for what they cannot show"
        )
    if not any(one["judges_success"] for one in replays):
        yield (
            "The environment reported no info['is_success'] in these replays. If it never does, no episode of a policy "
            "counts as a success: see docs/how-to/troubleshooting.md#my-success-is-never-seen"
        )


def _replays(replays: dict[str, Any]) -> Iterator[str]:
    number = replays["episodes"]
    starts = "their recorded seeds" if replays["from_recorded_starts"] else "fresh resets"
    recorded = _successes(replays["recorded"], number)
    yield f"{count(number, 'episode')} replayed from {starts}; the recordings are successes in {recorded}"
    if replays["from_recorded_starts"]:
        yield from _partings(replays["parted"])
    yield "readings of the actions, and how much of the motion their replays miss (0: nothing; 1: as without moving):"
    yield from table(
        [(one["name"], f"{one['misfit']:.2f}", f"success in {_successes(one, number)}") for one in replays["readings"]]
    )


def _partings(parted: Sequence[dict[str, Any] | None]) -> Iterator[str]:
    apart = [one for one in parted if one is not None]
    number = len(parted)
    yield f"replays as recorded: observations follow to the end in {number - len(apart)} of {number}"
    if apart:
        first = min(apart, key=lambda one: one["step"])
        yield (
            f"  the first one parts after {count(first['step'], 'step')}, where {first['part']!r} is off by "
            f"{first['distance']:.2g} of its scale"
        )


def _successes(one: dict[str, Any], number: int) -> str:
    low, high = one["success_ci95"]
    return f"{one['successes']} of {number} [{low:.2f}, {high:.2f}]"
