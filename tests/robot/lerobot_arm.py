"""An arm with the interface of `lerobot.robots.Robot`, 0.4.4 to 0.6.1, and the packages that open one by its type."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

PACKAGES = {
    "draccus.py": """
class DecodingError(Exception): pass

def decode(base, raw):
    given = dict(raw)
    cls = base.get_known_choices()[given.pop("type")]
    if wrong := [name for name in given if name not in cls.fields]:
        raise DecodingError(f"The fields `{wrong[0]}` are not valid for {cls.__name__}")
    return cls(given)
""",
    "lerobot/__init__.py": "",
    "lerobot/cameras/__init__.py": "",
    "lerobot/robots/__init__.py": """
from tests.robot.lerobot_arm import LeRobotArm

class RobotConfig:
    choices = {}

    def __init__(self, given):
        self.given = given

    @classmethod
    def get_known_choices(cls):
        return cls.choices

def make_robot_from_config(config):
    return LeRobotArm(**config.given)
""",
    "lerobot/robots/small_arm/__init__.py": """
from lerobot.robots import RobotConfig

class SmallArmConfig(RobotConfig):
    fields = ("log", "limit")

RobotConfig.choices["small_arm"] = SmallArmConfig
""",
    "lerobot/robots/without_driver/__init__.py": "import a_driver_that_is_not_installed",
    "lerobot/utils/__init__.py": "",
    "lerobot/utils/import_utils.py": """
def register_third_party_plugins():
    from lerobot.robots import RobotConfig
    from lerobot.robots.small_arm import SmallArmConfig
    RobotConfig.choices["plugin_arm"] = SmallArmConfig
""",
}


def write_packages(folder: Path) -> None:
    """Write modules `lerobot` and `draccus` with the functions and classes by which a type of robot is opened."""
    for name, source in PACKAGES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(source)


class LeRobotArm:
    """Three joints that reach each target at once, and a camera. Its motors' bus takes one request at a time.

    Args:
        log: A file to which each action that was sent is appended, as JSON.
        limit: The largest target, in units of a joint.
    """

    def __init__(self, log: str | None = None, limit: float = 1e9) -> None:
        self._log, self._limit = log, limit
        self._bus = threading.Lock()
        self.positions = {"pan.pos": 0.0, "lift.pos": 0.0, "grip.pos": 0.0}
        self.sent = list[dict[str, float]]()
        self.is_connected = False
        self.is_calibrated = True
        self.calls = list[str]()

    @property
    def observation_features(self) -> dict[str, Any]:
        return {**dict.fromkeys(self.positions, float), "wheel.vel": float, "front": (24, 32, 3)}

    @property
    def action_features(self) -> dict[str, Any]:
        return {**dict.fromkeys(self.positions, float), "wheel.vel": float}

    def connect(self, calibrate: bool = True) -> None:
        assert not self.is_connected
        self.is_connected = True
        self.calls.append("connect")

    def calibrate(self) -> None:
        raise AssertionError("it is calibrated")

    def configure(self) -> None:
        raise AssertionError("connect does this")

    def get_observation(self) -> dict[str, Any]:
        with self._request():
            speed = self.sent[-1]["wheel.vel"] if self.sent else 0.0
            positions = dict(self.positions)
        image = np.zeros((24, 32, 3), np.uint8)
        image[0, 1] = (7, 8, 9)
        return {**positions, "wheel.vel": speed, "front": image}

    def send_action(self, action: dict[str, Any]) -> dict[str, Any]:
        assert set(action) == set(self.action_features) and all(type(value) is float for value in action.values())
        with self._request():
            sent = {name: min(value, self._limit) for name, value in action.items()}
            self.positions = {name: sent[name] for name in self.positions}
            self.sent.append(sent)
        if self._log is not None:
            with open(self._log, "a") as file:
                file.write(json.dumps(sent) + "\n")
        return sent

    def disconnect(self) -> None:
        assert self.is_connected
        self.is_connected = False
        self.calls.append("disconnect")

    @contextmanager
    def _request(self) -> Iterator[None]:
        assert self.is_connected
        assert self._bus.acquire(blocking=False), "two requests at the same time"
        time.sleep(0.001)
        yield
        self._bus.release()
