"""Readings of recorded actions: what their numbers may mean, and at which step each of them may have been executed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from softflow.data.action_effects import Arrangement
from softflow.task import TaskSpec
from softflow.task.parts import ACTION_TOLERANCE

Actions = NDArray[np.float32]
Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Reading:
    """One way to read the actions of episodes.

    Attributes:
        name: What the reading is called.
        claim: What is true of the recorded actions if the reading is right. A sentence without a full stop.
        advice: What to do then.
        actions: The actions of each episode by this reading, (T, A) in the [-1, 1] of the environment.
        shift: By how many steps the recorded actions are late. The first action, or the last, is then a guess.
        judged_by: The measured numbers (`ObservationScale.measured`) that show whether it is right. None for all.
    """

    name: str
    claim: str
    advice: str
    actions: list[Actions] = field(repr=False)
    shift: int = 0
    judged_by: list[int] | None = None

    def known_steps(self, steps: int) -> slice:
        """Return which steps of an episode of `steps` steps have an action that is no guess."""
        return slice(max(-self.shift, 0), steps - max(self.shift, 0))


AS_RECORDED = "as recorded"
LATE, EARLY = "one step late", "one step early"
_FROM_NATIVE = "make the episodes by Episode.from_native, which scales them"
_IN_UNITS = "the actions are in the environment's units already, but are stored as if they were scaled to [-1, 1]"
_OVER_LIMIT = (
    "the actions are stored as action / limit, with the larger absolute bound as the limit, and not scaled from their "
    "bounds to [-1, 1]"
)
_BY_OTHER_BOUNDS = "the actions in [-1, 1] are scaled by the bounds of the environment, not by those of the dataset"
_NOT_NATIVE = "the actions are scaled to [-1, 1], but are stored as if they were in the environment's units"


def readings_of(recorded: Sequence[Actions], task: TaskSpec | None, expected: TaskSpec) -> list[Reading]:
    """Return the readings of recorded actions that stay within the bounds of the environment and differ.

    The first one takes the actions as they were recorded; where its actions leave the bounds of the environment, they
    are clipped. The numbers of the others are either those in [-1, 1] or, if the dataset has a task, its native ones.

    Args:
        recorded: The actions of each episode, (T, A) in [-1, 1].
        task: The task of the dataset, with as many numbers of an action as `expected`. None if it is not known.
        expected: The task of the environment.
    """
    free = expected.low < expected.high
    low, high = expected.low[free], expected.high[free]
    limit = np.maximum(np.abs(low), np.abs(high))

    def scaled(native: Sequence[Numbers]) -> list[Numbers]:
        return [2 * (one - low) / (high - low) - 1 for one in native]

    unit = [one.astype(np.float64) for one in recorded]
    candidates = [
        ("native", _IN_UNITS, _FROM_NATIVE, scaled(unit)),
        ("action / limit", _OVER_LIMIT, f"multiply them by the limit, and {_FROM_NATIVE}", scaled(_times(limit, unit))),
    ]
    first = unit
    if task is not None:
        native = [task.native_actions(one, np.float64)[:, free] for one in unit]
        if not (np.array_equal(task.low, expected.low) and np.array_equal(task.high, expected.high)):
            first = scaled(native)
        unscale = "scale them to the bounds, low + (action + 1) / 2 * (high - low)"
        candidates += [
            ("scaled, not native", _NOT_NATIVE, f"{unscale}, and {_FROM_NATIVE} back", native),
            ("scaled by other bounds", _BY_OTHER_BOUNDS, "save them with the task TaskSpec.from_env(env)", unit),
            (
                "action / limit, not native",
                f"{_OVER_LIMIT} or left in the environment's units",
                f"multiply them by the limit, and {_FROM_NATIVE}",
                scaled(_times(limit, native)),
            ),
        ]
    readings = [Reading(AS_RECORDED, "the actions are what the dataset says", "", _as_actions(first))]
    for name, claim, advice, actions in candidates:
        is_possible = all((np.abs(one) <= 1 + 10 * ACTION_TOLERANCE).all() for one in actions)
        if is_possible and not any(_are_close(actions, known.actions) for known in readings):
            readings.append(Reading(name, claim, advice, _as_actions(actions)))
    return readings


def shifted(reading: Reading) -> list[Reading]:
    """Return the same reading of actions that were recorded one step late, and of ones recorded one step early.

    The action that was not recorded is guessed to be its neighbour.
    """
    late = [np.concatenate([one[1:], one[-1:]]) for one in reading.actions]
    early = [np.concatenate([one[:1], one[:-1]]) for one in reading.actions]
    return [
        replace(
            reading,
            name=name,
            claim=f"the actions are {name}: the one in row t was executed in row t {sign} 1",
            advice=f"in each episode, give row t the action of row t {other} 1, and drop the {end} row",
            actions=actions,
            shift=shift,
            judged_by=None,
        )
        for name, sign, other, end, actions, shift in (
            (LATE, "-", "+", "last", late, 1),
            (EARLY, "+", "-", "first", early, -1),
        )
    ]


def rearranged(reading: Reading, arrangement: Arrangement, expected: TaskSpec) -> list[Reading]:
    """Return the same reading with its numbers in another order and with other signs, if these are others.

    They are rearranged in native units and, where that differs, in [-1, 1].
    """
    if arrangement.is_identity:
        return []
    free = expected.low < expected.high
    low, high = expected.low[free], expected.high[free]
    order, signs = arrangement.order, np.array(arrangement.signs)
    unit = [one[:, order].astype(np.float64) * signs for one in reading.actions]
    native = [(low + (one.astype(np.float64) + 1) / 2 * (high - low))[:, order] * signs for one in reading.actions]
    scaled = [2 * (one - low) / (high - low) - 1 for one in native]
    names = number_names(expected)
    wrong = [number for number, stored in enumerate(order) if (stored, signs[number]) != (number, 1)]
    truth = [f"{names[number]} is {'-' if signs[number] < 0 else ''}{names[order[number]]}" for number in wrong]
    claim = f"numbers of the actions are in another order or have another sign: {', '.join(truth)} of the dataset"
    judged_by = sorted({driven for number in wrong for driven in arrangement.driven[number]})
    advice = (
        "rearrange the actions so; if they are right, numbers of the observations are in another order or have another "
        "sign, so rearrange these"
    )
    readings: list[Reading] = []
    for name, actions in (("rearranged", scaled), ("rearranged in [-1, 1]", unit)):
        is_possible = all((np.abs(one) <= 1 + 10 * ACTION_TOLERANCE).all() for one in actions)
        if is_possible and not any(_are_close(actions, known.actions) for known in readings):
            found = Reading(name, claim, advice, _as_actions(actions), reading.shift, judged_by)
            readings.append(found)
    return readings


def number_names(task: TaskSpec) -> list[str]:
    """Return the names of the numbers of an action that are learnt, (A,), such as `arm[0]`."""
    return [
        f"{part.name}[{index}]"
        for part in task.action
        for index, (low, high) in enumerate(zip(part.low, part.high, strict=True))
        if low < high
    ]


def _times(limit: Numbers, actions: Sequence[Numbers]) -> list[Numbers]:
    return [one * limit for one in actions]


def _as_actions(unit: Sequence[Numbers]) -> list[Actions]:
    return [one.clip(-1, 1).astype(np.float32) for one in unit]


def _are_close(some: Sequence[Numbers], others: Sequence[Actions]) -> bool:
    return all(np.allclose(one, other, atol=1e-5) for one, other in zip(some, others, strict=True))
