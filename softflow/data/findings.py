"""What is wrong between a dataset and an environment, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from softflow.data.demonstrations import Dataset
from softflow.task import TaskSpec
from softflow.task.comparison import likely_renamed


@dataclass(frozen=True)
class Finding:
    """Something that is wrong.

    Attributes:
        kind: `observation`, `action`, `rate` for what the descriptions say; `order`, `actions`, `timing`, `unit`,
            `start`, `replay`, `reward`, `end` and `success` for what replays show.
        text: What is wrong, with numbers.
        advice: What to do.
    """

    kind: str
    text: str
    advice: str


@dataclass
class Comparison:
    """The descriptions of a dataset and an environment, side by side.

    Attributes:
        findings: What is wrong.
        remarks: What is worth knowing, but no reason to change anything.
        can_replay: Whether actions of the dataset can be executed in the environment, and observations be compared.
    """

    findings: list[Finding] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    can_replay: bool = True


_ADVICE = {
    "observation": (
        "the dataset must have what the environment observes: give the environment the options of the recording "
        "(--env-options), or check a dataset that was recorded in it"
    ),
    "action": "give the environment the options of the recording (--env-options), or convert the actions to its bounds",
    "rate": "give the environment the control rate of the recording, or resample the recording",
}


def compare(dataset: Dataset, expected: TaskSpec) -> Comparison:
    """Compare the names, order, shapes, dtypes, bounds, control rate and success rule of a dataset with a task's."""
    task, first = dataset.task, dataset.episodes[0]
    if task is None:
        compared = Comparison(
            remarks=["the dataset does not contain its task: names, bounds and control rate cannot be compared"]
        )
        for kind, got, size in (
            ("observation", first.layout or first.observation_dim, expected.observation_size),
            ("action", first.action_dim, expected.action_dim),
        ):
            if got != size:
                sizes = " in another layout" if not isinstance(got, int) else f" of {got} numbers, expected {size}"
                compared.findings.append(Finding(kind, f"the dataset has {kind}s{sizes}", _ADVICE[kind]))
        compared.can_replay = not compared.findings
        return compared
    pairs = likely_renamed(expected.observation, task.observation)
    renamed = f". If only names differ, map them: --map {' '.join(pairs) or 'PART=PART_OF_DATASET'}"
    same_names = {part.name for part in task.observation} == {part.name for part in expected.observation}
    compared = Comparison(remarks=list(_remarks(task, expected)))
    for text in expected.differences(task):
        if text.startswith("the observation has the order") and same_names:
            compared.remarks.append(f"{text}: softflow rearranges the parts by name")
            continue
        kind = "rate" if "control rate" in text else "observation" if "observation" in text.split(" '")[0] else "action"
        compared.findings.append(Finding(kind, text, _ADVICE[kind] + renamed * (kind == "observation")))
    is_observed = not any(finding.kind == "observation" for finding in compared.findings)
    same_free = ((task.low < task.high).tolist(), (expected.low < expected.high).tolist())
    compared.can_replay = is_observed and same_free[0] == same_free[1]
    return compared


def _remarks(task: TaskSpec, expected: TaskSpec) -> Iterator[str]:
    """Yield the differences that need no change."""
    theirs = {part.name: part.dtype for part in expected.observation}
    for part in task.observation:
        if (dtype := theirs.get(part.name, part.dtype)) != part.dtype and not part.is_image:
            yield f"observation {part.name!r} is {part.dtype}, expected {dtype}: numbers are read as float32"
    if (task.rate is None) != (expected.rate is None):
        yield f"the control rate of the {'dataset' if task.rate is None else 'environment'} is not known: not compared"
    if task.success != expected.success:
        yield f"successes of the dataset were judged by {task.success!r}, those of replays by {expected.success!r}"
