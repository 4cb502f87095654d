"""LeRobot's teleoperators as devices: names, units and buttons."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from softflow.errors import UserError
from softflow.runs.devices import make_device
from softflow.task import ActionPart, ObservationPart, TaskSpec
from softflow.teleop import Command
from tests.teleop.lerobot_teleoperators import Events

DEVICE, LEADER = "softflow.teleop.lerobot:LeRobotTeleoperator", "tests.teleop.lerobot_teleoperators:Leader"
TASK = TaskSpec(
    (ObservationPart("state", (2,)),),
    (ActionPart("pan.pos", (-100.0,), (100.0,)), ActionPart("grip.pos", (0.0,), (100.0,))),
    rate=30.0,
)
UNNAMED = replace(TASK, action=(ActionPart("action", (-100.0, 0.0), (100.0, 100.0)),))


def opened(task: TaskSpec = TASK, **options: Any) -> Any:
    return make_device(DEVICE, task, {"teleoperator": LEADER, "port": "/dev/ttyACM0", **options})


@pytest.mark.parametrize(("task", "order"), [(TASK, ""), (UNNAMED, "pan.pos, grip.pos")])
def test_numbers_are_found_by_name_and_clipped(task: TaskSpec, order: str) -> None:
    device = opened(task, order=order)
    np.testing.assert_array_equal(device.act(), np.float32([0.1, 1]))
    device._teleoperator.angles["grip.pos"] = float("nan")
    with pytest.raises(ValueError, match="outside its bounds"):
        device.act()


def test_buttons_take_over_and_give_back_when_they_change() -> None:
    device = opened(events=True)
    said = []
    for intervenes, ends in ((False, False), (True, False), (True, False), (False, False), (False, True)):
        device._teleoperator.events = {Events.IS_INTERVENTION: intervenes, Events.TERMINATE_EPISODE: ends}
        said.append(device.listen([]))
    assert said == [[], [Command.TAKE_OVER], [], [Command.GIVE_BACK], [Command.KEEP]]
    silent = opened()
    silent._teleoperator.events[Events.IS_INTERVENTION] = True
    assert silent.listen([]) == []


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        (UNNAMED, {}, r"the action has the numbers action\[0\], action\[1\], the teleoperator gives grip.pos, pan.pos"),
        (TASK, {"order": "pan.pos"}, "by the option `order`"),
        (TASK, {"teleoperator": LEADER.replace("Leader", "Leadr")}, "did you mean 'Leader'"),
        (
            TASK,
            {"teleoperator": LEADER.replace("Leader", "Events")},
            "'Events' does not have the interface of",
        ),
        (TASK, {"teleoperator": "nowhere:Leader"}, "cannot import 'nowhere'"),
        (TASK, {"port": "nowhere"}, "no such port"),
        (TASK, {"prot": "x"}, "prot"),
    ],
)
def test_bad_input_is_refused(task: TaskSpec, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        opened(task, **options)
