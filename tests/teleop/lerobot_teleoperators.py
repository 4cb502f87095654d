"""Teleoperators with LeRobot's interface: a leader arm that follows a script, and its configuration."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any


class Events(Enum):
    IS_INTERVENTION = "is_intervention"
    TERMINATE_EPISODE = "terminate_episode"


@dataclass
class LeaderConfig:
    port: str
    id: str | None = None


class Leader:
    config_class, name = LeaderConfig, "leader"

    def __init__(self, config: LeaderConfig) -> None:
        self.config, self.is_connected, self.calls = config, False, 0
        self.angles = {"pan.pos": 10.0, "grip.pos": 250.0}
        self.events = {Events.IS_INTERVENTION: False, Events.TERMINATE_EPISODE: False}

    @property
    def action_features(self) -> dict[str, type]:
        return {"grip.pos": float, "pan.pos": float}

    def connect(self, calibrate: bool = True) -> None:
        if self.config.port == "nowhere":
            raise ConnectionError("no such port")
        self.is_connected = True

    def get_action(self) -> dict[str, float]:
        assert self.is_connected
        return self.angles

    def get_teleop_events(self) -> dict[Any, bool]:
        return self.events
