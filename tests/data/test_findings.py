"""What the descriptions of a dataset and an environment say about each other."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from softflow.data import Dataset, Episode
from softflow.data.findings import Comparison, compare
from softflow.task import ActionPart, ObservationPart, TaskSpec

TASK = TaskSpec(
    (ObservationPart("arm", (2,)), ObservationPart("goal", (1,))), (ActionPart("action", (-1.0,), (2.0,)),), rate=20.0
)


def compared(task: TaskSpec | None, observed: int = 3) -> Comparison:
    episode = Episode(np.zeros((3, observed)), np.zeros((2, 1)), np.zeros(2), True, False, True, task=task)
    return compare(Dataset([episode], task), TASK)


def kinds(comparison: Comparison) -> list[str]:
    assert all(finding.text and finding.advice for finding in comparison.findings)
    return [finding.kind for finding in comparison.findings]


def test_the_same_task_has_neither_findings_nor_remarks() -> None:
    assert compared(TASK) == Comparison()


def test_every_difference_is_a_finding() -> None:
    other = replace(TASK, action=(ActionPart("action", (-2.0,), (2.0,)),), rate=10.0)
    found = compared(other)
    assert kinds(found) == ["action", "rate"] and found.can_replay
    assert found.findings[0].text == "action 'action' has [0] in -2 ... 2, expected -1 ... 2"
    assert found.findings[1].text == "the control rate is 10 Hz, expected 20 Hz"

    named = replace(TASK, observation=(ObservationPart("hand", (2,)), ObservationPart("goal", (1,))))
    found = compared(named)
    assert kinds(found) == ["observation", "observation"] and not found.can_replay
    assert all(one.advice.endswith(". If only names differ, map them: --map arm=hand") for one in found.findings)

    wider = replace(TASK, observation=(ObservationPart("arm", (5,)), ObservationPart("goal", (1,))))
    [finding] = compared(wider, observed=6).findings
    assert finding.advice.endswith("map them: --map PART=PART_OF_DATASET")


def test_another_number_of_actions_cannot_be_replayed() -> None:
    found = compared(replace(TASK, action=(ActionPart("action", (-1.0, 0.0), (2.0, 0.0)),)))
    assert kinds(found) == ["action"] and not found.can_replay


def test_what_needs_no_change_is_a_remark() -> None:
    arm, goal = TASK.observation
    found = compared(replace(TASK, observation=(goal, replace(arm, dtype="float64")), rate=None, success="any"))
    assert found.findings == [] and found.can_replay
    assert found.remarks == [
        "observation 'arm' is float64, expected float32: numbers are read as float32",
        "the control rate of the dataset is not known: not compared",
        "successes of the dataset were judged by 'any', those of replays by 'last'",
        "the observation has the order goal, arm, expected arm, goal: softflow rearranges the parts by name",
    ]


def test_without_a_task_the_sizes_are_compared() -> None:
    assert compared(None).findings == [] and compared(None).can_replay
    assert "names, bounds and control rate cannot be compared" in compared(None).remarks[0]
    found = compared(None, observed=4)
    assert kinds(found) == ["observation"] and not found.can_replay
    assert found.findings[0].text == "the dataset has observations of 4 numbers, expected 3"
