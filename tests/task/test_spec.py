"""Two descriptions: what tells them apart, and the way through JSON."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from softflow.errors import UserError
from softflow.task import ActionPart, ObservationPart, TaskMismatch, TaskSpec
from tests.task.specs import ARM, GRIPPER, IMAGES, LOCK, NUMBERS

JOINTS, GEAR, BUTTONS, GRID, FORCE = NUMBERS.observation
WRIST, DEPTH, _ = IMAGES.observation


def with_parts(spec: TaskSpec, *parts: ObservationPart) -> TaskSpec:
    """The same with some parts exchanged for those of the same names."""
    changed = {part.name: part for part in parts}
    return replace(spec, observation=tuple(changed.get(part.name, part) for part in spec.observation))


def test_the_text_has_a_line_for_each_part_and_number() -> None:
    state = ObservationPart("state", (2,), names=("shoulder.pos", "elbow.pos"))
    assert str(replace(NUMBERS, observation=(WRIST, DEPTH, GEAR, state))).splitlines() == [
        "task: bench, 50 Hz, success rule any",
        "observations:",
        "  wrist  uint8 2 x 3 x 4   image CHW",
        "  depth  float32 3 x 4     image HW, black 0.5, white 2.5",
        "  gear   int64 one number  categories: 3",
        "  state  float32 2         shoulder.pos, elbow.pos",
        "actions, with bounds:",
        "  arm[0]   -1 to 3",
        "  arm[1]   0 to 0.5",
        "  lock     0.25 to 0.25",
        "  gripper  -1 to 1",
    ]


@pytest.mark.parametrize("spec", [NUMBERS, IMAGES])
def test_a_description_survives_json(spec: TaskSpec) -> None:
    assert TaskSpec.build(json.loads(json.dumps(spec.describe()))) == spec


@pytest.mark.parametrize(
    "described",
    [
        {},
        [],
        None,
        {**NUMBERS.describe(), "observation": [{"name": "a"}]},
        {**NUMBERS.describe(), "observation": [{"name": "a", "shape": [2], "unit": "m"}]},
        {**NUMBERS.describe(), "observation": [{"name": "a", "shape": 2}]},
        {**NUMBERS.describe(), "observation": [{"name": "a", "shape": [2], "dtype": []}]},
        {**NUMBERS.describe(), "action": [{"name": "a", "low": [0]}]},
        {**NUMBERS.describe(), "action": [{"name": "a", "low": [0], "high": [10**400]}]},
        {**NUMBERS.describe(), "action": [{"name": "a", "low": ["zero"], "high": [1]}]},
        {**NUMBERS.describe(), "rate": "fast"},
        {**NUMBERS.describe(), "rate": 0},
        {**NUMBERS.describe(), "success": 1},
    ],
)
def test_anything_else_is_one_clear_error(described: Any) -> None:
    with pytest.raises(ValueError):
        TaskSpec.build(described)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(observation=()), "at least one part of an observation"),
        (dict(action=()), "at least one part of an action"),
        (dict(observation=(FORCE, FORCE)), "two parts of the observation are called 'force'"),
        (dict(action=(GRIPPER, GRIPPER)), "two parts of the action are called 'gripper'"),
        (dict(action=(LOCK,)), "no number of the action has more than one possible value"),
        (dict(rate=-1.0), "positive number of hertz, got -1"),
        (dict(rate=float("nan")), "positive number of hertz, got nan"),
    ],
)
def test_impossible_tasks_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(NUMBERS, **changes)


@pytest.mark.parametrize(
    ("expected", "other", "differences"),
    [
        (NUMBERS, NUMBERS, []),
        (NUMBERS, replace(NUMBERS, rate=None, success="last", name="other"), []),
        (NUMBERS, replace(NUMBERS, rate=50.01), []),  # as a clock measures it
        (NUMBERS, with_parts(NUMBERS, replace(FORCE, dtype="float32")), []),  # a row is float32 in either case
        (IMAGES, with_parts(IMAGES, replace(WRIST, axes="KHW")), []),  # the letters of channels mean nothing
        (NUMBERS, replace(NUMBERS, rate=25.0), ["the control rate is 25 Hz, expected 50 Hz"]),
        (
            NUMBERS,
            replace(NUMBERS, observation=(JOINTS, GEAR, BUTTONS, GRID, ObservationPart("torque", ()))),
            ["observation 'force' is missing", "observation 'torque' is not expected"],
        ),
        (
            NUMBERS,
            with_parts(NUMBERS, replace(JOINTS, shape=(3,)), replace(GEAR, starts=None)),
            [
                "observation 'robot/joints' has shape (3,), expected (2,)",
                "observation 'gear' has the values 0 ... 2, expected the values 1 ... 3",
            ],
        ),
        (
            NUMBERS,
            with_parts(NUMBERS, replace(GRID, categories=None)),
            ["observation 'grid' has numbers, expected the values 0 ... 1, 0 ... 2"],
        ),
        (
            NUMBERS,
            replace(NUMBERS, observation=(GEAR, JOINTS, BUTTONS, GRID, FORCE), action=(LOCK, ARM, GRIPPER)),
            [
                "the observation has the order gear, robot/joints, buttons, grid, force, expected robot/joints, gear, "
                "buttons, grid, force",
                "the action has the order lock, arm, gripper, expected arm, lock, gripper",
            ],
        ),
        (
            NUMBERS,
            replace(NUMBERS, action=(replace(ARM, high=(3.0, 0.7)), replace(LOCK, low=(0.0,)), GRIPPER)),
            [
                "action 'arm' has [1] in 0 ... 0.7, expected 0 ... 0.5",
                "action 'lock' has [0] in 0 ... 0.25, expected 0.25 ... 0.25",
            ],
        ),
        (
            NUMBERS,
            replace(NUMBERS, action=(replace(ARM, low=(-9.0, -8.0)), LOCK, GRIPPER)),
            [
                f"action 'arm' has [0] in -9 ... {ARM.high[0]:g}, expected {ARM.low[0]:g} ... {ARM.high[0]:g} and "
                f"[1] in -8 ... {ARM.high[1]:g}, expected {ARM.low[1]:g} ... {ARM.high[1]:g}"
            ],
        ),
        (
            NUMBERS,
            replace(NUMBERS, action=(ActionPart("arm", (0.0,), (1.0,)), LOCK, GRIPPER)),
            ["action 'arm' has 1 numbers, expected 2"],
        ),
        (
            IMAGES,
            with_parts(IMAGES, replace(WRIST, axes="HWC"), replace(DEPTH, value_range=(0.0, 1.0))),
            [
                "observation 'wrist' is an image with the axes HWC, expected an image with the axes CHW",
                "observation 'depth' has pixels in 0 ... 1 (float32), expected 0.5 ... 2.5 (float32)",
            ],
        ),
        (
            IMAGES,
            with_parts(IMAGES, replace(DEPTH, dtype="uint8", value_range=None), replace(WRIST, axes=None)),
            [
                "observation 'wrist' is numbers, expected an image with the axes CHW",
                "observation 'depth' has pixels in 0 ... 255 (uint8), expected 0.5 ... 2.5 (float32)",
            ],
        ),
    ],
)
def test_every_difference_is_named(expected: TaskSpec, other: TaskSpec, differences: list[str]) -> None:
    assert expected.differences(other) == differences
    if not differences:
        expected.require_same(other, "d.npz")
        return
    with pytest.raises(TaskMismatch, match=re.escape(f"d.npz: {'; '.join(differences)}")) as caught:
        expected.require_same(other, "d.npz")
    assert isinstance(caught.value, UserError)


def test_actions_without_names_are_compared_by_their_bounds() -> None:
    """An environment has one array of actions, a robot's data name the parts of it."""
    low, high = (sum((getattr(part, end) for part in NUMBERS.action), ()) for end in ("low", "high"))
    unnamed = replace(NUMBERS, action=(ActionPart("action", low, high),))
    assert unnamed.differences(NUMBERS) == NUMBERS.differences(unnamed) == []
    other = replace(unnamed, action=(ActionPart("action", (low[0] - 1, *low[1:]), high),))
    assert "action 'action' has [0] in" in NUMBERS.differences(other)[0]
    assert "action 'action' has" in unnamed.differences(replace(NUMBERS, action=NUMBERS.action[:-1]))[0]


