"""docs/how-to/robot.md: its robot works as it stands."""

from __future__ import annotations

import json
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from softflow.robot import ControlLoop, LoopSettings, Stopped

TEXT = (Path(__file__).parents[2] / "docs/how-to/robot.md").read_text()
JOINTS = [0.5, 0.25, 0.0, 0.0, 0.0, -0.5]


class Controller:
    """What the arm of the documentation speaks to."""

    def __init__(self) -> None:
        self.received, self.is_pressed = list[Any](), False
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self) -> None:
        while True:
            message, sender = self.socket.recvfrom(4096)
            told = json.loads(message)
            if told["do"] in ("home", "read"):
                state = {"joints": JOINTS, "emergency_stop": self.is_pressed}
                self.socket.sendto(json.dumps(state).encode(), sender)
            if told["do"] != "read":
                self.received.append(told)


@pytest.fixture
def controller() -> Controller:
    return Controller()


@pytest.fixture
def loop(controller: Controller) -> Iterator[ControlLoop]:
    [code] = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    names: dict[str, Any] = {"__name__": "my_arm"}
    exec(compile(code.replace("seconds=0.05", "seconds=20.0"), "robot.md", "exec", dont_inherit=True), names)
    robot = names["Arm"](*controller.socket.getsockname())

    def choose(observation: Any, previous: Any) -> np.ndarray:
        return np.tile(observation["joints"], (4, 1))

    def limit(action: np.ndarray, previous: np.ndarray | None) -> np.ndarray:
        assert previous is not None and previous.tolist() == pytest.approx(JOINTS)  # the posture at first
        return action

    settings = LoopSettings(100.0, 1, synchronous=True, max_steps=3, stall=20.0, patience=20.0)
    yield ControlLoop(robot, robot.task, choose, settings, limit)
    robot.close()


def wait_for(controller: Controller, number: int) -> list[Any]:
    while len(controller.received) < number:
        threading.Event().wait(0.001)
    return controller.received


def test_the_robot_is_controlled(loop: ControlLoop, controller: Controller, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builtins.input", lambda question: "y")
    assert loop.run_episode() == (3, True)
    move = {"do": "move", "target": pytest.approx(JOINTS)}
    assert wait_for(controller, 5) == [{"do": "home"}, move, move, move, {"do": "brake"}]


def test_its_emergency_stop_stops_it(loop: ControlLoop, controller: Controller) -> None:
    controller.is_pressed = True
    with pytest.raises(Stopped, match="its own emergency stop is pressed"):
        loop.run_episode()
    assert wait_for(controller, 2) == [{"do": "home"}, {"do": "brake"}]
