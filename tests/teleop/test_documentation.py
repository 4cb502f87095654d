"""docs/how-to/teleoperation.md: its device works as it stands, and its tables are those of the devices."""

from __future__ import annotations

import json
import re
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from softflow.task import ActionPart, ObservationPart, TaskSpec
from softflow.teleop import Command, Device, find_device
from softflow.teleop.keyboard import Keyboard

TEXT = (Path(__file__).parents[2] / "docs/how-to/teleoperation.md").read_text()
TASK = TaskSpec((ObservationPart("joints", (2,)),), (ActionPart("target", (-1.0, 0.0), (1.0, 0.5)),), rate=20.0)


@pytest.fixture(scope="module")
def examples() -> None:
    code = "".join(re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL))
    exec(compile(code, "teleoperation.md", "exec", dont_inherit=True), {"__name__": "my_devices"})


@pytest.fixture
def leader_arm(examples: None) -> type[Any]:
    return find_device("leader_arm")


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("", 0))
        port: int = free.getsockname()[1]
    return port


def test_the_device_returns_the_latest_angles(leader_arm: type[Any]) -> None:
    port = free_port()
    device: Device = leader_arm(TASK, port=port)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as arm:
        for angles in ([0.0, 0.0], [0.5, 7.0]):
            arm.sendto(json.dumps(angles).encode(), ("127.0.0.1", port))
    np.testing.assert_array_equal(device.act(), np.float32([0.5, 1]))
    with pytest.raises(TimeoutError, match="sent nothing for a second"):
        device.act()


def test_the_pedal_begins_and_ends_episodes_and_forgets_old_presses(examples: None) -> None:
    port = free_port()
    device = find_device("leader_arm_with_pedal")(TASK, port=free_port(), pedal=port)  # type: ignore[call-arg]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as pedal:
        pedal.sendto(b"begin", ("127.0.0.1", port))
        device.reset()
        assert device.listen([]) == []
        for word in (b"begin", b"end"):
            pedal.sendto(word, ("127.0.0.1", port))
    assert device.listen([]) == [Command.PAUSE, Command.KEEP]


def test_the_table_names_the_keys_of_each_number() -> None:
    rows = re.findall(r"^\| (\d+) \| `(.)` `(.)`", TEXT, re.MULTILINE)
    assert [int(number) for number, *_ in rows] == list(range(8))
    assert [f"{down} {up}" for _, down, up in rows] == list(Keyboard.CONTROLS[:8])
    assert Keyboard.CONTROLS[8:10] == ("L O", "; P") and Keyboard.CONTROLS[10::9] == ("Z 1", "/ 0")