def test_bounds_and_shapes_are_numbers_sequences_or_arrays() -> None:
    expected = ActionPart("a", (-1.0, 0.0), (1.0, 2.0))
    assert ActionPart("a", np.array([-1, 0]), np.array([1, 2], np.float32)) == expected  # type: ignore[arg-type]
    assert ActionPart("a", -1, [1.0]) == ActionPart("a", (-1.0,), (1.0,))  # type: ignore[arg-type]
    shape = ObservationPart("q", [np.int64(2), 3])  # type: ignore[arg-type, list-item]
    assert shape == ObservationPart("q", (2, 3)) and type(shape.shape[0]) is int
    for low in (["zero"], [[0.0]], None):
        with pytest.raises(ValueError, match="bounds must be numbers along one axis"):
            ActionPart("a", low, [1.0])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="a shape is a sequence of integers"):
        ObservationPart("q", 3)  # type: ignore[arg-type]


def test_no_observation_is_an_empty_batch() -> None:
    rows, is_batch = TaskSpec((JOINTS,), NUMBERS.action).rows({JOINTS.name: np.zeros((0, *JOINTS.shape))})
    assert is_batch and rows.shape == (0, JOINTS.packed.size)


@pytest.mark.parametrize("dtype", ["01", "(1,", "float33", ""])
def test_a_dtype_that_is_none(dtype: str) -> None:
    with pytest.raises(ValueError, match="is no dtype"):
        ObservationPart("q", (1,), dtype)


def test_no_renaming_is_proposed_for_a_task_with_another_number_of_actions() -> None:
    goal, target = (ObservationPart(name, (2,)) for name in ("goal", "target"))
    one, two = ((ActionPart("torque", (-1.0,) * n, (1.0,) * n),) for n in (1, 2))
    for action, renaming in ((one, "goal=target"), (two, None)):
        with pytest.raises(TaskMismatch) as raised:
            TaskSpec((goal,), one).require_same(TaskSpec((target,), action), "it")
        assert raised.value.renaming == renaming


def test_names_of_numbers_count_where_both_know_them() -> None:
    part = ObservationPart("joints", (2,), names=("pan", "lift"))
    assert ObservationPart.build(json.loads(json.dumps(part.describe()))) == part
    action = (ActionPart("torque", (-1.0,), (1.0,)),)
    task = TaskSpec((part,), action)
    task.require_same(TaskSpec((ObservationPart("joints", (2,)),), action), "it")
    with pytest.raises(TaskMismatch, match="observation 'joints' has the numbers lift, pan, expected pan, lift"):
        task.require_same(TaskSpec((replace(part, names=("lift", "pan")),), action), "it")
    for names in (("pan",), ("pan", "pan"), ("pan", 1)):
        with pytest.raises(ValueError, match="give each of its 2 numbers a name of its own as names"):
            replace(part, names=names)


def test_a_task_is_put_in_the_order_of_another_with_the_same_names() -> None:
    first, second = ObservationPart("joints", (2,)), ObservationPart("goal", (3,))
    arm, hand = ActionPart("arm", (-1.0,), (1.0,)), ActionPart("hand", (0.0, 0.0), (2.0, 2.0))
    task, turned = TaskSpec((first, second), (arm, hand)), TaskSpec((second, first), (hand, arm))
    assert turned.differences(task) and turned.ordered_as(task) == task
    other = TaskSpec((first, ObservationPart("target", (3,))), (arm, hand))
    assert turned.ordered_as(other) == TaskSpec((second, first), (arm, hand))
